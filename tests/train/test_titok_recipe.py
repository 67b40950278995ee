"""TiTok's and One-D-Piece's recipes against the published configs."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import config as config_lib
from tokpress_jax import released, types
from tokpress_jax.losses import convnext, lpips
from tokpress_jax.train import optim, tree
from tokpress_jax.train.tasks import GeneratorTask, ProxyTask

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODES, DECODER = 'titok_l32_codes', 'titok_l32_decoder'
PIECE_CODES, PIECE_DECODER = 'one_d_piece_codes', 'one_d_piece_decoder'
VQ, KL = 'titok_bl128_vq', 'titok_bl128_kl'
MASKGIT = 'maskgit_titok_l32'
STAGES = (CODES, DECODER, PIECE_CODES, PIECE_DECODER)


@functools.cache
def config(name):
  return config_lib.load(ROOT / 'configs' / f'{name}_imagenet256.py')


def frozen_of(task):
  """The shapes of what a task loads."""
  if isinstance(task, GeneratorTask | ProxyTask):
    return task.constants()
  found = {}
  if task.perceptual_weight:
    found['perceptual'] = lpips.expected()
  if task.convnext_weight:
    found['convnext'] = convnext.expected()
  return found


@functools.cache
def bound(name):
  """The task, with the shapes of the tokenizer that it would load."""
  task = config(name).task
  other = getattr(task, 'tokenizer', '') or getattr(task, 'proxy', '')
  if other:
    model = released.RELEASED[other].make_config()
    images = jnp.zeros((1, 256, 256, 3))
    module = model.build()
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    spec = types.Spec(name='', family='tokenizer', config=model)
    object.__setattr__(task, '_loaded', types.Loaded(module, shapes, spec))
  return task


@functools.cache
def parameters(name):
  shapes = jax.eval_shape(bound(name).init, jax.random.key(0))
  return tree.named(shapes['params'])


@pytest.mark.parametrize('name', [*STAGES, VQ, KL, MASKGIT])
def test_programs_trace_at_full_size(name):
  """Losses and the evaluation, and who trains what."""
  task, train = bound(name), config(name).train
  variables = dict(jax.eval_shape(task.init, jax.random.key(0)))
  variables['frozen'] = frozen_of(task)
  batch = {
    'image': jax.ShapeDtypeStruct((4, 256, 256, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
    'valid': jax.ShapeDtypeStruct((4,), bool),
  }
  key, step = jax.random.key(0), jnp.int32(0)
  programs = task.programs()
  for program in programs:
    loss, found, _ = jax.eval_shape(
      lambda v, b, loss=program.loss: loss(v, b, key, step), variables, batch
    )
    assert loss.shape == () and {x.shape for x in found.values()} == {()}
  if name not in (PIECE_CODES, PIECE_DECODER):  # Nine lengths take a while.
    assert jax.eval_shape(
      lambda v, b: task.evaluate(v, b, key), variables, batch
    )
  names = parameters(name)
  optim.check(config(name).optim, names, {p.group for p in programs})
  group = optim.assign_groups(names, task.groups, programs, freeze=train.freeze)
  if name in STAGES:
    first = {'painter/codebook', 'painter/decoder'}
    second = {'encoder', 'quantizer'}
    still = {n for n, g in group.items() if g == 'frozen'}
    parts = first if name in (CODES, PIECE_CODES) else second
    assert still == {n for n in names if n.startswith(tuple(parts))}
  if train.init_regex:
    taken = [f'params/{n}' for n in names]
    rules = [(train.init_regex, True)]
    taken = {n for n in taken if tree.first_match(rules, n, False)}
    mine = {f'params/{n}' for n in names if not n.startswith('discriminator/')}
    assert taken == mine


def test_models_are_the_released_ones():
  released_config = lambda name: released.RELEASED[name].make_config()
  vqgan = released_config('maskgit-vqgan')
  assert config(CODES).task.model.vqgan == vqgan
  generator = config(MASKGIT).task
  tokenizer = released_config(generator.tokenizer)
  assert generator.model.fit_to(tokenizer) == generator.model
  assert config(CODES).task.model == released_config('titok-l32')
  assert config(PIECE_CODES).task.model == released_config('one-d-piece-s256')
  assert config(KL).task.model == released_config('titok-bl128-vae-c16')
  for name, row in (
    (DECODER, 'titok-l32'),
    (PIECE_DECODER, 'one-d-piece-s256'),
    (VQ, 'titok-bl128-vq8k'),
    (MASKGIT, 'titok-l32-maskgit'),
  ):
    count = sum(
      x.size
      for n, x in parameters(name).items()
      if not n.startswith('discriminator/')
    )
    assert count == released.RELEASED[row].parameters, name


def test_what_is_decayed():
  """Matrices and kernels, but none whose official name has "embed" in it."""
  rules = [(config(DECODER).optim.decay_mask, True)]
  names = parameters(DECODER)
  kept = {n for n in names if not tree.first_match(rules, n, False)}
  assert {n for n in kept if n.endswith('kernel')} == {
    'encoder/patch_embed/kernel',
    'decoder/from_code/kernel',
  }
  assert all(n.endswith('kernel') for n in names.keys() - kept)


@pytest.mark.parametrize(
  ('name', 'steps', 'batch', 'warmup', 'b2'),
  [
    (CODES, 1_000_000, 256, 10_000, 0.99),
    (DECODER, 500_000, 256, 5_000, 0.999),
    (PIECE_CODES, 1_000_000, 1024, 10_000, 0.99),
    (PIECE_DECODER, 500_000, 512, 5_000, 0.999),
    (VQ, 1_000_000, 256, 10_000, 0.999),
    (MASKGIT, 500_000, 2048, 10_000, 0.96),
  ],
)
def test_steps_and_rates(name, steps, batch, warmup, b2):
  train, rates = config(name).train, config(name).optim
  assert (train.steps, train.batch_size) == (steps, batch)
  assert (rates.b1, rates.b2, train.ema_decay) == (0.9, b2, 0.999)
  rate = optim.make_schedule(rates, steps)
  peak = 2e-4 if name == MASKGIT else 1e-4
  found = [float(rate(i)) for i in (0, warmup // 2, warmup, steps)]
  np.testing.assert_allclose(
    found, [0, peak / 2, peak, 1e-5], rtol=1e-4, atol=1e-12
  )


def test_losses():
  second, single = config(DECODER).task, config(VQ).task
  assert config(PIECE_CODES).task.lengths == 'batch'
  assert config(PIECE_DECODER).task.lengths == 'batch'
  # Of pixels in [-1, 1], whose squares are four times those in [0, 1].
  assert second.loss_weight == single.loss_weight == 1 / 4
  assert (second.perceptual_weight, second.convnext_weight) == (0, 0.1)
  # "lpips-convnext_s-1.0-0.1" with 1.1 is 1.1 (1.0 a + 0.1 b) / (1.0 + 0.1).
  weights = 1.1 * np.array([1.0, 0.1]) / (1.0 + 0.1)
  np.testing.assert_allclose(
    [single.perceptual_weight, single.convnext_weight], weights
  )
  game = second.adversary
  assert (game.weight, game.start, game.lecam) == (0.01, 20_000, 0.001)
  game = single.adversary
  assert (game.weight, game.start, game.lecam) == (0.1, 200_000, 0.001)
  assert game.scaling == 'fixed' and game.game == 'hinge'
