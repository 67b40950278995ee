"""setup.cfg, constraints.txt, the README and the changelog agree."""

import configparser
import pathlib
import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _setup():
  parser = configparser.ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  return parser


def _requirements(text):
  return [Requirement(line) for line in text.split('\n') if line.strip()]


def _pins():
  lines = (ROOT / 'constraints.txt').read_text().splitlines()
  pins = [line.split('==') for line in lines if not line.startswith('#')]
  return {canonicalize_name(name): version for name, version in pins}


def test_every_tested_requirement_is_pinned_within_its_bound():
  setup, pins = _setup(), _pins()
  extras = setup['options.extras_require']
  texts = [setup['options']['install_requires']]
  texts += [extras[e] for e in ('test', 'demo', 'viz', 'tensorboard', 'parity')]
  for requirement in (r for text in texts for r in _requirements(text)):
    version = pins[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), requirement


def test_library_has_lower_bounds_only():
  setup = _setup()
  extras = setup['options.extras_require']
  texts = [setup['options']['install_requires']]
  texts += extras.values()
  for requirement in (r for text in texts for r in _requirements(text)):
    if requirement.name != 'torch':  # Exact: other builds do not install.
      assert {s.operator for s in requirement.specifier} <= {'>='}, requirement


def test_constraints_name_no_source():
  text = (ROOT / 'constraints.txt').read_text()
  assert not re.search(r'^-|://|@|\+', text, re.M)


def test_readme_lists_the_extras():
  extras = set(_setup()['options.extras_require'])
  text = (ROOT / 'README.md').read_text()
  sentence = re.search(r'^Extras: (.*?)\.\n\n', text, re.M | re.S).group(1)
  named = set(re.findall(r'`([a-z]+)`', sentence))
  assert named == extras


def test_changelog_has_this_version():
  version = _setup()['metadata']['version']
  assert f'## {version}' in (ROOT / 'CHANGELOG.md').read_text()
