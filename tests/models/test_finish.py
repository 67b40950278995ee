"""The rest of a tower over the tokens that were kept."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.errors import UserError
from tokpress_jax.models import observing
from tokpress_jax.types import Signals

CONFIG = models.ViTConfig(
  image_size=12, patch=4, width=16, depth=3, heads=2, classes=0, features=8
)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 12, 12, 3))
IMAGES = IMAGES.astype(np.float32)
POOLS = pytest.mark.parametrize('pool', ['class', 'mean', 'attention'])


def config(pool):
  return dataclasses.replace(CONFIG, pool=pool, class_token=pool != 'attention')


@functools.cache
def weights(pool):
  variables = jax.jit(config(pool).build().init)(jax.random.key(0), IMAGES)
  # Larger than at first, so that attention prefers something.
  return jax.tree.map(lambda x: 3 * x, variables)


@functools.cache
def method(pool, name, **options):
  module = config(pool).build()
  run = functools.partial(module.apply, method=name, **options)
  return functools.partial(jax.jit(run), weights(pool))


@functools.cache
def whole(pool, plan=()):
  return method(pool, '__call__', plan=plan)(IMAGES)


@functools.cache
def observed(pool, layer):
  return method(pool, 'observe', layer=layer, special='keep')(IMAGES)[0]


def halves(pool, layer, change=lambda tokens: tokens):
  """One layer's output, changed, through the rest."""
  return method(pool, 'finish', layer=layer)(change(observed(pool, layer)))


def close(found, want):
  error = np.abs(np.asarray(found) - want).max() / np.asarray(want).std()
  assert error < 1e-5, error


@POOLS
@pytest.mark.parametrize('layer', [0, -2, -1])
def test_nothing_dropped_is_the_whole_model(pool, layer):
  want, found = whole(pool), halves(pool, layer)
  close(found.pooled, want.pooled)
  close(found.tokens.features, want.tokens.features)


@POOLS
def test_a_dropped_token_is_seen_no_more(pool):
  """As a plan that drops the same tokens inside the model does."""
  pruner = pruners.Stride(budget=4)
  plan = (('block_1.after_mlp', pruner),)
  want = whole(pool, plan).pooled
  drop = jax.jit(lambda tokens: pruner(tokens)[0])
  close(halves(pool, 1, drop).pooled, want)
  assert np.abs(want - whole(pool).pooled).max() > 1e-3


@POOLS
def test_padding_is_ignored(pool):
  def pad(tokens):
    wide = lambda x, fill: jnp.concatenate(
      [x, jnp.full((x.shape[0], 2, *x.shape[2:]), fill, x.dtype)], axis=1
    )
    filled = {'features': 9, 'positions': 0, 'kind': 0, 'owner': -1}
    filled |= {'valid': False, 'mass': 0, 'protected': False}
    return dataclasses.replace(
      tokens, **{n: wide(getattr(tokens, n), x) for n, x in filled.items()}
    )

  found = halves(pool, -2, pad)
  close(found.pooled, halves(pool, -2).pooled)


@POOLS
def test_a_mass_counts_as_often_as_it_says(pool):
  """A patch that stands for three is as three copies of it."""
  extra = int(pool != 'attention')

  def heavy(tokens):
    mass = jnp.ones_like(tokens.mass).at[:, extra].set(3)
    return dataclasses.replace(tokens, mass=mass)

  def copied(tokens):
    index = np.r_[np.arange(10 - 1 + extra), extra, extra]
    names = ('features', 'positions', 'valid', 'mass', 'kind', 'owner')
    fields = {n: getattr(tokens, n)[:, index] for n in names}
    return dataclasses.replace(
      tokens, **fields, protected=tokens.protected[:, index]
    )

  found, want = halves(pool, -2, heavy), halves(pool, -2, copied)
  close(found.pooled, want.pooled)
  assert np.abs(found.pooled - halves(pool, -2).pooled).max() > 1e-3


def test_the_class_token_comes_back_before_what_is_left():
  tokens = observed('class', -2)
  rest, _ = observing.without_first(tokens, Signals(), 1)
  again = observing.with_first(tokens, rest, 1)
  jax.tree.map(np.testing.assert_array_equal, again, tokens)
  assert again.num_protected == 1
  with pytest.raises(UserError, match="observe with special='keep'"):
    method('class', 'finish', layer=-2)(rest)
  with pytest.raises(UserError, match='layers 0 to 2'):
    method('class', 'finish', layer=3)(tokens)


def test_projected_tokens_are_pooled_one_by_one():
  found = method('class', 'project_tokens')(observed('class', -1))
  assert found.shape == (3, 10, 8)
  close(found[:, 0], whole('class').pooled)
