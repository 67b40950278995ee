"""The package as a whole: what imports cost, pull in, and may import."""

import ast
import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

import tokpress_jax
from tokpress_jax import config as config_lib
from tokpress_jax import registry

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'tokpress_jax'
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
HEAVY = (
  'grain',
  'matplotlib',
  'orbax',
  'sklearn',
  'skimage',
  'tensorflow',
  'tensorflow_datasets',
  'torch',
  'tyro',
)


def python(code):
  """Runs code in a fresh interpreter; returns the JSON that it prints."""
  env = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=env,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def cpu_seconds(module):
  """The least processor time of three fresh imports.

  Processor time, because another process may hold the machine; the least of
  three, because the first one may have to write or read bytecode.
  """
  code = (
    f'import time; start = time.process_time(); import {module}; '
    'print(time.process_time() - start)'
  )
  return min(python(code) for _ in range(3))


def test_import_takes_under_a_second_beyond_jax():
  """Names are lazy: about 0.01 s is usual, so the bound is generous."""
  assert cpu_seconds('jax, tokpress_jax') - cpu_seconds('jax') < 1.0


def test_import_pulls_in_nothing_heavy_even_when_all_names_are_used():
  found = python(
    'import json, sys, tokpress_jax as t\n'
    f'loaded = lambda: [m for m in {HEAVY} if m in sys.modules]\n'
    'bare = loaded()\n'
    'for name in t.__all__: getattr(t, name)\n'
    'print(json.dumps([bare, loaded()]))'
  )
  assert found == [[], []]


def modules():
  return sorted(PACKAGE.rglob('*.py'))


def dotted(path):
  """'nn.norms' for tokpress_jax/nn/norms.py; 'nn' for its __init__."""
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@pytest.mark.parametrize('name', tokpress_jax.__all__)
def test_public_name_resolves(name):
  assert getattr(tokpress_jax, name) is not None
  assert name in dir(tokpress_jax)


def test_unknown_names_raise():
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    _ = tokpress_jax.lod


def test_names_exported_by_each_package_exist():
  packages = [p for p in modules() if p.name == '__init__.py']
  assert len(packages) > 10
  for path in packages:
    name = '.'.join(('tokpress_jax', dotted(path))).rstrip('.')
    module = importlib.import_module(name)
    exported = getattr(module, '__all__', [])
    assert len(exported) == len(set(exported)), name
    missing = [n for n in exported if not hasattr(module, n)]
    assert not missing, (name, missing)


def test_registry_rows_resolve_and_name_themselves():
  for entry in registry.entries():
    assert registry.name_of(registry.resolve(entry.name)) == entry.name


# Imports go down this list or stay on a line; the longest name decides.
LAYERS = (
  (
    'types',
    'arrays',
    'errors',
    'registry',
    'flow',
    'inference',
    'nn',
    'quantize',
    'io',
  ),
  ('losses', 'metrics'),
  ('tokenizers',),
  ('generators',),
  ('pruners',),
  ('models',),
  ('data', 'viz'),
  # Model directories hold configs, and may be those of a run.
  (
    'config',
    'workdir',
    'train',
    'released',
    'io.convert',
    'io.export',
    'io.load',
    'io.stablehlo',
    'bench',
    'report',
  ),
  ('cli', '__main__'),
)
# Two families that know nothing of each other, though one is listed first.
APART = (('tokenizers', 'generators'), ('pruners', 'models'))


def part_of(name):
  """The listed part that a module belongs to, and its layer."""
  found = [
    (len(part), part, depth)
    for depth, parts in enumerate(LAYERS)
    for part in parts
    if name == part or name.startswith(part + '.')
  ]
  assert found, f'{name} is on no layer: add it to LAYERS'
  _, part, depth = max(found)
  return part, depth


def imports(path):
  """Names below tokpress_jax that a file imports, also inside functions."""
  tree = ast.parse(path.read_text())
  for_types = {
    id(inner)
    for node in ast.walk(tree)
    if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
    for inner in ast.walk(node)
  }
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    for name in names:
      top, _, rest = name.partition('.')
      if top == 'tokpress_jax' and rest and id(node) not in for_types:
        yield rest


def test_imports_go_one_way():
  wrong, seen = [], 0
  apart = {frozenset((a, b)) for a in APART[0] for b in APART[1]}
  for path in modules():
    name = dotted(path)
    if not name:  # the lazy top
      assert not list(imports(path))
      continue
    part, depth = part_of(name)
    for target in imports(path):
      seen += 1
      other, below = part_of(target)
      if below > depth or frozenset((part, other)) in apart:
        wrong.append(f'{name} imports {target}')
  assert not wrong
  assert seen > 200  # the sources were read at all


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_file_builds_and_round_trips(path):
  config = config_lib.load(path)
  assert config.name == path.stem
  again = config_lib.from_json(
    json.loads(json.dumps(config_lib.to_json(config)))
  )
  assert again == config and hash(again) == hash(config)
  assert config.task.model.build().config == config.task.model
  # Its parts are listed by `tokpress list`.
  assert registry.name_of(type(config.task)) is not None
  listed = {entry.name for entry in registry.list_models()}
  assert registry.name_of(type(config.task.model)) in listed


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_file_says_how_it_is_run(path):
  text = ast.get_docstring(ast.parse(path.read_text()))
  assert f'tokpress train configs/{path.name} --workdir runs/' in text
  assert 'Hardware: ' in text


def test_there_is_a_config_for_every_task():
  used = {registry.name_of(type(config_lib.load(p).task)) for p in CONFIGS}
  # Other tests register toys of their own.
  ours = [e for e in registry.entries('task') if 'tokpress_jax.' in e.target]
  assert used == {entry.name for entry in ours}


def test_commands_keep_compiled_programs(tmp_path):
  """But those that time compilation, and as far as JAX has no other place."""
  code = (
    'import json, os, tokpress_jax.__main__ as m\n'
    f'os.environ["HOME"] = {str(tmp_path)!r}\n'
    'os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)\n'
    'm.main([{!r}, *{!r}])\n'
    'import jax; print(json.dumps(jax.config.jax_compilation_cache_dir))'
  )
  assert python(code.format('bench', [])) is None
  place = tmp_path / '.cache' / 'tokpress_jax' / 'programs'
  assert python(code.format('list', ['models'])) == str(place)
