"""A generator trained from a cache of tokens, and on the fly: the same run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_models

from tokpress_jax import __main__ as entry
from tokpress_jax import data
from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.errors import UserError
from tokpress_jax.io import export, token_sets, tokens
from tokpress_jax.train import loop
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import (
  ClassifierTask,
  GeneratorTask,
  TokenizerTask,
)


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A tokenizer, the digits, and both splits of them as tokens."""
  root = tmp_path_factory.mktemp('cache')
  tokenizer = tiny_models.scale_wise().tokenizer
  export.export(tokenizer.module, tokenizer.variables, root / 'tokenizer')
  for split in ('train', 'test'):
    argv = ['encode', root / 'tokenizer', '--data', 'digits', '--split', split]
    argv += ['--data-dir', root / 'data', '--out', root / 'tokens']
    argv += ['--shards', '2', '--batch-size', '256']
    assert entry.main(list(map(str, argv))) == 0
  return root


def config(here, **fields):
  task = GeneratorTask(
    model=tiny_models.SCALE_WISE, tokenizer=str(here / 'tokenizer')
  )
  return Config(
    name='cached',
    task=task,
    data=DataConfig(**fields),
    train=TrainConfig(steps=4, batch_size=64, log_every=1, eval_every=2),
    optim=OptimConfig(  # VAR's recipe
      learning_rate=0.01,
      schedule='warmup-hold-linear',
      warmup_steps=1,
      warmup_scale=0.005,
      weight_decay=0.05,
      weight_decay_end=0.08,
    ),
  )


def rows(config, workdir):
  loop.fit(config, workdir, devices=jax.devices()[:1])
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  kept = lambda name: not name.startswith(('seconds/', 'images_per'))
  return [{k: v for k, v in json.loads(x).items() if kept(k)} for x in lines]


def test_both_ways_are_the_same_run(here, tmp_path):
  live = config(here, name='digits', data_dir=str(here / 'data'))
  cached = config(here, name='tokens', data_dir=str(here / 'tokens'))
  a, b = rows(live, tmp_path / 'live'), rows(cached, tmp_path / 'cached')
  assert len(a) == len(b) == 6 and 'eval/loss_5' in a[-1]
  assert a[-1]['eval/loss'] < a[2]['eval/loss']  # it learns
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for name in x:
      np.testing.assert_allclose(x[name], y[name], rtol=1e-5, err_msg=name)


def test_cached_codes_are_those_of_the_step(here):
  live = config(here, name='digits', data_dir=str(here / 'data'))
  cached = config(here, name='tokens', data_dir=str(here / 'tokens'))
  streams = [data.Stream(c.data, batch_size=64, seed=0) for c in (live, cached)]
  task = live.task.bind(streams[0].info)
  frozen = {'frozen': task.constants()}
  codes = jax.jit(
    lambda batch: task._targets(frozen, batch, jax.random.key(0), None)[0]
  )
  for step in (0, 31):
    a, b = (stream.batch_at(step) for stream in streams)
    np.testing.assert_array_equal(codes(a), b['codes'][..., 0])
    np.testing.assert_array_equal(a['label'], b['label'])
    np.testing.assert_array_equal(a['index'], b['index'])


def info_of(here):
  fields = {'name': 'tokens', 'data_dir': str(here / 'tokens')}
  return data.open_dataset(DataConfig(**fields)).info


def test_the_data_decides_what_it_does_for_images(here):
  task = config(here).task
  model = dataclasses.replace(task.model, num_classes=3, codebook_size=7)
  bound = dataclasses.replace(task, model=model).bind(info_of(here))
  assert bound.model.num_classes == 10 and bound.model.codebook_size == 16


def test_tokens_of_another_tokenizer(here, tmp_path):
  other = tiny_models.scale_wise().tokenizer
  variables = jax.tree.map(lambda x: x * 1.5, other.variables)
  export.export(other.module, variables, tmp_path / 'other')
  task = dataclasses.replace(
    config(here).task, tokenizer=str(tmp_path / 'other')
  )
  message = r'tokens .--data\.data-dir. was encoded by another tokenizer'
  with pytest.raises(UserError, match=message):
    task.bind(info_of(here))


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'boundaries': (1, 4)}, r'\(1, 4\).*\(1, 5\)'),
    ({'codebook_size': 8}, '8'),
    ({'num_codes': 2}, '2'),
    ({'tokens': 1}, 'holds 1 of the 5 tokens of each image'),
  ],
)
def test_tokens_of_another_layout(here, fields, message):
  info = info_of(here)
  header = dataclasses.replace(info.tokens, **fields)
  with pytest.raises(UserError, match=message):
    config(here).task.bind(dataclasses.replace(info, tokens=header))


@pytest.mark.parametrize(
  'task',
  [
    TokenizerTask(model=tiny_models.MULTI_SCALE),
    ClassifierTask(model=tiny_models.VIT),
  ],
)
def test_other_tasks_need_images(here, task):
  with pytest.raises(UserError, match='only generators train'):
    task.bind(info_of(here))


def test_a_run_on_an_unfinished_cache_does_not_start(here, tmp_path):
  whole = here / 'tokens'
  first = token_sets.shard_path(tmp_path, 'train', 0, 2)
  first.write_bytes((whole / first.name).read_bytes())
  assert len(tokens.Reader([first])) == 750
  unfinished = config(here, name='tokens', data_dir=str(tmp_path))
  with pytest.raises(UserError, match=r'1 are missing \(1\)'):
    loop.fit(unfinished, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
