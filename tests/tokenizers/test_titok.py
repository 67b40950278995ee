"""The TiTok family against the official code, by golden files.

`tests/golden/make_titok.py` says what made them. Tolerances are relative to the
standard deviation of the official output.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import titok_case as case
from redraw import redraw, unpack

from tokpress_jax import quantize, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.tokenizers import maskgit_vqgan_keys, titok, titok_keys

IMAGES, TEXT, NOISE = case.inputs()
PIXELS = 2 * np.moveaxis(IMAGES, 1, -1) - 1
TITOKS = ('legacy', 'vq8k', 'vae', 'tatitok', 'tatitok_vae', 'one_d_piece')
every = pytest.mark.parametrize('name', TITOKS)


@functools.cache
def golden(name):
  file = 'one_d_piece' if name == 'one_d_piece' else 'titok'
  with np.load(case.GOLDEN / f'{file}.npz') as arrays:
    return {
      k.removeprefix(f'{name}/'): v
      for k, v in arrays.items()
      if k.startswith(f'{name}/')
    }


def weights_of(name):
  shapes = unpack(golden(name)['shapes'])
  some = {k: s for k, s in shapes.items() if not k.endswith(case.FIXED)}
  weights = redraw(some, rules=case.RULES)
  # Statistics are dropped, whatever they are.
  return weights | {k: np.ones(shapes[k]) for k in shapes if k not in some}


@functools.cache
def loaded(name):
  weights = weights_of(name)
  shapes = {k: x.shape for k, x in weights.items()}
  if name == 'maskgit':
    keys = maskgit_vqgan_keys
    config = keys.config_of(shapes)
    config = dataclasses.replace(config, image_size=case.SIDE)
  else:
    keys = titok_keys
    piece = name == 'one_d_piece'
    config = (keys.one_d_piece_config_of if piece else keys.config_of)(shapes)
    heads = {width: heads for width, _, heads in case.TOWERS.values()}
    towers = {
      side: dataclasses.replace(size, heads=heads[size.width])
      for side, size in (
        ('encoder', config.encoder),
        ('decoder', config.decoder),
      )
    }
    config = dataclasses.replace(config, **towers)
  variables = keymap.convert(weights, keys.RULES, keys.expected(config))
  spec = types.Spec(name='', family='tokenizer', config=config)
  return types.Loaded(config.build(), variables, spec)


def condition(name):
  return {'condition': TEXT} if name.startswith('tatitok') else {}


@functools.cache
def ours(name):
  """Latents, what the bottleneck gives, and every prefix's reconstruction."""
  model, want = loaded(name), golden(name)
  lengths = case.PREFIXES if name == 'one_d_piece' else (model.num_tokens,)

  @jax.jit
  def run(model):
    latents = model.latents(PIXELS)
    whole = jnp.full((2,), model.num_tokens)
    quantized = model.quantize(latents, whole)
    render, tokens = model.render, want.get('codes')
    if tokens is None:
      render = model.render_embeddings
      tokens = np.moveaxis(want['tokens'][:, :, 0], 1, -1)
    else:
      tokens = tokens[..., None]
    tokens = np.tile(tokens, (len(lengths), 1, 1))
    painted = render(tokens, np.repeat(lengths, 2), **condition(name))
    painted = painted.reshape(len(lengths), 2, *painted.shape[1:])
    return latents, quantized, painted

  return run(model)


def close(ours, theirs, tolerance=1e-4):
  """Compares float arrays in units of the official output's deviation."""
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


@every
def test_latents_codes_losses_and_every_prefix(name):
  want = golden(name)
  latents, quantized, painted = ours(name)
  close(latents, np.moveaxis(want['latents'][:, :, 0], 1, -1))
  if name.endswith('vae'):
    np.testing.assert_allclose(quantized.loss, 1e-6 * want['kl'], rtol=1e-4)
    assert quantized.codes is None
  else:
    np.testing.assert_array_equal(quantized.codes[..., 0], want['codes'])
    assert len(np.unique(want['codes'])) > 4
    np.testing.assert_allclose(quantized.loss, want['vq_loss'], rtol=1e-4)
  close((painted[:, :, ::3, ::3] + 1) / 2, np.moveaxis(want['painted'], 2, -1))


def test_a_drawn_gaussian_is_the_official_one(monkeypatch):
  noise = np.moveaxis(NOISE[:, :, 0], 1, -1)
  monkeypatch.setattr(jax.random, 'normal', lambda *_: jnp.asarray(noise))
  drawn = quantize.gaussian(ours('vae')[0], rng=jax.random.key(0))
  close(drawn.embeddings, np.moveaxis(golden('vae')['tokens'][:, :, 0], 1, -1))


def test_maskgit_vqgan():
  want, model = golden('maskgit'), loaded('maskgit')

  @jax.jit
  def run(model):
    latents = model.latents(PIXELS)
    whole = jnp.full((2,), model.num_tokens)
    painted = model.render(want['codes'][..., None], whole)
    return latents, model.quantize(latents, whole).codes, painted

  latents, codes, painted = run(model)
  latents = latents.reshape(2, 4, 4, -1)[..., ::8]
  close(latents, np.moveaxis(want['latents'], 1, -1))
  np.testing.assert_array_equal(codes[..., 0], want['codes'])
  assert len(np.unique(codes)) > 8
  close((painted[:, ::3, ::3] + 1) / 2, np.moveaxis(want['painted'], 1, -1))


def test_prefixes_differ_and_only_one_d_piece_has_them():
  painted = ours('one_d_piece')[2]
  for a, b in itertools.pairwise(painted):
    assert np.abs(a - b).max() > 0.05
  assert loaded('one_d_piece').boundaries == tuple(range(1, 9))
  assert loaded('legacy').boundaries == (8,)
  with pytest.raises(UserError, match='uses all of its 8 tokens'):
    loaded('legacy').encode(PIXELS, policy=tokenizers.Fixed(tokens=4))


def test_the_other_layout_gives_something_else():
  """No shape says the layout, and taking the wrong one is noise."""
  model, want = loaded('legacy'), golden('legacy')
  config = dataclasses.replace(model.spec.config, layout='token')
  other = dataclasses.replace(model, module=config.build())
  codes = jax.jit(other.encode)(PIXELS).codes[..., 0]
  assert (codes != want['codes']).mean() > 0.8
  shapes = {k: x.shape for k, x in weights_of('legacy').items()}
  assert titok_keys.config_of(shapes).layout == 'legacy'
  said = titok_keys.config_of(shapes, layout='token')
  assert said == dataclasses.replace(
    titok_keys.config_of(shapes), layout='token'
  )


@pytest.mark.parametrize('layout', ['token', 'legacy'])
def test_what_a_token_is_made_of(layout):
  x = np.arange(2 * 3 * 4).reshape(2, 3, 4)
  got = titok.gather_tokens(jnp.asarray(x), layout)
  for b, n, c in np.ndindex(2, 3, 4):
    flat = n * 4 + c if layout == 'token' else c * 3 + n
    assert got[b, n, c] == x[b].flat[flat]


@pytest.mark.parametrize('name', [*TITOKS, 'maskgit'])
def test_weights_go_back_to_the_released_names(name):
  keys = maskgit_vqgan_keys if name == 'maskgit' else titok_keys
  weights = weights_of(name)
  back = keymap.invert(loaded(name).variables, keys.RULES, weights)
  kept = {k: x for k, x in weights.items() if not k.endswith(case.FIXED)}
  assert back.keys() == kept.keys()
  for key, x in kept.items():
    np.testing.assert_array_equal(back[key], x, err_msg=key)


def test_sizes_are_read_off_the_tensors():
  configs = {name: loaded(name).spec.config for name in TITOKS}
  for name, config in configs.items():
    said = case.CASES[name]
    assert config.tokens == said['num_latent_tokens']
    for side in ('encoder', 'decoder'):
      size = case.TOWERS[said[f'vit_{side[:3]}_model_size']]
      assert dataclasses.astuple(getattr(config, side))[:3] == size
    assert (config.vqgan is not None) == said['finetune_decoder']
    assert (
      config.image_size == case.SIDE
      and config.quantizer.dim == (said['token_size'])
    )
  assert configs['legacy'].quantizer.distance == 'cosine'
  assert configs['vq8k'].quantizer.distance == 'l2'
  assert configs['tatitok'].condition_shape == (5, 24)
  assert configs['vae'].continuous and configs['vae'].condition_shape is None


def test_weights_of_another_variant_are_refused():
  weights = weights_of('tatitok')
  config = dataclasses.replace(loaded('tatitok').spec.config, text_tokens=0)
  with pytest.raises(UserError, match='not used') as error:
    keymap.convert(weights, titok_keys.RULES, titok_keys.expected(config))
  assert 'decoder/text/kernel (mapped)' in str(error.value)
  shapes = {k: x.shape for k, x in weights_of('legacy').items()}
  some = {k: s for k, s in shapes.items() if not k.startswith('pixel_dec')}
  with pytest.raises(UserError, match='first stage of training'):
    titok_keys.config_of(some)
  some = {k: s for k, s in shapes.items() if k != 'quantize.embedding.weight'}
  with pytest.raises(UserError, match='has no codebook'):
    titok_keys.config_of(some)
  pixels = {k: x.shape for k, x in weights_of('vq8k').items()}
  with pytest.raises(UserError, match='it is of the kind titok'):
    titok_keys.one_d_piece_config_of(pixels)
  with pytest.raises(UserError, match='lacks latent_tokens'):
    titok_keys.config_of({'encoder.conv_in.weight': (8, 3, 3, 3)})


def test_a_text_is_needed_and_matters():
  model = loaded('tatitok')
  codes = golden('tatitok')['codes'][..., None]
  decode = jax.jit(
    lambda codes, text: model.decode_codes(codes, condition=text)
  )
  one = decode(codes, TEXT)
  assert np.abs(one - decode(codes, TEXT[::-1])).max() > 0.01
  for given, said in ((None, 'None'), (TEXT[:, :4], r'\(2, 4, 24\)')):
    with pytest.raises(UserError, match=rf'=\(2, 5, 24\), got {said}'):
      model.decode_codes(codes, condition=given)
  with pytest.raises(UserError, match=r'reads condition=None, got \(2, 5'):
    loaded('vq8k').decode_codes(codes, condition=TEXT)


def test_continuous_tokens_are_encoded_drawn_and_decoded():
  model = loaded('vae')
  encode = jax.jit(lambda x, rng: model.encode(x, rng=rng))
  mean, drawn = encode(PIXELS, None), encode(PIXELS, jax.random.key(0))
  assert mean.codes is None and mean.embeddings.shape == (2, 6, 8)
  latents = ours('vae')[0]
  close(mean.embeddings, np.asarray(latents[..., :8]))
  spread = (drawn.embeddings - mean.embeddings) / np.exp(latents[..., 8:] / 2)
  assert 0.7 < np.std(spread) < 1.3
  again = encode(PIXELS, jax.random.key(0))
  np.testing.assert_array_equal(drawn.embeddings, again.embeddings)
  images = jax.jit(model.decode)(drawn)
  assert images.shape == PIXELS.shape and np.abs(images).max() <= 1
  with pytest.raises(ValueError, match='continuous: it has no codes'):
    model.decode_codes(np.zeros((2, 6, 1), np.int32))
  with pytest.raises(UserError, match='continuous'):
    _ = model.module.config.bits_per_token
  with pytest.raises(ValueError, match='not drawn at random'):
    loaded('vq8k').encode(PIXELS, rng=jax.random.key(0))


def test_gradients_of_continuous_tokens_reach_every_parameter():
  tower = tokenizers.TowerConfig(width=8, depth=1, heads=2)
  module = tokenizers.TiTokConfig(
    image_size=8,
    patch=4,
    tokens=3,
    encoder=tower,
    decoder=tower,
    quantizer=quantize.GaussianConfig(dim=2, kl_weight=0.1),
  ).build()
  images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1)
  key, length = jax.random.key(0), jnp.full((2,), 3)
  shapes = jax.eval_shape(module.init, key, images)['params']
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)
  params = jax.tree.map(draw, shapes)

  def loss(params):
    out = module.apply(
      {'params': params}, images, length, rng=key, method='reconstruct'
    )
    return jnp.mean((out.images - images) ** 2) + out.quantized.loss

  grads = jax.jit(jax.grad(loss))(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)
  means, variances = np.split(grads['encoder']['to_code']['kernel'], 2, 1)
  assert np.any(means) and np.any(variances)


def test_the_last_layer_gives_the_pixels():
  for name in ('legacy', 'vq8k'):
    model = loaded(name)
    params = model.variables['params']
    for part in model.last_layer:
      params = params[part]
    assert params['kernel'].shape[-1] == 3


def test_configs_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='tokens must be at least 1, got 0'):
    tokenizers.TiTokConfig(tokens=0)
  with pytest.raises(ValueError, match="layout='old' is not one of"):
    tokenizers.TiTokConfig(layout='old')
  with pytest.raises(ValueError, match=r'image_size.*128.*set both alike'):
    tokenizers.TiTokConfig(
      image_size=128, vqgan=tokenizers.MaskGITVQGANConfig()
    )
  with pytest.raises(ValueError, match='by 2, but patch is 16'):
    tokenizers.MaskGITVQGANConfig(multipliers=(1, 2))


def test_a_halving_is_a_mean_of_places():
  x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
  want = np.zeros((2, 2, 3, 3))
  for i, j in np.ndindex(2, 3):
    want[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
  got = tokenizers.maskgit_vqgan.halve(jnp.asarray(x))
  np.testing.assert_allclose(got, want, atol=1e-6)
