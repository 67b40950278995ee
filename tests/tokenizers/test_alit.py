"""ALIT against the official code, by a golden file, and its own promises.

`tests/golden/make_alit.py` says what made it. Tolerances are relative to the
standard deviation of the official output.
"""

import dataclasses
import functools

import alit_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from redraw import redraw, unpack

from tokpress_jax import quantize, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.tokenizers import alit_keys

IMAGES = case.inputs()
PIXELS = 2 * np.moveaxis(IMAGES, 1, -1) - 1
B = len(IMAGES)


@functools.cache
def golden():
  with np.load(case.GOLDEN) as arrays:
    return dict(arrays)


@functools.cache
def loaded():
  shapes = unpack(golden()['shapes'])
  config = alit_keys.config_of(shapes)
  size = lambda tower: tokenizers.TowerConfig(
    width=tower[0], depth=tower[1], heads=tower[2]
  )
  config = dataclasses.replace(
    config, encoder=size(case.TOWER), decoder=size(case.DECODER)
  )
  weights = redraw(shapes, rules=case.RULES)
  variables = keymap.convert(
    weights, alit_keys.RULES, alit_keys.expected(config)
  )
  spec = types.Spec(name='', family='tokenizer', config=config)
  return types.Loaded(config.build(), variables, spec)


def close(ours, theirs, tolerance=1e-4):
  """Compares float arrays in units of the official output's deviation."""
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


def test_every_round():
  model, want = loaded(), golden()

  @jax.jit
  def run(model, uniform):
    rounds = model.run(PIXELS, uniform)
    painted = [
      model.render_embeddings(
        r.quantized.embeddings, jnp.full((B,), r.latents.shape[1])
      )
      for r in rounds
    ]
    return rounds, jnp.stack(painted, axis=1)

  rounds, painted = run(model, case.draws())
  codes = [r.quantized.codes[..., 0] for r in rounds]
  assert [c.shape[1] for c in codes] == [32 * (i + 1) for i in range(8)]
  np.testing.assert_array_equal(np.concatenate(codes, 1), want['codes'])
  assert len(np.unique(want['codes'])) > 30
  masked = np.stack([r.masked for r in rounds], axis=1)
  theirs = np.unpackbits(want['masked'], axis=-1).astype(bool)
  np.testing.assert_array_equal(masked, theirs)
  assert theirs.any(axis=(0, 2)).all()
  # Rounding grows from round to round.
  close(rounds[-1].latents[:, ::8], want['latents'], tolerance=3e-4)
  image = np.moveaxis(want['painted'], 2, -1)
  close((painted[:, :, ::3, ::3] + 1) / 2, image)


def test_weights_go_back_to_the_released_names():
  weights = redraw(unpack(golden()['shapes']), rules=case.RULES)
  back = keymap.invert(loaded().variables, alit_keys.RULES, weights)
  assert back.keys() == weights.keys()
  for key, x in weights.items():
    np.testing.assert_array_equal(back[key], x, err_msg=key)
  with pytest.raises(UserError, match='lacks timestep_embedding'):
    alit_keys.config_of({'rec_loss_embeddings': (1, 2)})


def tiny(**changes):
  tower = tokenizers.TowerConfig(width=12, depth=1, heads=2)
  fields = {
    'image_size': 8,
    'patch': 2,
    'rounds': 3,
    'tokens': 2,
    'encoder': tower,
    'decoder': tower,
    'quantizer': quantize.VQConfig(codebook_size=97, dim=4),
    'explained': 0.0,
    'vqgan': tokenizers.MaskGITVQGANConfig(
      image_size=8,
      patch=2,
      width=4,
      multipliers=(1, 2),
      blocks=1,
      groups=2,
      quantizer=quantize.VQConfig(codebook_size=4, dim=4),
    ),
  }
  return tokenizers.ALITConfig(**{**fields, **changes})


@functools.cache
def drawn():
  config = tiny()
  images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3), minval=-1)
  module = config.build()
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)

  def draw(path, x):
    kind = path[-1].key
    fan = x.shape[-2] ** -0.5 if x.ndim > 1 else 0.3
    scale = {'table': 1, 'codebook': 1, 'scale': 0.3}.get(kind, 2 * fan)
    shift = 1 if kind == 'scale' else 0
    return jnp.asarray(shift + scale * rng.normal(size=x.shape), jnp.float32)

  spec = types.Spec(name='', family='tokenizer', config=config)
  return (
    types.Loaded(module, jax.tree_util.tree_map_with_path(draw, shapes), spec),
    images,
  )


@functools.cache
def rows(seed=None):
  """Codes of all lengths, of a key."""
  model, images = drawn()

  @jax.jit
  def run(model, rng):
    found = model.encode_each(images, tokens=(2, 4, 6), rng=rng)
    return [row.codes for row in found]

  return run(model, None if seed is None else jax.random.key(seed))


def test_without_a_key_codes_are_always_the_same():
  model, images = drawn()
  again = model.encode(images).codes
  np.testing.assert_array_equal(rows()[-1], again)
  # Of an image, whatever the others are.
  alone = model.encode(images[1:2]).codes
  np.testing.assert_array_equal(alone[0], again[1])
  # The first round has no draws before it.
  np.testing.assert_array_equal(rows(1)[0], rows()[0])
  run = jax.jit(
    lambda model, rng: [
      r.latents for r in model.run(images, model.draws(rng, len(images)))
    ]
  )
  ours, theirs = (run(model, jax.random.key(seed)) for seed in (0, 1))
  np.testing.assert_array_equal(ours[0], theirs[0])
  assert np.abs(ours[-1] - theirs[-1]).max() > 1e-3


def test_a_length_is_a_round():
  model, images = drawn()
  whole = rows()
  lengths = jnp.array([2, 6, 4])
  row = model.encode(images, policy=tokenizers.Prefix(lengths))
  np.testing.assert_array_equal(row.length, lengths)
  for b, n in enumerate(lengths):
    np.testing.assert_array_equal(row.codes[b], whole[n // 2 - 1][b])
    assert not row.codes[b, n:].any()
  assert (whole[0][:, :2] != whole[2][:, :2]).any()  # All are rewritten.


@pytest.mark.parametrize('otherwise', ['all', 'best'])
def test_the_first_round_that_is_good_enough(otherwise):
  """The official choice: the first below a loss, else the least loss."""
  model, images = drawn()
  found = [
    model.decode_codes(c, length=n)
    for c, n in zip(rows(), (2, 4, 6), strict=True)
  ]
  loss = np.stack([np.abs(x - images).mean((1, 2, 3)) / 2 for x in found], 1)
  policy = lambda target: tokenizers.Quality(
    target=target,
    measure=tokenizers.minus_l1,
    search='scan',
    otherwise=otherwise,
  )
  order = np.sort(loss.ravel())
  middle = (order[1:] + order[:-1]) / 2
  for target in (0.0, *middle, 1.0):
    got = model.encode(images, policy=policy(-target)).length
    good = loss < target
    instead = loss.argmin(1) if otherwise == 'best' else [2, 2, 2]
    want = np.where(good.any(1), good.argmax(1), instead)
    np.testing.assert_array_equal(got, 2 * want + 2)


def test_the_best_is_known_after_trying_all():
  with pytest.raises(UserError, match="'best' with search='scan'; got 'best'"):
    tokenizers.Quality(target=1.0, otherwise='best')


def test_configs_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='rounds=0 and tokens=2 must be'):
    tiny(rounds=0)
  with pytest.raises(ValueError, match='set both alike'):
    tiny(vqgan=tokenizers.MaskGITVQGANConfig())
