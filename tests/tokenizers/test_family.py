"""What holds for every tokenizer; a new method joins `ROWS` below.

Parameters are redrawn, so that nothing that starts at zero hides an error.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tokpress_jax import nn, quantize, released, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import export
from tokpress_jax.io import load as load_lib

B, SIDE, CHANNELS = 8, 6, 2
IMAGE = {'image_size': SIDE, 'channels': CHANNELS, 'patch': 2}
SMALL = {
  **IMAGE,
  'width': 8,
  'heads': 2,
  'encoder_depth': 1,
  'decoder_depth': 1,
}
VQ = quantize.VQConfig(codebook_size=13, dim=4)
# So that small changes of a latent change its code.
MANY = quantize.VQConfig(codebook_size=97, dim=4)
TOWER = tokenizers.TowerConfig(width=8, depth=1, heads=2)
MASKGIT = tokenizers.MaskGITVQGANConfig(
  **IMAGE,
  width=4,
  multipliers=(1, 2),
  blocks=1,
  groups=2,
  quantizer=dataclasses.replace(VQ, distance='cosine'),
)
LARGE = {'width': 1024, 'heads': 16, 'encoder_depth': 24, 'decoder_depth': 24}
BASE = {'width': 768, 'heads': 12, 'encoder_depth': 12, 'decoder_depth': 12}


@dataclasses.dataclass(frozen=True)
class Row:
  config: Any
  # Configs of about the published sizes, by name; None for a released one.
  published: dict[str, Any]
  # Parts of names of parameters that reconstruction does not reach.
  untaught: tuple[str, ...] = ()


ROWS = {
  'one_d_vq': Row(
    tokenizers.OneDConfig(**SMALL, tokens=5, quantizer=VQ),
    {
      'titok-l-32': tokenizers.OneDConfig(**LARGE, tokens=32),
      'titok-b-64': tokenizers.OneDConfig(**BASE, tokens=64),
    },
  ),
  'one_d_fsq': Row(
    tokenizers.OneDConfig(
      **SMALL, tokens=5, quantizer=quantize.FSQConfig(levels=(4, 3, 5))
    ),
    {
      'titok-b-256-fsq': tokenizers.OneDConfig(
        **BASE, tokens=256, quantizer=quantize.FSQConfig(levels=(8, 5, 5, 5))
      ),
    },
  ),
  'multi_scale_vq': Row(
    tokenizers.MultiScaleConfig(
      **SMALL,
      quantizer=quantize.MultiScaleVQConfig(vq=VQ, scales=(1, 2, 3), phi=2),
    ),
    {
      'var-256': tokenizers.MultiScaleConfig(**BASE),
      'var-512': tokenizers.MultiScaleConfig(
        **BASE,
        image_size=512,
        quantizer=quantize.MultiScaleVQConfig(
          vq=quantize.VQConfig(codebook_size=4096, dim=32),
          scales=(1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
        ),
      ),
    },
  ),
  'var_vqvae': Row(
    tokenizers.VARTokenizerConfig(
      image_size=SIDE,
      channels=CHANNELS,
      patch=2,
      width=4,
      multipliers=(1, 2),
      blocks=1,
      groups=2,
      quantizer=quantize.MultiScaleVQConfig(vq=VQ, scales=(1, 2, 3), phi=2),
    ),
    {'var-vqvae': tokenizers.VARTokenizerConfig()},
  ),
  'maskgit_vqgan': Row(MASKGIT, {'maskgit-vqgan': None}),
  # Its tokens are vectors.
  'autoencoder_kl': Row(
    tokenizers.AutoencoderKLConfig(
      **IMAGE,
      width=4,
      multipliers=(1, 2),
      blocks=1,
      groups=2,
      quantizer=quantize.GaussianConfig(dim=3),
      scaling=0.5,
    ),
    {'flextok-vae-c4': None, 'flextok-vae-c16': None},
  ),
  # As One-D-Piece: every prefix, mixed latents, painted by a VQGAN.
  'titok_codes': Row(
    tokenizers.TiTokConfig(
      **IMAGE,
      tokens=5,
      encoder=TOWER,
      decoder=TOWER,
      quantizer=dataclasses.replace(VQ, distance='cosine'),
      layout='legacy',
      prefixes='any',
      vqgan=MASKGIT,
    ),
    {'titok-l32': None, 'one-d-piece-s256': None},
  ),
  # Its codes depend on the length.
  'elastictok': Row(
    tokenizers.ElasticTokConfig(
      **SMALL,
      frames=2,
      patch_frames=2,
      shortest=5,
      quantizer=quantize.FSQConfig(levels=(4, 3, 5)),
    ),
    {'elastictok-fsq': None},
  ),
  # As TA-TiTok: towers of two sizes, pixels, a text.
  'titok_text': Row(
    tokenizers.TiTokConfig(
      **IMAGE,
      tokens=5,
      encoder=TOWER,
      decoder=tokenizers.TowerConfig(width=12, depth=1, heads=3),
      quantizer=dataclasses.replace(VQ, codebook_size=64),
      text_tokens=3,
      text_features=7,
    ),
    {'titok-sl256-vq8k': None, 'tatitok-bl32-vq': None},
  ),
  # Pixels are drawn by a guided flow.
  'flextok': Row(
    tokenizers.FlexTokConfig(
      **IMAGE,
      tokens=5,
      encoder=TOWER,
      decoder=dataclasses.replace(TOWER, width=12, heads=3),
      quantizer=quantize.FSQConfig(levels=(4, 3, 5), form='lucidrains'),
      vae=None,
      steps=2,
      guidance=2.0,
    ),
    {
      'flextok-d12-d12-in1k': None,
      'flextok-d18-d18-in1k': None,
      'flextok-d18-d28-in1k': None,
    },
  ),
  'karl': Row(
    tokenizers.KARLConfig(
      **IMAGE,
      tokens=5,
      slots=6,
      encoder=TOWER,
      decoder=tokenizers.TowerConfig(width=12, depth=1, heads=3),
      quantizer=MANY,
      bins=(0.1, 0.2),
      halting_width=8,
      places=4,
      vqgan=MASKGIT,
    ),
    {'karl-small': None},
    untaught=('halting',),  # By `KARLTask` alone.
  ),
  'alit': Row(
    tokenizers.ALITConfig(
      **IMAGE,
      rounds=3,
      tokens=2,
      encoder=TOWER,
      decoder=TOWER,
      quantizer=MANY,
      explained=0.0,
      vqgan=MASKGIT,
    ),
    {'alit-small': None, 'alit-semilarge': None},
  ),
}
every = pytest.mark.parametrize('name', ROWS)
PUBLISHED = {
  k: c or released.RELEASED[k].make_config()
  for row in ROWS.values()
  for k, c in row.published.items()
}
IMAGES = jax.random.uniform(
  jax.random.key(0), (B, SIDE, SIDE, CHANNELS), minval=-1
)


@functools.cache
def loaded(name, dtype=jnp.float32):
  config = ROWS[name].config
  module = config.build(dtype=dtype)
  shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
  rng = np.random.default_rng(1)

  def draw(path, x):
    kind = path[-1].key
    scale = 0.3 if x.ndim < 2 else x.shape[-2] ** -0.5
    # As large as what they are added to or compared with, and norms about 1.
    draws = {'table': (1, 0), 'codebook': (1, 0), 'scale': (0.3, 1)}
    draws |= {'bias': (0.3, 0)}
    scale, shift = draws.get(kind, (scale, 0))
    return jnp.asarray(rng.normal(size=x.shape) * scale + shift, jnp.float32)

  spec = types.Spec(name='tiny', family='tokenizer', config=config)
  drawn = jax.tree_util.tree_map_with_path(draw, shapes)
  return types.Loaded(module, drawn, spec)


@functools.cache
def compiled(name, method, dtype=jnp.float32):
  """One compiled program per method, shared by the tests; counts its traces."""
  module = loaded(name, dtype).module
  traces = []

  @jax.jit
  def run(variables, *args, **options):
    traces.append(args)
    if method == 'encode':
      images, length = args
      policy = tokenizers.Prefix(length)
      return module.apply(variables, images, policy=policy, method='encode')
    return module.apply(variables, *args, **options, method=method)

  return run, traces


def extra(name, batch=B):
  """What the decoder reads beside tokens: the same text for each image."""
  shape = ROWS[name].config.condition_shape
  if shape is None:
    return {}
  text = np.random.default_rng(4).normal(size=shape).astype(np.float32)
  return {'condition': np.tile(text, (batch, 1, 1))}


def reconstruct(name, images=IMAGES, length=None, model=None):
  model = model or loaded(name)
  if length is None:
    length = jnp.full(images.shape[:1], model.num_tokens)
  run, _ = compiled(name, 'reconstruct', model.module.dtype)
  return run(model.variables, images, length, **extra(name, len(images)))


def encode(name, images=IMAGES, length=None, model=None):
  model = model or loaded(name)
  if length is None:
    length = jnp.full(images.shape[:1], model.num_tokens)
  return compiled(name, 'encode')[0](model.variables, images, length)


def tokens_of(encoded):
  """Codes, or the embeddings of a continuous tokenizer."""
  return encoded.embeddings if encoded.codes is None else encoded.codes


def decode(name, tokens, length, model=None):
  model = model or loaded(name)
  continuous = ROWS[name].config.continuous
  encoded = types.Encoded(
    codes=None if continuous else tokens,
    embeddings=tokens if continuous else None,
    valid=tokenizers.prefix_mask(length, tokens.shape[1]),
    length=length,
    positions=None,
    image_size=jnp.full((tokens.shape[0], 2), SIDE),
  )
  run = compiled(name, 'decode')[0]
  return run(model.variables, encoded, **extra(name, len(tokens)))


def decode_bare(name, tokens, model=None):
  """Decodes tokens alone, without what `encode` says of them."""
  continuous = ROWS[name].config.continuous
  method = 'decode_embeddings' if continuous else 'decode_codes'
  return getattr(model or loaded(name), method)(tokens, **extra(name))


def lengths(name, seed=0):
  """One legal length per image, every one of them used."""
  bounds = np.array(ROWS[name].config.boundaries)
  return jnp.asarray(
    np.random.default_rng(seed).permutation(np.resize(bounds, B)), jnp.int32
  )


def other_tokens(name, tokens):
  """Tokens that differ from the given ones everywhere."""
  rng = np.random.default_rng(3)
  if ROWS[name].config.continuous:
    return tokens + rng.uniform(0.5, 2, size=tokens.shape).astype(np.float32)
  size = ROWS[name].config.codebook_size
  return (tokens + rng.integers(1, size, size=tokens.shape)) % size


def close(a, b, atol=1e-5):
  np.testing.assert_allclose(
    np.asarray(a, np.float32),
    np.asarray(b, np.float32),
    rtol=1e-6,
    atol=atol,
  )


def same(a, b):
  """Equal if they are whole numbers, else close."""
  whole = not jnp.issubdtype(a.dtype, jnp.floating)
  (np.testing.assert_array_equal if whole else close)(a, b)


@every
def test_init_and_apply_give_images_of_the_same_size(name):
  config = ROWS[name].config
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(0), IMAGES)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  out = reconstruct(
    name, model=types.Loaded(module, variables, loaded(name).spec)
  )
  assert out.images.shape == IMAGES.shape and out.images.dtype == jnp.float32
  codes = out.quantized.codes
  if config.continuous:
    shape = (B, config.num_tokens, config.quantizer.dim)
    assert codes is None and out.quantized.embeddings.shape == shape
    with pytest.raises(UserError, match='this tokenizer is continuous'):
      _ = config.bits_per_token
    return
  assert codes.dtype == jnp.int32
  assert codes.shape == (B, config.num_tokens, config.quantizer.num_codes)
  assert codes.min() >= 0 and codes.max() < config.codebook_size
  want = config.quantizer.num_codes * np.log2(config.codebook_size)
  np.testing.assert_allclose(config.bits_per_token, want)


@every
def test_jit_equals_eager(name):
  model, length = loaded(name), lengths(name)
  eager = model.encode(IMAGES, policy=tokenizers.Prefix(length))
  encoded = encode(name, length=length)
  jax.tree.map(same, encoded, eager)
  painted = decode(name, tokens_of(encoded), length)
  close(painted, model.decode(eager, **extra(name)))
  out = reconstruct(name, length=length)
  want = model.reconstruct(IMAGES, length, **extra(name))
  close(out.images, want.images)
  close(out.quantized.loss, want.quantized.loss)


@every
def test_encoded_says_what_it_holds(name):
  length = lengths(name)
  encoded = encode(name, length=length)
  np.testing.assert_array_equal(encoded.length, length)
  np.testing.assert_array_equal(encoded.valid.sum(axis=1), length)
  assert (np.diff(encoded.valid.astype(int), axis=1) <= 0).all()
  np.testing.assert_array_equal(encoded.image_size, np.full((B, 2), SIDE))
  config = ROWS[name].config
  assert (encoded.codes is None) == config.continuous
  assert (encoded.embeddings is None) != config.continuous
  some, whole = tokens_of(encoded), tokens_of(encode(name))
  # A prefix: which tokens come first does not depend on how many are kept.
  if config.nested:
    np.testing.assert_array_equal(some, whole)
  else:
    assert (some != whole).any()
  assert len(np.unique(whole)) > 3


@every
def test_decoding_agrees_with_itself_and_with_the_training_pass(name):
  model, encoded = loaded(name), encode(name)
  want = decode(name, tokens_of(encoded), encoded.length)
  assert np.abs(want).max() <= 1
  again = decode_bare(name, tokens_of(encoded))
  np.testing.assert_array_equal(again, model.decode(encoded, **extra(name)))
  close(again, want)
  for length in (encoded.length, lengths(name)):
    trained = reconstruct(name, length=length).images
    tokens = tokens_of(encode(name, length=length))
    painted = decode(name, tokens, length)
    close(painted, np.clip(trained, -1, 1))


@every
def test_bfloat16_is_finite_and_near(name):
  low = loaded(name, jnp.bfloat16)
  out = reconstruct(name, model=low)
  assert np.isfinite(out.images).all() and np.isfinite(out.quantized.loss)
  assert out.images.dtype == jnp.float32
  if out.quantized.codes is not None:
    assert out.quantized.codes.max() < low.codebook_size
  # Tokens may differ; from the same ones, images are near.
  whole = encode(name)
  tokens = tokens_of(whole)
  again = jax.jit(lambda x: decode_bare(name, x, low))(tokens)
  error = np.abs(again - decode(name, tokens, whole.length))
  assert error.mean() < 0.05


@every
def test_gradients_reach_every_parameter(name):
  model = loaded(name)
  rest = {k: v for k, v in model.variables.items() if k != 'params'}

  def loss(params):
    # Of several lengths: what stands for missing tokens learns from the short.
    out = model.module.apply(
      {'params': params, **rest},
      IMAGES,
      lengths(name),
      **extra(name),
      method='reconstruct',
    )
    return jnp.mean((out.images - IMAGES) ** 2) + out.quantized.loss

  value, grads = jax.jit(jax.value_and_grad(loss))(model.variables['params'])
  assert np.isfinite(value)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    key = jax.tree_util.keystr(path)
    untaught = any(part in key for part in ROWS[name].untaught)
    assert np.isfinite(grad).all() and np.any(grad) != untaught, key


@every
def test_batch_of_one_equals_row_of_a_batch(name):
  length = lengths(name)
  encoded = encode(name, length=length)
  images = decode(name, tokens_of(encoded), length)
  one = encode(name, IMAGES[3:4], length[3:4])
  same(tokens_of(one)[0], tokens_of(encoded)[3])
  close(decode(name, tokens_of(one), one.length)[0], images[3])


@every
def test_images_that_are_padding_do_not_count(name):
  model = loaded(name)
  mask = jnp.arange(B) < 5
  junk = jnp.where(mask[:, None, None, None], IMAGES, 0.9)
  length = lengths(name)
  run = jax.jit(
    lambda x: model.reconstruct(x, length, mask=mask, **extra(name)).quantized
  )
  got, want = run(junk), run(IMAGES)
  jax.tree.map(close, got.losses, want.losses)
  jax.tree.map(close, got.stats, want.stats)
  alone = reconstruct(name, IMAGES[:5], length[:5]).quantized
  assert (got.stats is None) == ROWS[name].config.continuous
  if got.stats is not None:
    np.testing.assert_array_equal(got.stats.count, alone.stats.count)
  close(got.loss, alone.loss)


@every
def test_tokens_beyond_the_length_are_ignored(name):
  tokens = tokens_of(encode(name))
  other = other_tokens(name, tokens)
  slots = np.arange(tokens.shape[1])[None, :, None]
  for length in ROWS[name].config.boundaries:
    n = jnp.full((B,), length)
    changed = jnp.where(slots < length, tokens, other)
    got, want = decode(name, changed, n), decode(name, tokens, n)
    np.testing.assert_array_equal(got, want)
    if length < tokens.shape[1]:
      whole = decode(name, changed, jnp.full((B,), tokens.shape[1]))
      assert np.abs(whole - want).max() > 1e-3
  first = jnp.where(slots < 1, other, tokens)
  one = jnp.full((B,), ROWS[name].config.boundaries[0])
  assert (
    np.abs(decode(name, first, one) - decode(name, tokens, one)).max() > 1e-3
  )


def test_masking_a_row_is_cutting_it():
  """A one-dimensional tokenizer of n slots is the first n of a longer one."""
  model, n = loaded('one_d_vq'), 2
  short = dataclasses.replace(model.spec.config, tokens=n).build()
  shapes = jax.eval_shape(short.init, jax.random.key(0), IMAGES)
  cut = jax.tree.map(
    lambda x, s: x[tuple(slice(k) for k in s.shape)], model.variables, shapes
  )
  codes = encode('one_d_vq').codes
  got = short.apply(cut, codes[:, :n], method='decode_codes')
  close(got, decode('one_d_vq', codes, jnp.full((B,), n)))


def test_cutting_a_pyramid_is_summing_its_first_scales():
  model, codes = loaded('multi_scale_vq'), encode('multi_scale_vq').codes
  config = model.spec.config
  quantizer = config.quantizer.build()
  own = {k: v['quantizer'] for k, v in model.variables.items()}
  for scales, stop in enumerate(config.boundaries, start=1):
    total = quantizer.apply(
      own, codes[:, :stop], scales=scales, method='lookup'
    )
    want = np.clip(model.decode_map(total), -1, 1)
    close(decode('multi_scale_vq', codes, jnp.full((B,), stop)), want)


@every
def test_lengths_per_image_are_one_compilation(name):
  tokens = tokens_of(encode(name))
  mixed = lengths(name, seed=1)
  got = decode(name, tokens, mixed)
  traced = len(compiled(name, 'decode')[1])
  trained = reconstruct(name, length=mixed).images
  passes = len(compiled(name, 'reconstruct')[1])
  for length in ROWS[name].config.boundaries:
    rows = np.flatnonzero(mixed == length)
    assert rows.size
    same = jnp.full((B,), length)
    close(got[rows], decode(name, tokens, same)[rows])
    close(trained[rows], reconstruct(name, length=same).images[rows])
  assert len(compiled(name, 'decode')[1]) == traced
  assert len(compiled(name, 'reconstruct')[1]) == passes


@every
def test_every_policy_is_one_program_with_legal_lengths(name):
  model, bounds = loaded(name), np.array(ROWS[name].config.boundaries)
  text = extra(name)

  def decibels(n):
    length = jnp.full((B,), n)
    painted = decode(name, tokens_of(encode(name, length=length)), length)
    return tokenizers.lengths.decibels(painted, IMAGES)

  table = np.stack([decibels(n) for n in bounds], axis=1)
  # Halfway between two PSNRs, so that rounding decides nothing.
  near = np.sort(table.ravel())[table.size // 2 - 1 :]
  target = np.float32(near[:2].mean())
  budget = jnp.arange(B)

  @jax.jit
  def run(variables, budget, target):
    return [
      model.module.apply(
        variables, IMAGES, policy=policy, method='encode', **text
      ).length
      for policy in (
        tokenizers.Fixed(tokens=int(bounds[-1])),
        tokenizers.Prefix(budget),
        tokenizers.Quality(target=target),
        tokenizers.Quality(target=target, search='scan'),
      )
    ]

  fixed, prefix, bisect, scan = run(model.variables, budget, target)
  np.testing.assert_array_equal(fixed, np.full(B, bounds[-1]))
  below = [max(bounds[bounds <= n], default=bounds[0]) for n in range(B)]
  np.testing.assert_array_equal(prefix, below)
  good = table >= target
  want = np.where(good.any(1), bounds[good.argmax(1)], bounds[-1])
  np.testing.assert_array_equal(scan, want)
  np.testing.assert_array_equal(bisect, want)  # It looks at all before, too.
  run(model.variables, budget + 1, target + 1)
  assert run._cache_size() == 1


@every
def test_sharded_over_eight_devices_equals_one(name):
  model = loaded(name)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  put = lambda x, *axes: jax.device_put(
    x, NamedSharding(mesh, PartitionSpec(*axes))
  )
  spread = dataclasses.replace(model, variables=put(model.variables))
  length = lengths(name)
  got = reconstruct(name, put(IMAGES, 'data'), put(length, 'data'), spread)
  assert len(got.images.sharding.device_set) == 8
  want = reconstruct(name, length=length)
  jax.tree.map(same, got, want)


@every
def test_save_and_restore(name, tmp_path, capsys):
  model = loaded(name)
  export.export(model.module, model.variables, tmp_path, licence='CC0-1.0')
  again = load_lib.load(tmp_path)
  assert 'CC0-1.0' in capsys.readouterr().out
  assert again.spec.config == model.spec.config
  assert again.boundaries == model.boundaries
  jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
  encoded = encode(name, model=again)
  tokens = tokens_of(encoded)
  np.testing.assert_array_equal(tokens, tokens_of(encode(name)))
  images = decode(name, tokens, encoded.length, model=again)
  np.testing.assert_array_equal(images, decode(name, tokens, encoded.length))


@pytest.mark.parametrize('name', PUBLISHED)
def test_shapes_at_published_sizes(name):
  config = PUBLISHED[name]
  module = config.build(dtype=jnp.bfloat16)
  images = jax.ShapeDtypeStruct(
    (2, config.image_size, config.image_size, 3), jnp.float32
  )
  variables = jax.eval_shape(module.init, jax.random.key(0), images)
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  if name in released.RELEASED:
    assert count == released.RELEASED[name].parameters  # the official classes'
  else:
    # 12 D^2 per layer of attention and MLP is all but a few percent of it.
    layers = config.encoder_depth + config.decoder_depth
    np.testing.assert_allclose(count, 12 * layers * config.width**2, rtol=0.06)
  encoded = jax.eval_shape(
    lambda v, x: module.apply(v, x, method='encode'), variables, images
  )
  features = config.quantizer.dim if config.continuous else 1
  assert tokens_of(encoded).shape == (2, config.num_tokens, features)
  text = {}
  if config.condition_shape is not None:
    shape = (2, *config.condition_shape)
    text['condition'] = jax.ShapeDtypeStruct(shape, jnp.float32)
  again = jax.eval_shape(
    lambda v, x, **text: module.apply(v, x, **text, method='decode'),
    variables,
    encoded,
    **text,
  )
  assert again.shape == images.shape and again.dtype == jnp.float32


def test_published_lengths():
  assert PUBLISHED['var-256'].num_tokens == 680
  assert PUBLISHED['var-512'].num_tokens == 2240
  assert PUBLISHED['titok-l-32'].bits_per_token == 12


@every
def test_images_that_the_patches_do_not_tile_are_refused(name):
  config = ROWS[name].config
  with pytest.raises(
    ValueError, match=r'image_size=7 .* patches of 2'
  ) as error:
    dataclasses.replace(config, image_size=7)
  assert 'change image_size' in str(error.value)


@every
@pytest.mark.parametrize(
  'shape', [(2, 4, 4, CHANNELS), (2, SIDE, SIDE, 3), (SIDE, SIDE, CHANNELS)]
)
def test_images_of_another_shape_are_refused(name, shape):
  model, images = loaded(name), jnp.zeros(shape)
  for call in (model.encode, model):
    with pytest.raises(ValueError) as error:
      call(images)
    assert f'takes images [B, {SIDE}, {SIDE}, {CHANNELS}]' in str(error.value)
    assert str(list(shape)) in str(error.value)


@every
def test_budgets_that_do_not_fit_are_refused(name):
  model = loaded(name)
  for budget in (0, model.num_tokens + 1):
    with pytest.raises(UserError, match=f'a budget of {budget} tokens'):
      model.encode(IMAGES, policy=tokenizers.Fixed(tokens=budget))
  with pytest.raises(ValueError, match='one length per image'):
    model.encode(IMAGES, policy=tokenizers.Prefix(jnp.ones(B + 1, jnp.int32)))


def test_a_budget_between_scales_is_rounded_down_and_said():
  model = loaded('multi_scale_vq')
  with pytest.warns(
    UserWarning, match='7 tokens is no legal length .* using 5'
  ):
    encoded = model.encode(IMAGES, policy=tokenizers.Fixed(tokens=7))
  np.testing.assert_array_equal(encoded.length, np.full(B, 5))
  np.testing.assert_array_equal(encoded.valid.sum(axis=1), np.full(B, 5))


def test_configs_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='last scale must be the patch grid, 3'):
    tokenizers.MultiScaleConfig(
      **SMALL,
      quantizer=quantize.MultiScaleVQConfig(vq=VQ, scales=(1, 2), phi=0),
    )
  with pytest.raises(ValueError, match='tokens must be at least 1, got 0'):
    tokenizers.OneDConfig(**SMALL, tokens=0)


def test_unstacked_layers_decode_the_same():
  model = loaded('one_d_vq')
  split = dataclasses.replace(model, variables=nn.unstack(model.variables))
  codes = encode('one_d_vq').codes
  close(split.decode_codes(codes), model.decode_codes(codes))
