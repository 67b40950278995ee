"""The training step's row, on a task whose operations are known."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tokpress_jax import bench
from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.errors import UserError
from tokpress_jax.train.config import MeshConfig, TrainConfig
from tokpress_jax.train.task import Program, Task

PIXELS, WIDTH, BATCH = 64, 16, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Task):
  """A linear autoencoder of 8x8 images."""

  groups = (('encoder', 'encoder'), ('decoder', 'decoder'))

  def init(self, rng):
    a, b = jax.random.split(rng)
    return {
      'params': {
        'encoder': 0.1 * jax.random.normal(a, (PIXELS, WIDTH)),
        'decoder': 0.1 * jax.random.normal(b, (WIDTH, PIXELS)),
      }
    }

  def loss(self, variables, batch, rng, step):
    params = variables['params']
    x = batch['image'].reshape(BATCH, PIXELS) / 127.5 - 1
    return (
      jnp.mean((x @ params['encoder'] @ params['decoder'] - x) ** 2),
      {},
      {},
    )

  def programs(self):
    return tuple(
      Program(name=name, group=name, loss=self.loss)
      for name in ('encoder', 'decoder')
    )


@pytest.fixture
def config(monkeypatch, tmp_path):
  pytest.importorskip('sklearn')
  monkeypatch.setenv('TOKPRESS_DATA_DIR', str(tmp_path))
  return Config(
    name='linear',
    task=Linear(),
    data=DataConfig(name='digits'),
    train=TrainConfig(batch_size=BATCH),
    mesh=MeshConfig(data=2, fsdp=4),
  )


def test_every_program_has_a_row(config):
  report = bench.run('train_step', config=config, repeats=2, size=64)
  encoder, decoder = report['rows']
  product = 2 * BATCH * PIXELS * WIDTH
  # Two products forward; backward, the encoder's gradient needs two more and
  # the decoder's one.
  assert encoder['flops'] == 4 * product
  assert decoder['flops'] == 3 * product
  for row in (encoder, decoder):
    assert row['parameters'] == 2 * PIXELS * WIDTH
    assert row['flop_per_second'] == row['flops'] / row['seconds']
    assert row['images_per_second'] == BATCH / row['seconds']
    assert row['utilization'] == pytest.approx(
      row['flop_per_second'] / row['peak_flop_per_second']
    )
  assert [r['name'] for r in (encoder, decoder)] == [
    'linear/encoder',
    'linear/decoder',
  ]


def test_config_is_needed_and_must_exist(tmp_path):
  with pytest.raises(UserError, match='needs config'):
    bench.run('train_step')
  with pytest.raises(UserError, match=r'absent\.py'):
    bench.run('train_step', config=tmp_path / 'absent.py')
