"""The README: its code runs, its links exist, its table is the registry."""

import pathlib
import re

import pytest

from tokpress_jax import registry
from tokpress_jax.report import methods

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()
PAGES = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'launch/README.md']


def test_code_runs():
  blocks = re.findall(r'```python\n(.*?)```', README, re.S)
  assert len(blocks) >= 3
  names: dict[str, object] = {}
  for block in blocks:
    exec(block, names)  # Later blocks use the names of earlier ones.
  assert names['tokens'].features.shape == (2, 98, 64)
  assert [x.shape for x in names['cache']] == [(2, 4, 64, 16)] * 2
  gradient = names['jax'].grad(names['loss'])(names['features'][..., 0])
  assert (gradient != 0).all()
  assert names['out'].tokens.features.shape == (2, 7, 32)
  small, large = names['squeeze'](names['images'], names['jnp'].array([1, 16]))
  assert small.shape == (32, 32, 3)
  assert abs(small - large).max() > 1e-6  # The budget makes a difference.


@pytest.mark.parametrize('page', PAGES)
def test_links_and_scripts_exist(page):
  path = ROOT / page
  text = path.read_text()
  for link in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', text):
    assert (path.parent / link).exists(), link
  for script in re.findall(r'\./(launch/\w+\.sh)', text):
    assert (ROOT / script).exists(), script
  for config in re.findall(r'configs/[a-z]\w+\.py', text):
    assert (ROOT / config).exists(), config


@pytest.mark.parametrize('page', PAGES)
def test_anchors_exist(page):
  path = ROOT / page
  for link, anchor in re.findall(r'\]\(([^)#:]*)#([^)]+)\)', path.read_text()):
    target = path.parent / link if link else path
    heads = re.findall(r'^#+ (.+)$', target.read_text(), re.M)
    slugs = {re.sub(r'[^\w -]', '', h).lower().replace(' ', '-') for h in heads}
    assert anchor in slugs


def test_every_method_has_its_row():
  rows = re.findall(r'^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \|$', README, re.M)
  shown = {name: (family, paper, how) for name, family, paper, how in rows}
  families = ('tokenizer', 'generator', 'model', 'encoder')
  for family in families:
    for entry in registry.entries(family):
      if entry.paper:
        assert shown.pop(entry.name) == (
          entry.family,
          entry.paper,
          entry.evidence,
        )
  assert not shown


def test_the_table_of_pruners_is_that_of_the_code():
  assert methods.pruner_table() in README, (
    'paste what `tokpress list pruners --markdown` prints'
  )


def test_lines_of_code_leave_out_what_is_said():
  lines = [
    '"""A page."""',
    '',
    'x = 1  # one',
    'def f():',
    '  """Says.',
    '  More."""',
    '  # why',
    '  return (',
    '    x',
    '  )',
  ]
  assert methods.code_lines('\n'.join(lines)) == 5


def test_commands_exist():
  from tokpress_jax import __main__ as cli

  for page in PAGES:
    text = (ROOT / page).read_text()
    used = set(re.findall(r'(?:^|`)tokpress (\w+)', text, re.M))
    assert used <= set(cli._COMMANDS), page
