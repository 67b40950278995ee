"""KARL against the official code, by a golden file, and its own promises.

`tests/golden/make_karl.py` says what made it. Tolerances are relative to the
standard deviation of the official output.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import karl_case as case
import numpy as np
import pytest
from redraw import redraw, unpack

from tokpress_jax import quantize, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.tokenizers import karl, karl_keys

IMAGES = case.inputs()
PIXELS = 2 * np.moveaxis(IMAGES, 1, -1) - 1
B = len(IMAGES)
every = pytest.mark.parametrize('name', case.CASES)


@functools.cache
def golden(name):
  with np.load(case.GOLDEN) as arrays:
    return {
      k.removeprefix(f'{name}/'): v
      for k, v in arrays.items()
      if k.startswith(f'{name}/')
    }


@functools.cache
def loaded(name):
  shapes = unpack(golden(name)['shapes'])
  weights = redraw(shapes, rules=case.RULES)
  config = karl_keys.config_of(shapes)
  size = lambda tower: tokenizers.TowerConfig(
    width=tower[0], depth=tower[1], heads=tower[2]
  )
  config = dataclasses.replace(
    config,
    encoder=size(case.ENCODER),
    decoder=size(case.DECODER),
    tokens=case.TOKENS,
    vqgan=dataclasses.replace(config.vqgan, groups=32),
  )
  variables = keymap.convert(
    weights, karl_keys.RULES, karl_keys.expected(config)
  )
  spec = types.Spec(name='', family='tokenizer', config=config)
  return types.Loaded(config.build(), variables, spec)


@functools.cache
def program(name):
  """One program for whatever is asked: latents, halting, codes, an image."""
  model = loaded(name)
  config = model.spec.config

  @jax.jit
  def run(model, length, target):
    bins = config.bins_of(target, B)
    reading = model.read(PIXELS, length, bins)
    out = model.quantize(reading.latents, length)
    inside = tokenizers.prefix_mask(length, config.tokens)
    kept = karl.keep(jnp.where(inside, reading.halting, jnp.inf), 0.75)
    order = jnp.argsort(~kept, axis=1, stable=True)[..., None]
    take = lambda x: jnp.take_along_axis(x, order, axis=1)
    decode = model.decode_codes
    tokens = out.codes
    if config.continuous:
      decode, tokens = model.decode_embeddings, out.embeddings
    painted = decode(
      take(tokens), length=jnp.sum(kept, axis=1), positions=order
    )
    return reading, out, kept, painted

  return run


def close(ours, theirs, tolerance=1e-4):
  """Compares float arrays in units of the official output's deviation."""
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


def close_images(name, painted, theirs):
  """Compares images; no code absorbs the rounding of continuous tokens."""
  want = np.moveaxis(theirs, 1, -1).clip(0, 1)
  tolerance = 2e-4 if name == 'continuous' else 1e-4
  close((painted[:, ::3, ::3] + 1) / 2, want, tolerance)


@every
@pytest.mark.parametrize('i', range(len(case.ASKED)))
def test_latents_halting_codes_and_images(name, i):
  model, want = loaded(name), golden(name)
  tokens, target = case.ASKED[i]
  length = np.full((B,), tokens, np.int32)
  reading, out, kept, painted = program(name)(model, length, target)
  close(reading.latents[:, :tokens], want[f'{i}/latents'])
  close(reading.halting[:, :tokens], want[f'{i}/halting'])
  stay = want[f'{i}/halting'] <= np.log(3)  # A sigmoid of 0.75.
  assert 0 < stay.sum() < stay.size
  np.testing.assert_array_equal(kept[:, :tokens], stay)
  assert not kept[:, tokens:].any()
  if not model.spec.config.continuous:
    codes = want[f'{i}/codes']
    np.testing.assert_array_equal(out.codes[:, :tokens, 0], codes)
    assert len(np.unique(codes)) > 8
  close_images(name, painted, want[f'{i}/painted'])


@every
def test_encode_with_halting_is_that(name):
  """The tokens that stay come first, in order, with their slots."""
  model, want = loaded(name), golden(name)

  @jax.jit
  def run(model, target):
    row = model.encode(PIXELS, policy=tokenizers.Halting(target=target))
    return row, model.decode(row)

  for i, (tokens, target) in enumerate(case.ASKED):
    if tokens != case.TOKENS:
      continue
    row, painted = run(model, np.float32(target))
    stay = want[f'{i}/halting'] <= np.log(3)
    np.testing.assert_array_equal(row.length, stay.sum(1))
    for b in range(B):
      slots = np.flatnonzero(stay[b])
      n = len(slots)
      np.testing.assert_array_equal(row.positions[b, :n, 0], slots)
      if row.codes is not None:
        codes = want[f'{i}/codes'][b, slots]
        np.testing.assert_array_equal(row.codes[b, :n, 0], codes)
      assert row.valid[b, :n].all() and not row.valid[b, n:].any()
    close_images(name, painted, want[f'{i}/painted'])
  assert run._cache_size() == 1


def test_codes_of_the_vqgan():
  model = loaded('quantized')
  codes = jax.jit(model.base_codes)(PIXELS)
  want = golden('quantized')['base_codes']
  np.testing.assert_array_equal(codes.reshape(B, -1), want)
  assert len(np.unique(want)) > 8


@every
def test_weights_go_back_to_the_released_names(name):
  shapes = unpack(golden(name)['shapes'])
  weights = redraw(shapes, rules=case.RULES)
  back = keymap.invert(loaded(name).variables, karl_keys.RULES, weights)
  assert back.keys() == weights.keys()
  for key, x in weights.items():
    np.testing.assert_array_equal(back[key], x, err_msg=key)


def test_weights_of_another_kind_are_refused():
  shapes = unpack(golden('quantized')['shapes'])
  with pytest.raises(UserError, match='lacks rec_loss_embeddings'):
    karl_keys.config_of({'latent_tokens': (1, 2)})
  with pytest.raises(UserError, match='knows 3 losses'):
    karl_keys.config_of(shapes | {'rec_loss_embeddings': (3, 288)})


def tiny(**changes):
  tower = tokenizers.TowerConfig(width=8, depth=1, heads=2)
  fields = {
    'image_size': 8,
    'patch': 2,
    'tokens': 6,
    'slots': 6,
    'encoder': tower,
    'decoder': tower,
    'quantizer': quantize.FSQConfig(levels=(5, 5, 5)),
    'bins': (0.1, 0.2, 0.3),
    'halting_width': 8,
    'places': 4,
    'vqgan': None,
  }
  return tokenizers.KARLConfig(**{**fields, **changes})


@functools.cache
def drawn(projection='shared'):
  config = tiny(projection=projection)
  images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3), minval=-1)
  module = config.build()
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32)
  spec = types.Spec(name='', family='tokenizer', config=config)
  variables = jax.tree.map(draw, shapes)
  return types.Loaded(module, variables, spec), images


def test_a_loss_is_rounded_up_to_one_that_is_known():
  config = tiny()
  asked = np.float32([0.01, 0.1, 0.101, 0.2, 0.25, 0.3, 5])
  got = config.bins_of(asked, len(asked))
  np.testing.assert_array_equal(got, [0, 0, 1, 1, 2, 2, 2])
  np.testing.assert_array_equal(config.bins_of(0.15, 3), [1, 1, 1])


def test_what_cannot_be_asked_is_refused():
  model, images = drawn()
  ask = lambda target: model.encode(
    images, policy=tokenizers.Halting(target=target)
  )
  for target in (0, -0.1, np.nan, np.array([0.1, 0.0, 0.2])):
    with pytest.raises(UserError, match='above 0; got'):
      ask(target)
  with pytest.raises(UserError, match=r'one for each image, \[3\], got \(2,\)'):
    ask(np.array([0.1, 0.2]))
  for target in (0.05, 0.4):
    with pytest.warns(UserWarning, match=r'0.1 to 0.3; a target of 0\.'):
      ask(target)
  with pytest.raises(ValueError, match='leave out rng'):
    model.encode(images, rng=jax.random.key(0))
  other = tokenizers.OneDConfig(
    image_size=8, patch=2, tokens=2, width=8, heads=2, encoder_depth=1,
    decoder_depth=1, quantizer=quantize.FSQConfig(levels=(5, 5)),
  ).build()  # fmt: skip
  variables = other.init(jax.random.key(0), images)
  with pytest.raises(UserError, match='Halting is for tokenizers that say'):
    other.apply(variables, images, policy=tokenizers.Halting(), method='encode')


def test_a_threshold_moves_from_one_token_to_all():
  model, images = drawn()
  row = lambda threshold: model.encode(
    images, policy=tokenizers.Halting(target=0.2, threshold=threshold)
  )
  none, whole = row(0.0), row(1.0)
  np.testing.assert_array_equal(none.length, [1, 1, 1])
  reading = model.read(images, np.full(3, 6), np.full(3, 1))
  least = np.argmin(reading.halting, axis=1)
  np.testing.assert_array_equal(none.positions[:, 0, 0], least)
  np.testing.assert_array_equal(whole.length, [6, 6, 6])
  np.testing.assert_array_equal(whole.positions[..., 0], [range(6)] * 3)


@pytest.mark.parametrize('projection', ['shared', 'slot'])
def test_fewer_latents_are_a_smaller_model(projection):
  """Masked latents are as if they were not there, and are encoded anew."""
  model, images = drawn(projection)
  short = tiny(tokens=3, projection=projection).build()
  want = short.apply(model.variables, images, method='encode').codes
  got = model.encode(images, policy=tokenizers.Fixed(tokens=3)).codes
  np.testing.assert_array_equal(got[:, :3], want)
  assert not got[:, 3:].any()
  whole = model.encode(images).codes
  assert (whole[:, :3] != want).any()


@pytest.mark.parametrize('projection', ['shared', 'slot'])
def test_slots_decide_what_a_token_is_and_their_order_nothing(projection):
  model, images = drawn(projection)
  codes = model.encode(images).codes
  slots = np.tile(np.array([4, 0, 3, 1, 5, 2]), (3, 1))[..., None]
  moved = np.take_along_axis(np.asarray(codes), slots, axis=1)
  want = model.decode_codes(codes)
  again = model.decode_codes(moved, positions=slots)
  np.testing.assert_allclose(again, want, atol=1e-5)
  assert np.abs(model.decode_codes(moved) - want).max() > 1e-2


def test_positions_are_read_at_the_nearest_places():
  got = karl.nearest(tiny(places=9))  # 4 patches of 9 places: 0, 2, 4, 6.
  want = [9 * i + j for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'tokens': 7}, 'tokens=7 and slots=6'),
    ({'places': 3}, 'places=3 are fewer than the 4 patches'),
    ({'bins': (0.2, 0.1)}, 'bins must be losses above 0 that rise'),
    ({'bins': ()}, 'bins must be losses above 0 that rise'),
    ({'projection': 'none'}, "projection='none' is not one of"),
    ({'vqgan': tokenizers.MaskGITVQGANConfig()}, 'set both alike'),
  ],
)
def test_configs_that_cannot_be_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny(**changes)
