"""TiTok's two stages on tiny images: proxy codes, then the decoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
import toys

from tokpress_jax import losses
from tokpress_jax.config import Config
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io import export
from tokpress_jax.io import load as load_lib
from tokpress_jax.quantize import VQConfig
from tokpress_jax.tokenizers import (
  MaskGITVQGANConfig,
  TiTokConfig,
  TowerConfig,
)
from tokpress_jax.train import tree
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.loop import fit
from tokpress_jax.train.tasks import (
  AdversaryConfig,
  ProxyTask,
  TokenizerTask,
)

B, SIZE, PATCH = 4, 16, 8
GRID = SIZE // PATCH
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=SIZE,
  channels=3,
  num_classes=0,
)
VQGAN = MaskGITVQGANConfig(
  image_size=SIZE,
  patch=PATCH,
  width=4,
  multipliers=(1, 1, 1, 1),
  blocks=1,
  groups=2,
  quantizer=VQConfig(codebook_size=8, dim=4),
)
TOWER = TowerConfig(width=16, depth=1, heads=2)
MODEL = TiTokConfig(
  image_size=SIZE,
  patch=PATCH,
  tokens=4,
  encoder=TOWER,
  decoder=TOWER,
  # Moving averages and revivals, which the second stage must not move.
  quantizer=VQConfig(
    codebook_size=8, dim=4, learning='ema', decay=0.5, revive_below=0.3
  ),
  vqgan=VQGAN,
)
# As it was trained: how its codes were learned is nothing to a painter.
TRAINED = dataclasses.replace(
  VQGAN, quantizer=VQConfig(codebook_size=8, dim=4, learning='ema')
)
KEY, STEP = jax.random.key(3), jnp.int32(0)


@functools.cache
def vqgan():
  images = jnp.zeros((1, SIZE, SIZE, 3))
  return tiny_models.loaded(TRAINED, 'tokenizer', images)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('proxy')
  export.export(vqgan().module, vqgan().variables, path / 'vqgan')
  return path


def proxy_task(folder, **options):
  options = {'lengths': 'none', **options}
  task = ProxyTask(model=MODEL, proxy=str(folder / 'vqgan'))
  return dataclasses.replace(task, **options).bind(INFO)


DATA = toys.noise(INFO)
BATCH = next(DATA.Stream(None, batch_size=B, seed=1).batches())
BATCH |= {'valid': np.array([True, True, True, False])}
PIXELS = np.float32(BATCH['image']) / 127.5 - 1


def drawn(task):
  """Any variables: a fresh start would leave heads at zero."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  draw = lambda x: np.float32(rng.normal(size=x.shape) * 0.3)
  variables = {k: jax.tree.map(draw, v) for k, v in shapes.items()}
  variables['codebook'] = jax.tree.map(
    lambda x: 0.5 + abs(x), variables['codebook']
  )
  return variables | {'frozen': task.constants()}


def test_loss_is_the_cross_entropy_of_the_vqgans_codes(folder):
  task = proxy_task(folder)
  variables = drawn(task)
  (program,) = task.programs()
  run = jax.jit(lambda v, b: program.loss(v, b, KEY, STEP))
  total, found, updates = run(variables, BATCH)

  @jax.jit
  def parts(variables, loaded):
    own = {k: v for k, v in variables.items() if k != 'frozen'}
    length = jnp.full((B,), MODEL.tokens)
    out = MODEL.build().apply(own, PIXELS, length, method='predict')
    return loaded.encode(PIXELS).codes, out.logits

  codes, logits = parts(variables, vqgan())
  assert logits.shape == (B, GRID, GRID, 8) and len(np.unique(codes)) > 1
  logits = np.float64(logits)
  log_z = np.log(np.exp(logits).sum(-1))
  codes = np.asarray(codes).reshape(B, GRID, GRID)  # Rows, then columns.
  chosen = np.take_along_axis(logits, codes[..., None], -1)[..., 0]
  want = (log_z - chosen)[:3].mean()  # The last image is padding.
  np.testing.assert_allclose(found['cross_entropy'], want, rtol=1e-5)
  right = (logits.argmax(-1) == codes)[:3].mean()
  np.testing.assert_allclose(found['accuracy'], right, rtol=1e-5)
  np.testing.assert_allclose(total, want + found['commitment'], rtol=1e-5)
  assert updates['stats'].count.sum() == 3 * MODEL.tokens
  # What is padding holds anything.
  junk = BATCH | {'image': BATCH['image'].copy()}
  junk['image'][3] = 255 - junk['image'][3]
  np.testing.assert_allclose(run(variables, junk)[0], total, rtol=1e-6)
  evaluated = jax.jit(lambda v, b: task.evaluate(v, b, KEY))(variables, BATCH)
  np.testing.assert_allclose(
    evaluated['cross_entropy'], (3 * want, 3), rtol=1e-5
  )
  np.testing.assert_allclose(evaluated['accuracy'], (3 * right, 3), rtol=1e-5)


def test_random_prefixes(folder):
  model = dataclasses.replace(MODEL, prefixes='any')
  task = proxy_task(folder, model=model, lengths='batch', full=0.0)
  variables = drawn(task)
  (program,) = task.programs()
  run = jax.jit(lambda v, k: program.loss(v, BATCH, k, STEP)[1])
  found = [run(variables, jax.random.key(i)) for i in range(8)]
  lengths = {float(f['mean_length']) for f in found}
  assert len(lengths) > 1 and lengths <= {1.0, 2.0, 3.0, 4.0}
  losses = {float(f['mean_length']): f['cross_entropy'] for f in found}
  assert len(set(map(float, losses.values()))) == len(lengths)


def config(task, **train):
  train = {'steps': 3, 'batch_size': B, 'log_every': 1, **train}
  return Config(
    name='tiny',
    task=task,
    train=TrainConfig(checkpoint_every=10, **train),
    optim=OptimConfig(learning_rate=0.01, schedule='constant'),
  )


@pytest.fixture(scope='module')
def stages(folder):
  """The variables before, between and after the stages, and the metrics."""
  first = proxy_task(folder)
  run = functools.partial(fit, devices=jax.devices()[:1], data=DATA)
  found = [run(config(first), folder / 'codes')]
  second = TokenizerTask(
    model=MODEL,
    loss_weight=0.25,
    lengths='none',
    adversary=AdversaryConfig(
      weight=0.01,
      scaling='fixed',
      start=1,
      lecam=0.001,
      network=losses.BlurDiscriminatorConfig(
        width=4, layers=1, places=4, groups=2
      ),
    ),
  )
  train = {
    'ema_decay': 0.5,
    'freeze': '^(encoder|quantizer)/',
    'init_from': str(folder / 'codes'),
    'init_regex': '^(params|codebook)/(encoder|quantizer|decoder|painter)/',
  }
  found.append(run(config(second, **train), folder / 'decoder'))
  read = lambda name: load_lib.load_variables(folder / name)
  return read('codes'), read('decoder'), found, second


def changed(a, b):
  """The first words of the names of the leaves that differ."""
  a, b = tree.named(a), tree.named(b)
  return {
    '/'.join(n.split('/')[:3]) for n in a if n in b and np.any(a[n] != b[n])
  }


def test_first_stage_paints_as_its_vqgan_and_leaves_the_painter(stages):
  codes, _, (found, _), _ = stages
  theirs = vqgan().variables
  painter = codes['params']['painter']
  jax.tree.map(
    np.testing.assert_array_equal,
    painter['decoder'],
    theirs['params']['decoder'],
  )
  np.testing.assert_array_equal(
    painter['codebook'], theirs['codebook']['quantizer']['codebook']
  )
  assert {'project', 'to_logits'} < set(painter)
  assert np.isfinite(found['eval/psnr']) and found['eval/accuracy'] >= 0
  assert found['commit_norm'] > 0


def test_second_stage_moves_the_decoder_alone(stages):
  codes, decoder, (_, found), task = stages
  moved = changed(codes, decoder)
  # Embeddings, positions and layers of the decoder, and all that paints.
  assert {n.split('/')[1] for n in moved} == {'decoder', 'painter'}
  painter = ('codebook', 'decoder', 'project', 'to_logits')
  assert {f'params/painter/{n}' for n in painter} <= moved
  assert 'params/decoder/stack' in moved
  # The statistics of a frozen codebook move nothing.
  jax.tree.map(
    np.testing.assert_array_equal, codes['codebook'], decoder['codebook']
  )
  assert decoder['lecam']['weight'] > 0
  assert 'discriminator' in decoder['params']
  assert found['tokenizer/adversarial_weight'] == pytest.approx(0.01)
  exported = task.export(decoder)
  assert set(exported.variables) == {'params', 'codebook'}
  # Bit by bit the same codes, another picture.
  encode = jax.jit(
    lambda v: MODEL.build().apply(task.own(v), PIXELS, method='encode')
  )
  decode = jax.jit(
    lambda v, x: MODEL.build().apply(task.own(v), x, method='decode')
  )
  before, after = encode(codes), encode(decoder)
  np.testing.assert_array_equal(before.codes, after.codes)
  assert len(np.unique(before.codes)) > 1
  assert np.abs(decode(codes, before) - decode(decoder, after)).max() > 1e-3


def test_what_does_not_fit_is_refused(folder):
  task = proxy_task(folder)
  pixels = dataclasses.replace(task, model=tiny_models.ONE_D)
  info = dataclasses.replace(INFO, image_size=8, channels=1)
  with pytest.raises(UserError, match='OneDConfig without `vqgan`'):
    pixels.bind(info)
  text = dataclasses.replace(MODEL, text_tokens=3)
  with pytest.raises(UserError, match='no data set here has texts'):
    dataclasses.replace(task, model=text).bind(INFO)
  other = dataclasses.replace(VQGAN, quantizer=VQConfig(codebook_size=9, dim=4))
  model = dataclasses.replace(MODEL, vqgan=other)
  with pytest.raises(UserError, match=r"size': 8.* 'codebook_size': 9"):
    dataclasses.replace(task, model=model).constants()
  with pytest.raises(UserError, match=r'(?s)nowhere.*--task\.proxy DIR'):
    dataclasses.replace(task, proxy=str(folder / 'nowhere')).constants()
  loaded = tiny_models.one_d()
  export.export(loaded.module, loaded.variables, folder / 'one_d')
  with pytest.raises(UserError, match='is a OneDConfig, and TiTokConfig'):
    dataclasses.replace(task, proxy=str(folder / 'one_d')).constants()
  with pytest.raises(UserError, match='gives pixels, no codes'):
    jax.eval_shape(
      lambda: (
        dataclasses.replace(MODEL, vqgan=None)
        .build()
        .init(KEY, PIXELS, jnp.full((B,), 4), method='predict')
      )
    )
