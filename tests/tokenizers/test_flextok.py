"""FlexTok and its autoencoder against the official code, by a golden file.

`tests/golden/make_flextok.py` says what made it. Tolerances are relative to the
standard deviation of the official output.
"""

import dataclasses
import functools
import json

import flextok_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from redraw import redraw, unpack
from safetensors.numpy import save_file

from tokpress_jax import flow, released, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import convert as convert_lib
from tokpress_jax.io import keymap
from tokpress_jax.tokenizers import (
  autoencoder_kl_keys,
  flextok_keys,
  flextok_network,
)

sizes = pytest.mark.parametrize(
  'name', ['small', pytest.param('d12', marks=pytest.mark.slow)]
)
vaes = pytest.mark.parametrize(
  'name', ['vae_small', pytest.param('vae', marks=pytest.mark.slow)]
)


@functools.cache
def golden(name):
  with np.load(case.GOLDEN / 'flextok.npz') as arrays:
    return {
      k.removeprefix(f'{name}/'): v
      for k, v in arrays.items()
      if k.startswith(f'{name}/')
    }


def last(x):
  """Channels last."""
  return np.moveaxis(x, 1, -1)


def close(ours, theirs, tolerance=1e-4):
  """Compares arrays in units of the official output's deviation."""
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


def released_weights(name):
  """Official names and arrays, of a FlexTok with a small autoencoder."""
  shapes = unpack(golden(name)['shapes'])
  weights = redraw(
    {k: s for k, s in shapes.items() if not k.endswith(case.FIXED)},
    rules=case.RULES,
  )
  for k, s in shapes.items():
    if k.endswith(case.FIXED):
      weights[k] = sines(*s[1:])
  if name not in case.VAES:
    c = case.CASES[name]
    vae = small_vae(c['channels'])
    weights |= {f'vae.{k}': x for k, x in vae.items()}
  return weights


def sines(width, rows, columns):
  """[1, D, h, w], the slow way: sines and cosines of the row, of the column."""
  quarter = width // 4
  rates = 1 / 10_000 ** (np.arange(quarter) / quarter)
  out = np.zeros((1, width, rows, columns))
  for i, j in np.ndindex(rows, columns):
    parts = [f(x * rates) for x in (i, j) for f in (np.sin, np.cos)]
    out[0, :, i, j] = np.concatenate(parts)
  return out.astype(np.float32)


def small_vae(channels):
  shapes = unpack(golden('vae_small')['shapes'])
  own = case.VAES['vae_small']['channels']
  for key, shape in shapes.items():
    if 'quant_conv' in key or 'coder.conv_' in key:
      ratio = channels // own
      grow = {own: own * ratio, 2 * own: 2 * own * ratio}
      shapes[key] = tuple(grow.get(n, n) for n in shape)
  return redraw(shapes)


def variables_of(weights, keys, config):
  return keymap.convert(
    keys.prepare(weights), keys.RULES, keys.expected(config)
  )


@functools.cache
def loaded(name):
  weights, c = released_weights(name), case.CASES[name]
  config = flextok_keys.config_of({k: x.shape for k, x in weights.items()})
  heads = lambda tower: dataclasses.replace(
    tower, heads=tower.width // c['head']
  )
  config = dataclasses.replace(
    config,
    encoder=heads(config.encoder),
    decoder=heads(config.decoder),
    max_timestep=c['max_timestep'],
    steps=case.STEPS,
    guidance=case.GUIDANCE,
  )
  variables = variables_of(weights, flextok_keys, config)
  spec = types.Spec(name='', family='tokenizer', config=config)
  return types.Loaded(config.build(), variables, spec)


def lengths(name):
  return jnp.asarray(case.LENGTHS[name], jnp.int32)


def whole(name):
  return jnp.full((case.CASES[name]['batch'],), case.CASES[name]['tokens'])


@functools.cache
def encoded(name):
  """What the bottleneck reads, and what it gives."""
  clean = last(case.latents(name)[0])

  @jax.jit
  def run(variables):
    module = loaded(name).module.bind(variables)
    z = module.encoder(clean)
    return z, module.quantize(z, whole(name))

  return run(loaded(name).variables)


@sizes
def test_codes(name):
  z, quantized = encoded(name)
  want = golden(name)
  close(z if name == 'small' else z[:, ::4], want['z'])
  np.testing.assert_array_equal(quantized.codes[..., 0], want['tokens'])
  assert len(np.unique(want['tokens'])) > 40


@sizes
def test_a_step_of_the_flow_with_all_tokens_some_and_none(name):
  want, noise = golden(name), last(case.latents(name)[1])
  vectors = encoded(name)[1].embeddings
  run = jax.jit(
    lambda variables, length, without: loaded(name).module.apply(
      variables,
      noise,
      jnp.full(len(noise), case.TIME),
      vectors,
      length,
      without=without,
      method='velocity',
    )
  )
  all_, none = jnp.zeros(len(noise), bool), jnp.ones(len(noise), bool)
  for key, length, without in (
    ('step', whole(name), all_),
    ('step_cut', lengths(name), all_),
    ('step_null', whole(name), none),
  ):
    got = run(loaded(name).variables, length, without)
    got = np.moveaxis(np.asarray(got), -1, 1)
    close(case.thin(name, got), want[key])
  assert np.abs(want['step'] - want['step_cut']).max() > 0.1


@sizes
@pytest.mark.parametrize('key', ['drawn', 'drawn_plain', 'drawn_projected'])
def test_drawing_from_stored_noise(name, key):
  want = golden(name)
  if key not in want:
    pytest.skip('not in the file')
  noise = last(case.latents(name)[1])
  guidance = None if key == 'drawn' else case.GUIDANCE
  sampler = flow.FlowSampler(
    steps=case.STEPS,
    guidance=guidance,
    rule='projected' if key == 'drawn_projected' else 'plain',
  )
  vectors = encoded(name)[1].embeddings
  config = dataclasses.replace(loaded(name).spec.config, vae=None)
  c = case.CASES[name]
  pixels = dataclasses.replace(
    config, image_size=c['grid'], channels=c['channels'], patch=case.PATCH
  )
  # Without its autoencoder the model draws what it would decode.
  drawn = jax.jit(
    lambda variables: pixels.build().apply(
      variables, vectors, lengths(name), noise, sampler=sampler, method='draw'
    )
  )(loaded(name).variables)
  drawn = np.moveaxis(np.asarray(drawn), -1, 1)
  close(case.thin(name, drawn), want[key], 1e-3)


@functools.cache
def autoencoder(name):
  weights = released_weights(name)
  weights = {k.removeprefix('vae.'): x for k, x in weights.items()}
  config = autoencoder_kl_keys.config_of(
    {k: x.shape for k, x in weights.items()}
  )
  config = dataclasses.replace(
    config,
    image_size=case.VAES[name]['side'],
    groups=32,
    scaling=case.SCALING,
  )
  return config.build(), variables_of(weights, autoencoder_kl_keys, config)


@vaes
def test_autoencoder(name):
  module, variables = autoencoder(name)
  want, pixels = golden(name), last(case.images(name))
  latents = jax.jit(lambda v: module.apply(v, pixels, method='to_map'))(
    variables
  )
  close(np.moveaxis(np.asarray(latents), -1, 1), want['latents'])
  given = last(want['latents'])
  painted = jax.jit(lambda v: module.apply(v, given, method='from_map'))(
    variables
  )
  painted = np.moveaxis(np.asarray(painted), -1, 1)
  close(case.thin(name, painted), want['painted'])


def test_from_pixels_to_pixels_through_the_latents():
  """encode and decode are the parts that are compared above, in a row."""
  model = loaded('small')
  side = model.spec.config.image_size
  images = jax.random.uniform(jax.random.key(0), (2, side, side, 3), minval=-1)
  codes = jax.jit(model.encode)(images)
  assert codes.codes.shape == (2, 48, 1) and codes.codes.dtype == jnp.int32
  variables = model.variables

  @jax.jit
  def by_hand(variables, keys):
    module = model.module.bind(variables)
    z = module.encoder(module.vae.to_map(images))
    vectors = module.quantize(z, whole('small')).embeddings
    noise = jax.vmap(lambda k: jax.random.normal(k, (8, 8, 4)))(keys)
    return module.draw(vectors, whole('small'), noise)

  keys = jax.random.split(jax.random.key(3), 2)
  got = jax.jit(model.decode)(codes, rng=keys)
  want = np.clip(by_hand(variables, keys), -1, 1)
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_noise_is_of_an_image_and_not_of_its_batch():
  model = loaded('small')
  codes = jnp.tile(encoded('small')[1].codes[:1], (3, 1, 1))
  decode = jax.jit(model.decode_codes)
  same = decode(codes)
  np.testing.assert_allclose(same[0], same[1], atol=1e-5)
  keyed = decode(codes, rng=jax.random.key(1))
  assert np.abs(keyed[0] - keyed[1]).max() > 0.01
  keys = jax.random.split(jax.random.key(1), 3)
  alone = decode(codes[1:2], rng=keys[1:2])
  np.testing.assert_allclose(alone[0], keyed[1], atol=1e-4)
  quick = decode(codes, sampler=flow.FlowSampler(steps=1))
  assert np.abs(quick - same).max() > 0.01


def test_a_prefix_alone_decodes_as_it_does_in_its_row():
  model, codes = loaded('small'), encoded('small')[1].codes
  cut = jax.jit(model.decode_codes)(codes[:, :5])
  row = jax.jit(model.decode_codes)(codes, length=5)
  np.testing.assert_allclose(cut, row, atol=1e-5)


def test_registers_see_the_patches_and_those_before_them():
  mask = flextok_network.register_mask(3, 4)
  for query, key in np.ndindex(7, 7):
    assert mask[query, key] == (key < 3 or key <= query)


@pytest.mark.parametrize('name', ['small', 'vae_small'])
def test_released_names_are_all_used(name):
  """One tensor more or less is reported by its name."""
  weights = released_weights(name)
  keys = autoencoder_kl_keys if name == 'vae_small' else flextok_keys
  if name == 'vae_small':
    weights = {k.removeprefix('vae.'): x for k, x in weights.items()}
  config = keys.config_of({k: x.shape for k, x in weights.items()})
  with pytest.raises(UserError, match=r'not used:\s+more'):
    variables_of({**weights, 'more': np.zeros(1)}, keys, config)
  lost = next(k for k in weights if k.endswith('conv_in.bias'))
  less = {k: x for k, x in weights.items() if k != lost}
  with pytest.raises(UserError, match='1 missing'):
    variables_of(less, keys, config)


def test_sizes_are_read_off_the_tensors():
  config, c = loaded('small').spec.config, case.CASES['small']
  towers = (config.encoder, config.decoder)
  assert tuple(t.width for t in towers) == c['width']
  assert tuple(t.depth for t in towers) == c['depth']
  assert config.tokens == c['tokens'] and config.null == 'learned'
  assert config.quantizer.codebook_size == 64_000
  assert config.quantizer.form == 'lucidrains'
  assert config.vae.quantizer.dim == c['channels'] and config.vae.patch == 4
  assert config.image_size == 32 and config.patch == 8
  weights = released_weights('small')
  shapes = {k: x.shape for k, x in weights.items() if 'nullcond' not in k}
  assert flextok_keys.config_of(shapes).null == 'zero'
  with pytest.raises(UserError, match=r'lacks encoder\.registers'):
    flextok_keys.config_of({'x': (1,)})


def test_learned_places_are_refused():
  weights = released_weights('small')
  name = next(k for k in weights if k.endswith(case.FIXED))
  weights[name] = weights[name] + 0.1
  with pytest.raises(UserError, match='learned ones are not supported'):
    flextok_keys.prepare(weights)


DESCRIPTION = {
  'vae': {'scaling_factor': 0.5, 'latent_channels': 4},
  'regularizer': {'levels': [8, 8, 8, 5, 5, 5]},
  'decoder': {'module_dict': {'any_name': {'max_timestep': 1.0}}},
}


@pytest.mark.parametrize('where', ['header', 'beside'])
def test_a_file_is_converted_with_what_its_description_says(tmp_path, where):
  weights = released_weights('small')
  header = {k: str(v) for k, v in DESCRIPTION.items()}
  path = tmp_path / 'model.safetensors'
  save_file(weights, path, metadata=header if where == 'header' else None)
  if where == 'beside':
    with pytest.raises(UserError, match=r'config\.json beside it'):
      convert_lib.convert(path, 'flextok')
    (tmp_path / 'config.json').write_text(json.dumps(DESCRIPTION))
  found = convert_lib.convert(path, 'flextok')
  config = found.spec.config
  assert (config.vae.scaling, config.max_timestep) == (0.5, 1.0)
  assert 'research only' in found.spec.licence
  ours = loaded('small').variables
  jax.tree.map(np.testing.assert_array_equal, found.variables, ours)
  # The autoencoder alone, out of the same file.
  (tmp_path / 'config.json').write_text('{"scaling_factor": 0.25}')
  vae = convert_lib.convert(path, 'autoencoder-kl')
  assert vae.spec.config.scaling == 0.25
  jax.tree.map(
    np.testing.assert_array_equal,
    vae.variables['params'],
    ours['params']['vae'],
  )


def test_descriptions_that_do_not_fit_are_refused():
  config = loaded('small').spec.config
  few = DESCRIPTION | {'regularizer': {'levels': [8, 8]}}
  with pytest.raises(UserError, match=r'levels \[8, 8\]'):
    flextok_keys.describe(config, few)
  nothing = DESCRIPTION | {'vae': {'scaling_factor': None}}
  with pytest.raises(UserError, match='scaling_factor=None'):
    flextok_keys.describe(config, nothing)
  with pytest.raises(UserError, match='scaling_factor'):
    autoencoder_kl_keys.describe(config.vae, {})


def test_published_sizes_are_the_official_ones():
  """d18-d18 with its sines: the 949.7M of GPSToken's table 1."""
  row = released.RELEASED['flextok-d18-d18-in1k']
  config = row.make_config()
  sines_of = 256 * (config.encoder.width + config.decoder.width)
  assert f'{(row.parameters + sines_of) / 1e6:.1f}' == '949.7'


def test_configs_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='tokens must be at least 1'):
    tokenizers.FlexTokConfig(tokens=0)
  with pytest.raises(ValueError, match='its patch divides'):
    tokenizers.FlexTokConfig(patch=4)
  with pytest.raises(ValueError, match='divisible by 4'):
    tokenizers.FlexTokConfig(
      encoder=tokenizers.TowerConfig(width=66, depth=1, heads=1)
    )
  with pytest.raises(ValueError, match='scaling must be above 0'):
    tokenizers.AutoencoderKLConfig(scaling=0.0)
  with pytest.raises(ValueError, match='shrink an image by 8'):
    tokenizers.AutoencoderKLConfig(patch=16)


def test_an_autoencoder_is_a_tokenizer_of_scaled_means():
  module, variables = autoencoder('vae_small')
  pixels = last(case.images('vae_small'))
  apply = jax.jit(module.apply, static_argnames='method')
  codes = apply(variables, pixels, method='encode')
  assert codes.codes is None and codes.embeddings.shape == (2, 64, 4)
  drawn = apply(variables, pixels, rng=jax.random.key(0), method='encode')
  moments = apply(variables, pixels, method='latents')
  mean, log_variance = np.split(np.asarray(moments), 2, axis=-1)
  np.testing.assert_allclose(
    codes.embeddings, case.SCALING * mean, rtol=1e-5, atol=1e-5
  )
  noise = jax.random.normal(jax.random.key(0), mean.shape)
  want = case.SCALING * (mean + np.exp(log_variance / 2) * noise)
  np.testing.assert_allclose(drawn.embeddings, want, rtol=1e-4, atol=1e-4)
  again = apply(variables, codes, method='decode')
  assert again.shape == pixels.shape
