"""Configs as values: JSON both ways, identity, differences, files."""

import dataclasses
import json

import cli_tiny
import cli_tiny_config
import pytest

from tokpress_jax import config as config_lib
from tokpress_jax import registry, workdir
from tokpress_jax.config import Config
from tokpress_jax.errors import UserError
from tokpress_jax.tokenizers import MultiScaleConfig, OneDConfig
from tokpress_jax.types import Ratio


@pytest.fixture
def config():
  return cli_tiny_config.get_config()


def replace(config, dotted, value):
  first, _, rest = dotted.partition('.')
  if rest:
    value = replace(getattr(config, first), rest, value)
  return dataclasses.replace(config, **{first: value})


def test_json_round_trip(config):
  config = replace(config, 'optim.multipliers', (('head', 0.5), ('', 2.0)))
  data = json.loads(json.dumps(config_lib.to_json(config)))
  assert data['task'] == {
    'type': 'tiny',
    'precision': 'float32',
    'width': 2,
  }
  assert config_lib.from_json(data) == config


# Tasks have required fields; the configs in configs/ have their own test.
@pytest.mark.parametrize(
  'name', [e.name for e in registry.entries() if e.family != 'task']
)
def test_every_registered_config_round_trips(name):
  value = registry.resolve(name)()
  data = json.loads(json.dumps(config_lib.to_json(value)))
  assert registry.name_of(type(value)) == name == data['type']
  assert config_lib.from_json(data, object) == value


def test_a_union_keeps_its_type():
  pruner = registry.resolve('top_norm')(budget=Ratio(ratio=0.3))
  again = config_lib.from_json(config_lib.to_json(pruner), object)
  assert again == pruner


def test_unregistered_class_is_refused(config):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Other(cli_tiny.TinyTask):
    pass

  with pytest.raises(UserError, match='task holds a Other'):
    config_lib.to_json(dataclasses.replace(config, task=Other()))


@pytest.mark.parametrize(
  'path, value, message',
  [
    ('train.stpes', 3, "train .*unknown field 'stpes'. Did you mean 'steps'"),
    ('train.steps', '3', 'train.steps is "3"; expected int'),
    ('train.steps', 0, 'train: TrainConfig: steps=0'),
    ('task.type', 'os:system', "no model, pruner or task 'os:system'"),
    ('task.type', 'one_d', "task has type 'one_d'; expected a Task"),
    ('optim.name', 'adma', 'optim.name is "adma"; expected .*adamw'),
    ('mesh.max_unsharded', None, 'expected float'),
  ],
)
def test_bad_json_names_the_field(config, path, value, message):
  data = config_lib.to_json(config)
  part, _, field = path.partition('.')
  data[part][field] = value
  with pytest.raises(UserError, match=message):
    config_lib.from_json(data)


def test_missing_field(config):
  data = config_lib.to_json(config)
  del data['task']
  with pytest.raises(UserError, match="missing field 'task'"):
    config_lib.from_json(data)


def test_identity_and_diff(config):
  marked = config_lib.identity(config)
  assert marked['task.type'] == 'tiny' and marked['task.width'] == 2
  assert 'train.seed' in marked and 'data.name' in marked
  assert not {'name', 'train.steps', 'mesh.fsdp', 'data.workers'} & set(marked)
  other = replace(replace(config, 'train.seed', 1), 'train.steps', 9)
  assert config_lib.diff(config, other) == [
    'train.steps: 3 -> 9',
    'train.seed: 0 -> 1',
  ]
  only = config_lib.diff(config, other, only_identity=True)
  assert only == ['train.seed: 0 -> 1']


def test_load_errors(tmp_path):
  (tmp_path / 'digits.py').write_text('x = 1\n')
  with pytest.raises(UserError, match=r'no config file.*mean digits\.py'):
    config_lib.load(tmp_path / 'digit.py')
  with pytest.raises(UserError, match='defines no get_config'):
    config_lib.load(tmp_path / 'digits.py')
  (tmp_path / 'four.py').write_text('def get_config():\n  return 4\n')
  with pytest.raises(UserError, match='returned int'):
    config_lib.load(tmp_path / 'four.py')


class TestWorkdir:
  def test_another_run_is_refused_with_the_difference(self, config, tmp_path):
    assert workdir.claim(tmp_path / 'run', config) == []
    other = replace(config, 'train.seed', 5)
    assert workdir.claim(tmp_path / 'run', other) == []  # No step done yet.
    (tmp_path / 'run' / 'metrics.jsonl').touch()
    with pytest.raises(UserError, match=r'train.seed: 5 -> 0'):
      workdir.claim(tmp_path / 'run', config)
    assert workdir.read_config(tmp_path / 'run') == other

  def test_other_changes_are_logged(self, config, tmp_path, caplog):
    workdir.claim(tmp_path, config)
    (tmp_path / 'metrics.jsonl').touch()
    more = replace(config, 'train.steps', 9)
    assert workdir.claim(tmp_path, more) == ['train.steps: 3 -> 9']
    assert 'train.steps: 3 -> 9' in caplog.text
    assert workdir.read_config(tmp_path).train.steps == 9

  def test_foreign_and_missing(self, config, tmp_path):
    (tmp_path / 'holiday.jpg').touch()
    with pytest.raises(UserError, match='is not a work directory'):
      workdir.claim(tmp_path, config)
    with pytest.raises(UserError, match=r'has no config\.json'):
      workdir.read_config(tmp_path)
    with pytest.raises(UserError, match='does not exist'):
      workdir.read_config(tmp_path / 'none')


def test_type_of_config_is_checked():
  assert config_lib.to_json(OneDConfig())['type'] == 'one_d'
  with pytest.raises(UserError, match='expected a OneDConfig'):
    config_lib.from_json(config_lib.to_json(MultiScaleConfig()), OneDConfig)
  assert dataclasses.fields(Config)[1].metadata['identity']
