"""ALIT's latent distillation: what every round learns, and what stays."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
import toys

from tokpress_jax import quantize, tokenizers
from tokpress_jax.config import Config
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io import export
from tokpress_jax.io import load as load_lib
from tokpress_jax.train import tree
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.loop import fit
from tokpress_jax.train.tasks import ALITTask

B, SIZE = 4, 8
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=SIZE,
  channels=3,
  num_classes=0,
)
VQGAN = tokenizers.MaskGITVQGANConfig(
  image_size=SIZE,
  patch=2,
  width=4,
  multipliers=(1, 2),
  blocks=1,
  groups=2,
  quantizer=quantize.VQConfig(codebook_size=4, dim=4),
)
TOWER = tokenizers.TowerConfig(width=12, depth=1, heads=2)
MODEL = tokenizers.ALITConfig(
  image_size=SIZE,
  patch=2,
  rounds=3,
  tokens=2,
  encoder=TOWER,
  decoder=TOWER,
  quantizer=quantize.VQConfig(codebook_size=16, dim=4, distance='cosine'),
  explained=0.2,
  vqgan=VQGAN,
)
TASK = ALITTask(model=MODEL, weights=(2.5, 2.0), code_weight=0.5)
DATA = toys.noise(INFO)
BATCH = next(DATA.Stream(None, batch_size=B, seed=1).batches())
BATCH |= {'valid': np.array([True, True, True, False])}
PIXELS = np.float32(BATCH['image']) / 127.5 - 1
KEY, STEP = jax.random.key(3), jnp.int32(0)


@functools.cache
def drawn():
  """Variables with which all parts matter, and codes differ."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(TASK.init, jax.random.key(0))

  def draw(name, x):
    fan = 2 * x.shape[-2] ** -0.5 if x.ndim > 1 else 0.3
    scale = 0.3 if name.endswith('scale') else fan
    scale = 1.0 if name.endswith(('table', 'codebook')) else scale
    shift = float(name.endswith('scale'))
    return np.float32(shift + scale * rng.normal(size=x.shape))

  return tree.map_named(draw, shapes)


@functools.cache
def compiled():
  """Loss, metrics, updates; and the gradient."""
  (program,) = TASK.programs()
  run = lambda v, b, k: program.loss(v, b, k, STEP)
  return jax.jit(run), jax.jit(jax.grad(lambda *args: run(*args)[0]))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_loss_is_that_of_every_round():
  variables = drawn()
  total, found, updates = compiled()[0](variables, BATCH, KEY)

  @jax.jit
  def parts(variables):
    def run(module):
      uniform = module.draws(KEY, B)
      return module.base_codes(PIXELS), uniform, module.run(PIXELS, uniform)

    return MODEL.build().apply(variables, method=run)

  codes, uniform, rounds = parts(variables)
  assert len(np.unique(codes)) > 1
  codes = np.asarray(codes).reshape(B, -1)[:3]  # The last image is padding.
  painter = np.float64(variables['params']['painter']['codebook'])
  codebook = unit(np.float64(variables['params']['quantizer']['codebook']))
  want, masked = 0.0, []
  for i, (weight, out) in enumerate(zip((2.5, 2.0, 1.0), rounds, strict=True)):
    logits = np.float64(out.logits).reshape(B, -1, 4)[:3]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chance = np.take_along_axis(p, codes[..., None], -1)[..., 0]
    entropy = -np.log(chance).mean()
    code = ((p @ painter - painter[codes]) ** 2).mean()
    z = unit(np.float64(out.latents)[:3])
    nearest = (z @ codebook.T).max(-1)  # |z - e|^2 is 2 - 2 cos.
    bottleneck = 1.25 * (2 - 2 * nearest).mean() / z.shape[-1]
    want += weight * entropy + 0.5 * code + bottleneck
    n = 2 * (i + 1)
    np.testing.assert_allclose(found[f'cross_entropy_{n}'], entropy, rtol=1e-5)
    np.testing.assert_allclose(found[f'code_{n}'], code, rtol=1e-4)
    hidden = (chance >= 0.2) & (np.asarray(uniform)[:3, i] < chance)
    np.testing.assert_array_equal(out.masked[:3], hidden)
    np.testing.assert_allclose(found[f'masked_{n}'], hidden.mean(), rtol=1e-6)
    masked.append(hidden.mean())
  np.testing.assert_allclose(total, want, rtol=1e-5)
  assert min(masked) > 0 and max(masked) < 1
  assert updates['stats'].count.sum() == 3 * (2 + 4 + 6)


def test_a_step_teaches_everything_that_is_not_frozen():
  grads = tree.named(compiled()[1](drawn(), BATCH, KEY)['params'])
  group = {name: tree.first_match(TASK.groups, name) for name in grads}
  assert {n for n, g in group.items() if g == 'frozen'} == {
    n
    for n in grads
    if n.startswith(('painter/codebook', 'painter/decoder', 'image_tokens/vq'))
  }
  still = {n for n, g in grads.items() if not np.any(g)}
  assert not {n for n in still if group[n] == 'main'}


def test_draws_are_of_the_key_alone():
  run = compiled()[0]
  found = run(drawn(), BATCH, KEY)
  jax.tree.map(np.testing.assert_array_equal, run(drawn(), BATCH, KEY), found)
  other = run(drawn(), BATCH, jax.random.key(4))
  # Nothing is drawn before the first round.
  assert other[1]['cross_entropy_2'] == found[1]['cross_entropy_2']
  for name in ('masked_2', 'cross_entropy_4', 'cross_entropy_6'):
    assert other[1][name] != found[1][name], name


def test_padding_changes_nothing():
  mask = BATCH['valid'][:, None, None, None]
  junk = BATCH | {'image': np.where(mask, BATCH['image'], 255 - BATCH['image'])}
  got, want = (compiled()[0](drawn(), b, KEY) for b in (junk, BATCH))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rounding_leaves_the_true_codes():
  """In bfloat16 labels and masks are still those of the float32 VQGAN."""
  low = dataclasses.replace(TASK, precision='bfloat16')
  codes = jax.jit(low._codes)(drawn(), PIXELS)
  other = (codes + 1) % 4
  rounds = jax.jit(lambda c: low._rounds(drawn(), PIXELS, c, rng=KEY))
  for given in (codes, other):
    out = rounds(given)[0]
    p = np.asarray(jax.nn.softmax(out.logits)).reshape(B, -1, 4)
    chance = np.take_along_axis(p, given.reshape(B, -1, 1), -1)[..., 0]
    uniform = MODEL.build().apply({}, KEY, B, method='draws')[:, 0]
    hidden = (chance >= 0.2) & (uniform < chance)
    np.testing.assert_array_equal(out.masked, hidden)
  np.testing.assert_array_equal(codes, jax.jit(TASK._codes)(drawn(), PIXELS))


def test_a_run_starts_from_its_vqgan_and_leaves_it(tmp_path):
  vqgan = tiny_models.loaded(VQGAN, 'tokenizer', jnp.zeros((1, SIZE, SIZE, 3)))
  export.export(vqgan.module, vqgan.variables, tmp_path / 'vqgan')
  model = dataclasses.replace(MODEL, rounds=2)
  task = dataclasses.replace(TASK, model=model, proxy=str(tmp_path / 'vqgan'))
  config = Config(
    name='tiny',
    task=task.bind(INFO),
    train=TrainConfig(steps=2, batch_size=B, log_every=1, checkpoint_every=10),
    optim=OptimConfig(learning_rate=0.01, schedule='constant'),
  )
  found = fit(config, tmp_path / 'run', devices=jax.devices()[:1], data=DATA)
  params = load_lib.load_variables(tmp_path / 'run')['params']
  theirs = vqgan.variables['params']
  same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
  same(params['painter']['decoder'], theirs['decoder'])
  same(params['image_tokens']['vqgan'], theirs['encoder'])
  np.testing.assert_array_equal(
    params['painter']['codebook'], theirs['quantizer']['codebook']
  )
  for n in (2, 4):
    for name in ('psnr', 'cross_entropy', 'accuracy'):
      assert np.isfinite(found[f'eval/{name}_{n}']), name
  assert found['eval/psnr'] == found['eval/psnr_4']


def test_what_cannot_be_trained_is_refused():
  with pytest.raises(UserError, match='of 4 rounds, and the model has 3'):
    ALITTask(model=MODEL).bind(INFO)
  other = tokenizers.OneDConfig(
    image_size=SIZE, patch=4, width=8, heads=2, encoder_depth=1, decoder_depth=1
  )
  with pytest.raises(UserError, match='OneDConfig, which has no rounds'):
    ALITTask(model=other).bind(INFO)
  small = dataclasses.replace(INFO, image_size=4)
  with pytest.raises(UserError, match='takes images of side 8'):
    TASK.bind(small)
