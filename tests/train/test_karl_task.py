"""KARL's two passes: what halts, what is asked for, and what learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import quantize, tokenizers
from tokpress_jax.errors import UserError
from tokpress_jax.train.tasks import KARLTask
from tokpress_jax.train.tasks.karl import absolute_error, bce

TOWER = tokenizers.TowerConfig(width=12, depth=1, heads=2)
VQGAN = tokenizers.MaskGITVQGANConfig(
  image_size=8,
  patch=2,
  width=4,
  multipliers=(1, 2),
  blocks=1,
  groups=2,
  quantizer=quantize.VQConfig(codebook_size=8, dim=4),
)


def task_of(vqgan=None, **changes):
  model = tokenizers.KARLConfig(
    image_size=8,
    patch=2,
    tokens=6,
    slots=6,
    encoder=TOWER,
    decoder=TOWER,
    quantizer=quantize.VQConfig(codebook_size=16, dim=4, distance='cosine'),
    bins=(0.05, 0.1, 0.2, 9.0),
    halting_width=8,
    places=4,
    vqgan=vqgan,
    spread=1.0,
  )
  return KARLTask(model=model, stride=2, loosest=0.1, **changes)


IMAGES = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), np.uint8)


@functools.cache
def step(vqgan=None):
  """Variables, and what one step gives for a mask: loss, metrics, updates."""
  task = task_of(vqgan)
  variables = task.init(jax.random.key(0))
  (program,) = task.programs()

  @jax.jit
  def run(params, mask, images):
    batch = {'image': images, 'valid': mask}
    return program.loss(
      {**variables, 'params': params}, batch, jax.random.key(1), jnp.int32(0)
    )

  return task, variables, run


def test_a_step_teaches_everything_that_is_not_frozen():
  task, variables, run = step(VQGAN)
  mask = np.ones(5, bool)
  grads = jax.grad(lambda p: run(p, mask, IMAGES)[0])(variables['params'])
  assert grads['encoder']['halting_out']['kernel'].any()
  assert grads['encoder']['halting_in']['kernel'].any()
  assert grads['encoder']['targets']['table'].any()
  assert grads['decoder']['from_code']['kernel'].any()
  assert grads['painter']['to_logits']['kernel'].any()
  _, found, _ = run(variables['params'], mask, IMAGES)
  names = {'first_cross_entropy', 'second_cross_entropy', 'second_code'}
  assert names <= found.keys() and all(map(np.isfinite, found.values()))
  frozen = {n for n, group in task.groups if group == 'frozen'}
  assert frozen == {r'^painter/(codebook$|decoder/)|^image_tokens/vqgan/'}


def test_padding_changes_nothing():
  _, variables, run = step()
  mask = np.arange(5) < 3
  junk = np.where(mask[:, None, None, None], IMAGES, 7).astype(np.uint8)
  got = run(variables['params'], mask, junk)
  want = run(variables['params'], mask, IMAGES)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_bins_that_are_reached_become_rare():
  task, variables, run = step()
  chance = variables['asked']['chance']
  np.testing.assert_allclose(chance, [0.5, 0.5, 0, 0])
  _, found, updates = run(variables['params'], np.ones(5, bool), IMAGES)
  reached = updates['asked']
  assert (np.diff(reached) >= 0).all()
  assert reached[0] == 0 and reached[-1] == 5  # eps is between the two.
  moved = task.commit(
    variables,
    {**updates, 'asked': jnp.array([0, 1, 2, 5.0])},
    jax.random.key(0),
    jnp.int32(0),
  )['asked']['chance']
  np.testing.assert_allclose(moved, np.array([1, 0.99, 0, 0]) / 1.99, rtol=1e-6)
  assert 'asked' not in task.own(variables)
  assert 0.05 < found['eps'] < 9


def test_cross_entropy_of_halting():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 4)).astype(np.float32)
  slots = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
  mask = np.array([True, True, False])
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  want = (-np.log(p[0, :2]).mean() + 0) / 2
  np.testing.assert_allclose(bce(logits, 1, slots, mask), want, rtol=1e-5)
  want = (-np.log(1 - p[0, :2]).mean() + 0) / 2
  np.testing.assert_allclose(bce(logits, 0, slots, mask), want, rtol=1e-5)


def test_losses_are_of_pixels_from_0_to_1():
  x = np.full((1, 2, 2, 1), 3.0)  # Painted beyond white.
  got = absolute_error(jnp.asarray(x), jnp.zeros_like(x))
  np.testing.assert_allclose(got, [0.5])


def test_what_cannot_be_trained_is_refused():
  info = dataclasses.make_dataclass(
    'Info', ['image_size', 'channels', 'tokens', 'name']
  )(8, 3, None, 'x')
  with pytest.raises(UserError, match='stride 9 gives no length'):
    dataclasses.replace(task_of(), stride=9).bind(info)
  with pytest.raises(UserError, match=r'loosest 0\.01 is below all bins'):
    dataclasses.replace(task_of(), loosest=0.01).bind(info)
