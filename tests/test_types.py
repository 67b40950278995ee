"""The shared pytrees: tokens, ratios, and loaded models inside `jit`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import types
from tokpress_jax.tokenizers import OneDConfig
from tokpress_jax.types import SPECIAL, VISION, Loaded, Ratio, Spec, Tokens

FEATURES = jnp.arange(12.0).reshape(2, 3, 2)
VALID = jnp.array([[True, True, False], [True, True, True]])


def test_tokens_fill_in_what_is_not_given():
  tokens = Tokens.create(FEATURES)
  np.testing.assert_array_equal(tokens.positions[..., 0], [[0, 1, 2]] * 2)
  assert tokens.positions.shape == (2, 3, 1)
  assert tokens.valid.all() and not tokens.protected.any()
  np.testing.assert_array_equal(tokens.mass, np.ones((2, 3)))
  np.testing.assert_array_equal(tokens.kind, np.full((2, 3), VISION))
  np.testing.assert_array_equal(tokens.owner, np.zeros((2, 3)))
  np.testing.assert_array_equal(tokens.source_count, [3, 3])
  assert (tokens.source_slots, tokens.num_protected) == (3, 0)
  dtypes = tokens.mass.dtype, tokens.kind.dtype, tokens.owner.dtype
  assert dtypes == (jnp.float32, jnp.int8, jnp.int32)


def test_padding_has_no_mass_no_owner_and_no_protection():
  tokens = Tokens.create(
    FEATURES,
    valid=VALID,
    owner=jnp.array([[4, 4, 4], [5, 5, 6]]),
    kind=jnp.full((2, 3), SPECIAL),
    protected=jnp.array([[True, False, True], [True, False, False]]),
    grids=((1, 1, 3),),
  )
  np.testing.assert_array_equal(tokens.mass, VALID.astype(float))
  np.testing.assert_array_equal(tokens.owner, [[4, 4, -1], [5, 5, 6]])
  np.testing.assert_array_equal(tokens.protected[:, 2], [False, False])
  np.testing.assert_array_equal(tokens.source_count, [2, 3])
  np.testing.assert_array_equal(tokens.kind, np.full((2, 3), SPECIAL))
  assert tokens.num_protected == 2 and tokens.grids == ((1, 1, 3),)


def test_tokens_pass_through_jit_with_their_static_fields():
  tokens = Tokens.create(FEATURES, valid=VALID, grids=((1, 1, 3),))
  again = jax.jit(lambda t: t.replace(features=2 * t.features))(tokens)
  np.testing.assert_array_equal(again.features, 2 * FEATURES)
  assert again.grids == tokens.grids and again.source_slots == 3


def test_traced_protection_needs_a_static_count():
  make = lambda p, **kwargs: Tokens.create(FEATURES, protected=p, **kwargs)
  with pytest.raises(ValueError, match='give num_protected'):
    jax.jit(make)(VALID)
  tokens = jax.jit(lambda p: make(p, num_protected=2))(VALID)
  assert tokens.num_protected == 2
  np.testing.assert_array_equal(tokens.protected, VALID)


@pytest.mark.parametrize('ratio', [-0.5, 0, 1.01, 25])
def test_ratios_outside_0_to_1_are_refused(ratio):
  with pytest.raises(
    ValueError, match=rf'in \(0, 1\], got {ratio}; 0.25 keeps'
  ):
    Ratio(ratio=ratio)


def test_ratios_are_hashable_values():
  assert Ratio(ratio=1) == Ratio(ratio=1.0)
  assert len({Ratio(ratio=0.5), Ratio(ratio=0.5), Ratio(ratio=0.25)}) == 2


class Line(nn.Module):
  """y = w x, with a method and a property."""

  width: int

  def setup(self):
    self.scale = self.param('scale', nn.initializers.ones, (self.width,))

  def __call__(self, x, *, plus=0.0):
    return self.scale * x + plus

  def back(self, y):
    return y / self.scale

  @property
  def twice(self):
    return 2 * self.width


def line(value=3.0, tokenizer=None):
  return Loaded(
    Line(width=2),
    {'params': {'scale': jnp.full(2, value)}},
    Spec(name='line', family='model', config=None),
    tokenizer,
  )


def test_loaded_binds_the_module_and_its_methods():
  model, x = line(), jnp.array([1.0, 2.0])
  np.testing.assert_array_equal(model(x, plus=1.0), [4, 7])
  np.testing.assert_array_equal(model.back(model(x)), x)
  assert model.twice == 4


def test_loaded_is_a_pytree_and_its_variables_are_not_baked_in():
  traces = []

  @jax.jit
  def run(model, x):
    traces.append(1)
    return model.tokenizer.back(model(x)), model.twice

  x = jnp.array([1.0, 2.0])
  for value in (3.0, 5.0):
    got, twice = run(line(value, tokenizer=line(2.0)), x)
    np.testing.assert_allclose(got, value * x / 2)
    assert twice == 4
  assert len(traces) == 1
  leaves, tree = jax.tree.flatten(line(tokenizer=line(2.0)))
  assert [leaf.tolist() for leaf in leaves] == [[3, 3], [2, 2]]
  again = jax.tree.unflatten(tree, leaves)
  assert again.spec == line().spec and again.module == line().module


def test_loaded_is_differentiable_in_its_variables():
  grad = jax.grad(lambda m: jnp.sum(m(jnp.array([1.0, 2.0]))))(line())
  np.testing.assert_array_equal(grad.variables['params']['scale'], [1, 2])


def test_loaded_names_what_a_module_lacks():
  with pytest.raises(AttributeError, match="Line has no method 'encode'"):
    line().encode(jnp.zeros(2))
  assert not hasattr(line(), '_private')


def test_encoded_is_a_pytree_without_what_is_none():
  encoded = types.Encoded(
    codes=jnp.zeros((2, 3, 1), jnp.int32),
    embeddings=None,
    valid=VALID,
    length=VALID.sum(axis=1),
    positions=None,
    image_size=jnp.full((2, 2), 8),
  )
  assert len(jax.tree.leaves(encoded)) == 4
  assert repr(encoded) == (
    f'Encoded(codes [2, 3, 1], embeddings None, length '
    f'{np.asarray(encoded.length)})'
  )
  assert 'length [2]' in repr(jax.eval_shape(lambda: encoded))
  with pytest.raises(dataclasses.FrozenInstanceError):
    encoded.codes = None


def test_the_first_tokens_of_an_encoded():
  encoded = types.Encoded(
    codes=jnp.zeros((2, 3, 1), jnp.int32),
    embeddings=None,
    valid=jnp.ones((2, 3), bool),
    length=jnp.full((2,), 3),
    positions=None,
    image_size=jnp.full((2, 2), 8),
  )
  for length, want in ((2, [2, 2]), (np.array([1, 3]), [1, 3])):
    found = encoded.first(length)
    np.testing.assert_array_equal(found.length, want)
    slots = np.arange(3)[None] < np.array(want)[:, None]
    np.testing.assert_array_equal(found.valid, slots)
    assert found.codes is encoded.codes


def test_loaded_can_be_explored():
  config = OneDConfig(
    image_size=8,
    channels=1,
    patch=4,
    width=16,
    heads=2,
    tokens=3,
    encoder_depth=1,
    decoder_depth=1,
  )
  spec = Spec(name='mine', family='tokenizer', config=config, licence='MIT')
  loaded = Loaded(
    module=config.build(), variables={'params': {'w': jnp.ones(5)}}, spec=spec
  )
  assert repr(loaded) == 'Loaded(mine, tokenizer, 5 numbers, licence: MIT)'
  shown = {name for name in dir(loaded) if not name.startswith('_')}
  assert {'encode', 'decode', 'boundaries', 'num_tokens'} <= shown
  assert not {'setup', 'parent', 'scope'} & shown
  assert loaded.encode.__doc__.startswith('Encodes images.')
