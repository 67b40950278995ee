"""What holds for every generator; a new method joins `ROWS` below.

Each row builds a tiny generator with a tiny real tokenizer. Parameters are
redrawn, so that no gate or head starts at zero and hides an error.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tokpress_jax import (
  generators,
  inference,
  losses,
  quantize,
  tokenizers,
  types,
)
from tokpress_jax.generators import drawing, maskgen_keys, sampling

VOCAB, CLASSES, SCALES = 11, 3, (1, 2, 3)
SMALL = {
  'codebook_size': VOCAB,
  'num_classes': CLASSES,
  'width': 16,
  'depth': 2,
  'heads': 2,
}


@dataclasses.dataclass(frozen=True)
class Row:
  config: generators.GeneratorConfig
  tokenizer: Any
  # (tokenizer, codes [B, N]) -> first argument of `__call__`.
  inputs: Callable[[types.Loaded | None, jax.Array], Any]
  # labels [B] -> what is drawn for: themselves, or a text for each class.
  condition: Callable[[jax.Array], Any] = lambda labels: labels

  @property
  def vectors(self):
    """Whether tokens are vectors, drawn by diffusion."""
    return getattr(self.config, 'head', '') == 'diffusion'

  @property
  def output(self):
    """Shape of what `__call__` gives for one token."""
    c = self.config
    return (c.draws, 2 * c.channels) if self.vectors else (c.codebook_size,)

  def loss(self, output, x, codes):
    if self.vectors:
      return self.config.loss(output, x)
    return losses.cross_entropy(output, codes)

  def sampler(self, **codes_only):
    plain = generators.Sampler(guidance=1.5)
    return plain if self.vectors else plain.replace(top_p=0.9, **codes_only)


def pyramid():
  return tokenizers.MultiScaleConfig(
    image_size=6,
    channels=1,
    patch=2,
    width=8,
    heads=2,
    encoder_depth=1,
    decoder_depth=1,
    quantizer=quantize.MultiScaleVQConfig(
      vq=quantize.VQConfig(codebook_size=VOCAB, dim=4), scales=SCALES, phi=2
    ),
  )


def line(tokens=5):
  return tokenizers.OneDConfig(
    tokens=tokens,
    image_size=4,
    channels=1,
    patch=2,
    width=8,
    heads=2,
    encoder_depth=1,
    decoder_depth=1,
    quantizer=quantize.VQConfig(codebook_size=VOCAB, dim=4),
  )


def scale_wise(**kwargs):
  config = generators.ScaleWiseConfig(
    **SMALL, scales=SCALES, latent_dim=4, **kwargs
  )
  return Row(
    config, pyramid(), lambda tok, codes: tok.next_inputs(codes[..., None])
  )


def next_token(**kwargs):
  config = generators.NextTokenConfig(**SMALL, tokens=5, **kwargs)
  return Row(config, line(), lambda tok, codes: codes)


def maskgit(network, **kwargs):
  small = SMALL | {'depth': 3}
  config = generators.MaskGITConfig(
    **small, tokens=5, steps=3, network=network, **kwargs
  )
  hide = lambda tok, codes: jnp.where(jnp.arange(5)[None] % 2, VOCAB, codes)
  return Row(config, line(), hide)


def rar(**kwargs):
  config = generators.RARConfig(**SMALL, tokens=5, **kwargs)

  def raster(tok, codes):
    rank = jnp.broadcast_to(jnp.arange(5, dtype=jnp.int32), codes.shape)
    return generators.Ranked(codes=codes, rank=rank)

  return Row(config, line(), raster)


def texts(for_decoder, padded=False):
  """A text for each class, and the empty one for none."""
  rng = np.random.default_rng(3)
  features = jnp.asarray(rng.normal(size=(CLASSES + 1, 3, 4)))
  pooled = jnp.asarray(rng.normal(size=(CLASSES + 1, 4)))
  valid = jnp.arange(3)[None] < jnp.array([3, 2, 3, 1])[:, None]

  def of(labels):
    return generators.text(
      features[labels],
      pooled[labels],
      null_features=features[CLASSES],
      null_pooled=pooled[CLASSES],
      for_decoder=features[labels] if for_decoder else None,
      valid=valid[labels] if padded else None,
      null_valid=valid[CLASSES] if padded else None,
    )

  return of


def maskgen(**kwargs):
  config = generators.MaskGenConfig(
    **SMALL | {'num_classes': 0},
    tokens=5,
    steps=3,
    text_features=4,
    score_features=6,
    **kwargs,
  )
  hide = lambda tok, codes: jnp.where(jnp.arange(5)[None] % 2, VOCAB, codes)
  return Row(config, line(), hide, texts(for_decoder=False))


def flexar(**kwargs):
  config = generators.FlexARConfig(
    **SMALL | {'num_classes': 0}, tokens=5, text_features=4, **kwargs
  )
  text = texts(for_decoder=False, padded=True)
  return Row(config, line(), lambda tok, codes: codes, text)


def maskgen_vectors():
  row = maskgen(
    head='diffusion',
    channels=2,
    head_width=8,
    head_depth=2,
    diffusion_steps=4,
    draws=2,
  )
  tower = tokenizers.TowerConfig(width=8, depth=1, heads=2)
  tokenizer = tokenizers.TiTokConfig(
    tokens=5,
    image_size=4,
    channels=1,
    patch=2,
    encoder=tower,
    decoder=tower,
    quantizer=quantize.GaussianConfig(dim=2),
    prefixes='any',
    text_tokens=3,
    text_features=4,
  )
  rng = np.random.default_rng(4)
  vectors = jnp.asarray(rng.normal(size=(VOCAB, 2)), jnp.float32)
  noise = jnp.asarray(rng.normal(size=(8, 5, 2, 2)), jnp.float32)
  time = jnp.asarray(rng.integers(1000, size=(8, 5, 2)))

  def hide(tok, codes):
    masked = jnp.broadcast_to(jnp.arange(5)[None] % 2 == 1, codes.shape)
    return generators.Noised(
      values=vectors[codes], masked=masked, time=time, noise=noise
    )

  return Row(row.config, tokenizer, hide, texts(for_decoder=True))


ROWS = {
  'scale_wise': scale_wise(),
  'scale_wise_shared_modulation': scale_wise(modulation='shared', qk_norm=None),
  'scale_wise_own': scale_wise(sees='own', kernels=(None, None, 1)),
  'next_token_rotary': next_token(),
  'next_token_learned': next_token(
    positions='learned', norm='layer', qk_norm='l2', bias='qv'
  ),
  'maskgit_bert': maskgit('bert', confidence='log_probability'),
  'maskgit_uvit': maskgit('uvit', norm_eps=1e-5),
  'rar': rar(),
  'flexar': flexar(),
  'maskgen_codes': maskgen(),
  'maskgen_vectors': maskgen_vectors(),
}
# Block after block, in an order that does not depend on what is drawn.
BLOCKWISE = [name for name in ROWS if not name.startswith('mask')]


def redraw(module, config, seed):
  key, rng = jax.random.key(0), np.random.default_rng(seed)
  shapes = jax.eval_shape(module.init, key, *example_inputs(config))

  def draw(x):
    scale = 0.5 if x.ndim < 2 else x.shape[-2] ** -0.5
    return jnp.asarray(rng.normal(size=x.shape) * scale, jnp.float32)

  return jax.tree.map(draw, shapes)


def load(config, seed, tokenizer=None, dtype=jnp.float32):
  module = config.build(dtype=dtype)
  spec = types.Spec(name='tiny', family=config.family, config=config)
  return types.Loaded(module, redraw(module, config, seed), spec, tokenizer)


def example_inputs(config, batch=1):
  labels = jnp.zeros((batch,), jnp.int32)
  if isinstance(config, generators.ScaleWiseConfig):
    later = config.num_tokens - config.sizes[0]
    return jnp.zeros((batch, later, config.latent_dim)), labels
  if isinstance(config, generators.NextTokenConfig | generators.MaskGITConfig):
    return jnp.zeros((batch, config.num_tokens), jnp.int32), labels
  if isinstance(config, generators.RARConfig):
    codes = jnp.zeros((batch, config.num_tokens), jnp.int32)
    return generators.Ranked(codes=codes, rank=codes), labels
  if isinstance(config, generators.MaskGenConfig | generators.FlexARConfig):
    many = lambda x: jnp.repeat(x, batch, axis=0)
    return jax.tree.map(many, config.example_inputs())
  shape = (batch, config.image_size, config.image_size, config.channels)
  return (jnp.zeros(shape),)


@functools.cache
def loaded(name, dtype=jnp.float32):
  row = ROWS[name]
  return load(row.config, 0, tokenizer=load(row.tokenizer, 1), dtype=dtype)


@functools.cache
def batch(name, size=8):
  """Codes [B, N], labels [B], the inputs of `__call__` and the condition."""
  row, rng = ROWS[name], np.random.default_rng(2)
  codes = jnp.asarray(rng.integers(VOCAB, size=(size, row.config.num_tokens)))
  labels = jnp.asarray(rng.integers(CLASSES + 1, size=size))
  x = row.inputs(loaded(name).tokenizer, codes)
  return codes, labels, x, row.condition(labels)


every_row = pytest.mark.parametrize('name', ROWS)
# One row of each module, where the others would only compile the same again.
each_module = pytest.mark.parametrize(
  'name',
  [
    'scale_wise',
    'next_token_rotary',
    'maskgit_uvit',
    'rar',
    'flexar',
    'maskgen_vectors',
  ],
)
SAMPLER = generators.Sampler(top_k=7, top_p=0.9, guidance=1.5)


@functools.cache
def compiled(name):
  return jax.jit(loaded(name).module.apply)


def sample(name, labels, *, seed=0, model=None, **kwargs):
  """All options at once, so that the tests share one compiled program."""
  row = ROWS[name]
  config = row.config
  shape = (labels.shape[0], config.num_tokens)
  options = {
    'sampler': row.sampler(top_k=7),
    'length': jnp.full(shape[:1], shape[1]),
    'forced': None if row.vectors else jnp.full(shape, -1),
    'show': config.boundaries[1:2],
  }
  return generators.sample(
    model or loaded(name),
    row.condition(labels),
    rng=jax.random.key(seed),
    **(options | kwargs),
  )


def same_samples(got, want):
  """Equal codes and close images; vectors are as close as they are large."""
  if want.codes is not None:
    np.testing.assert_array_equal(got.codes, want.codes)
    np.testing.assert_allclose(got.images, want.images, atol=1e-5)
  else:
    size = np.abs(want.embeddings).max()
    np.testing.assert_allclose(
      got.embeddings / size, want.embeddings / size, atol=1e-4
    )
    np.testing.assert_allclose(got.images, want.images, atol=1e-3)


@every_row
def test_jit_equals_eager_and_a_row_is_independent_of_its_batch(name):
  model = loaded(name)
  *_, x, cond = batch(name)
  logits = compiled(name)(model.variables, x, cond)
  shape = (8, model.module.config.num_tokens, *ROWS[name].output)
  assert logits.shape == shape and logits.dtype == jnp.float32
  assert logits.std() > 0.1
  eager = model(x, cond)
  np.testing.assert_allclose(logits, eager, atol=1e-5)
  alone = compiled(name)(
    model.variables, *jax.tree.map(lambda a: a[3:4], (x, cond))
  )
  np.testing.assert_allclose(logits[3:4], alone, atol=1e-5)


@each_module
def test_init_runs_and_starts_near_uniform(name):
  config = ROWS[name].config
  module = config.build()
  *_, x, cond = batch(name)
  variables = jax.jit(module.init)(jax.random.key(0), x, cond)
  logits = compiled(name)(variables, x, cond)
  # A diffusion head starts at exactly zero.
  assert (jnp.abs(logits).max() > 0) != ROWS[name].vectors
  assert jnp.abs(logits).max() < 1


@every_row
def test_gradients_reach_every_parameter(name):
  model = loaded(name)
  codes, _, x, cond = batch(name)

  def loss(params):
    logits = model.module.apply(
      {'params': params},
      x,
      cond,
      deterministic=False,
      rngs={'dropout': jax.random.key(0)},
    )
    return ROWS[name].loss(logits, x, codes)

  value, grads = jax.jit(jax.value_and_grad(loss))(model.variables['params'])
  assert np.isfinite(value)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


@each_module
def test_class_dropout_needs_and_uses_its_key(name):
  model = loaded(name)
  _, labels, x, cond = batch(name)
  run = jax.jit(
    lambda seed: model(
      x, cond, deterministic=False, rngs={'dropout': jax.random.key(seed)}
    )
  )
  plain = compiled(name)(model.variables, x, cond)
  runs = [run(seed) for seed in range(12)]
  most = lambda a: np.abs(a).reshape(len(a), -1).max(axis=1)
  changed = [most(r - plain) > 1e-3 * plain.std() for r in runs]
  share = np.mean(changed)
  assert 0 < share < 0.5  # 10% of the labels are dropped
  none = ROWS[name].condition(jnp.full_like(labels, CLASSES))
  null = compiled(name)(model.variables, x, none)
  for dropped, got in zip(changed, runs, strict=True):
    np.testing.assert_allclose(got[dropped], null[dropped], atol=1e-5)


@every_row
def test_bfloat16_is_finite_and_near(name):
  _, labels, x, cond = batch(name)
  exact = compiled(name)(loaded(name).variables, x, cond)
  low = loaded(name, jnp.bfloat16)
  logits = jax.jit(low.module.apply)(low.variables, x, cond)
  assert logits.dtype == jnp.float32 and np.isfinite(logits).all()
  assert np.abs(logits - exact).mean() < 0.1 * exact.std()
  sampled = jax.eval_shape(lambda: sample(name, labels, model=low))
  if ROWS[name].vectors:
    assert sampled.embeddings.dtype == jnp.float32
  else:
    assert sampled.codes.dtype == jnp.int32


@pytest.mark.parametrize('name', BLOCKWISE)
def test_cached_sampling_equals_uncached_recomputation(name):
  """Draws each block from the whole training pass, guided, step by step."""
  model = loaded(name)
  config, tokenizer = model.module.config, model.tokenizer
  _, labels, *_ = batch(name)
  rng = jax.random.key(5)
  got = sample(name, labels, seed=5).codes[..., 0]
  sizes = getattr(config, 'sizes', (1,) * config.num_tokens)
  weights = SAMPLER.weights(len(sizes))
  given, none = map(
    ROWS[name].condition, (labels, jnp.full_like(labels, CLASSES))
  )
  codes, start = jnp.zeros((8, config.num_tokens), jnp.int32), 0
  for k, size in enumerate(sizes):
    x = ROWS[name].inputs(tokenizer, codes)
    cond = compiled(name)(model.variables, x, given)
    uncond = compiled(name)(model.variables, x, none)
    logits = ((1 + weights[k]) * cond - weights[k] * uncond)[
      :, start : start + size
    ]
    slots = jnp.arange(start, start + size)
    noise = sampling.token_gumbel(rng, 8, slots, VOCAB)
    codes = codes.at[:, start : start + size].set(SAMPLER.draw(logits, noise))
    start += size
  np.testing.assert_array_equal(got, codes)


@each_module
def test_sampling_is_fixed_by_its_key_and_one_compilation(name):
  _, labels, *_ = batch(name)
  first = sample(name, labels)
  compilations = drawing._sample._cache_size()
  again = sample(name, labels)
  other = sample(
    name,
    labels[::-1],
    seed=1,
    sampler=ROWS[name].sampler(top_k=3).replace(guidance=4.0),
  )
  assert drawing._sample._cache_size() == compilations
  np.testing.assert_array_equal(first.images, again.images)
  if ROWS[name].vectors:
    assert first.codes is None and first.embeddings.shape == (8, 5, 2)
    assert (first.embeddings != other.embeddings).any()
    assert np.isfinite(first.embeddings).all()
  else:
    assert (first.codes != other.codes).any()
    assert first.codes.min() >= 0 and first.codes.max() < VOCAB
  assert np.abs(first.images).max() <= 1


@pytest.mark.parametrize('name', ['scale_wise', 'next_token_rotary', 'rar'])
def test_any_prefix_of_tokens_is_an_image(name):
  """Fewer tokens, lengths per row and previews agree with the whole row."""
  model = loaded(name)
  _, labels, *_ = batch(name)
  # Guidance 0: a next-token schedule runs over the tokens that are drawn.
  plain = generators.Sampler(top_k=7, top_p=0.9, guidance=0.0)
  bounds = model.module.config.boundaries
  n = bounds[1]
  length = jnp.asarray(([bounds[0], n, bounds[-1]] * 3)[:8])
  full = sample(name, labels, sampler=plain)
  ragged = sample(name, labels, sampler=plain, length=length)
  seen = np.arange(bounds[-1])[None] < np.asarray(length)[:, None]
  np.testing.assert_array_equal(
    ragged.codes[..., 0], np.where(seen, full.codes[..., 0], 0)
  )
  decode = jax.jit(lambda tok, codes, n: tok.decode_codes(codes, length=n))
  decoded = decode(model.tokenizer, full.codes, length)
  np.testing.assert_allclose(ragged.images, decoded, atol=1e-5)
  # The shortest call there is: no options, fewer tokens, another batch.
  short = generators.sample(
    model, labels[:2], rng=jax.random.key(0), num_tokens=n
  )
  unfiltered = generators.Sampler(top_k=VOCAB, top_p=1.0, guidance=0.0)
  whole = sample(name, labels, sampler=unfiltered)
  np.testing.assert_array_equal(short.codes, whole.codes[:2, :n])
  np.testing.assert_allclose(short.images, whole.previews[0][:2], atol=1e-5)


@each_module
def test_forced_codes_are_kept_and_the_rest_follows(name):
  codes, labels, *_ = batch(name)
  if ROWS[name].vectors:
    with pytest.raises(ValueError, match='there are no codes to keep'):
      sample(name, labels, forced=codes)
    return
  n = codes.shape[1]
  prefix = jnp.where(jnp.arange(n)[None] < n // 2, codes, -1)
  got = sample(name, labels, forced=prefix).codes[..., 0]
  np.testing.assert_array_equal(got[:, : n // 2], codes[:, : n // 2])
  free = sample(name, labels).codes[..., 0]

  def follows(seed):
    given = sample(name, labels, seed=seed, forced=prefix).codes
    drawn = sample(name, labels, seed=seed).codes
    return (given[:, n // 2 :] != drawn[:, n // 2 :]).any()

  assert any(map(follows, range(4)))
  nothing = sample(name, labels, forced=jnp.full_like(codes, -1)).codes[..., 0]
  np.testing.assert_array_equal(nothing, free)


@each_module
def test_sharded_over_eight_devices_equals_one(name):
  model = loaded(name)
  _, labels, x, cond = batch(name)
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
  rows, whole = PartitionSpec('data'), PartitionSpec()
  variables = put(model.variables, whole)
  sharded = compiled(name)(variables, put(x, rows), put(cond, rows))
  single = compiled(name)(model.variables, x, cond)
  np.testing.assert_allclose(sharded, single, atol=1e-5)
  spread = types.Loaded(
    model.module, variables, model.spec, put(model.tokenizer, whole)
  )
  got = sample(name, put(labels, rows), model=spread)
  same_samples(got, sample(name, labels))


@each_module
def test_a_model_made_ready_samples_the_same(name):
  model = loaded(name)
  _, labels, *_ = batch(name)
  ready = inference.for_inference(inference.for_inference(model))
  got = sample(name, labels, model=ready)
  same_samples(got, sample(name, labels))
  half = inference.for_inference(model, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(lambda: sample(name, labels, model=half))
  assert shapes.images.dtype == jnp.float32
  kinds = {x.dtype for x in jax.tree.leaves(half.variables)}
  assert kinds == {jnp.dtype(jnp.bfloat16)}
  exact = half.tokenizer.variables['params'].get('quantizer', {})
  assert {x.dtype for x in jax.tree.leaves(exact)} <= {jnp.dtype(jnp.float32)}


@each_module
def test_bad_requests_are_refused_in_words(name):
  _, labels, *_ = batch(name)
  refuse = lambda message: pytest.raises(ValueError, match=message)
  model, row = loaded(name), ROWS[name]
  cond = row.condition(labels)
  if row.config.reads_text:
    with refuse('this generator draws texts'):
      generators.sample(model, labels, rng=jax.random.key(0))
  else:
    with refuse(r'unknown class \[-1, 4\]: this generator knows 0 to 2'):
      sample(name, jnp.array([0, 4, -1]))
    with refuse(r'labels are classes, int \[B\]; got float32 \[8\]'):
      sample(name, labels.astype(jnp.float32))
    with refuse(r"labels are classes, int \[B\]; got \['a fox'\]"):
      generators.sample(model, ['a fox'], rng=jax.random.key(0))
  if row.vectors:
    blind = dataclasses.replace(cond, for_decoder=None)
    with refuse(r'reads a text, \[B, 3, 4\]: give it as for_decoder'):
      generators.sample(model, blind, rng=jax.random.key(0))
  else:
    with refuse('top_k 12 is above the codebook size 11'):
      sample(name, labels, sampler=generators.Sampler(top_k=12))
  with refuse(r'rng is a key, jax.random.key\(seed\) .*; got int'):
    generators.sample(model, cond, rng=3)
  with refuse('sample draws from a generator; this is a '):
    generators.sample(model.tokenizer, cond, rng=jax.random.key(0))
  with refuse('a budget of 0 tokens'):
    sample(name, labels, num_tokens=0)
  with refuse(r'forced codes must be \[B, L\]'):
    sample(name, labels, forced=jnp.zeros((8, 2), jnp.int32))
  bare = types.Loaded(model.module, model.variables, model.spec)
  with refuse('show needs'):
    generators.sample(bare, cond, rng=jax.random.key(0), show=(1,))


VAR_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
PUBLISHED = {
  # VAR's released models: parameters in millions (FoundationVision/VAR).
  'var-d16': (generators.ScaleWiseConfig(width=1024, depth=16), 310.28),
  'var-d20': (
    generators.ScaleWiseConfig(width=1280, depth=20, heads=20),
    600.92,
  ),
  'var-d24': (
    generators.ScaleWiseConfig(width=1536, depth=24, heads=24),
    1033.40,
  ),
  'var-d30': (
    generators.ScaleWiseConfig(width=1920, depth=30, heads=30),
    2010.02,
  ),
  'var-d36': (
    generators.ScaleWiseConfig(
      width=2304, depth=36, heads=36, scales=VAR_512, modulation='shared'
    ),
    2353.89,
  ),
  # RAR's released models, less 2,146 rows of their tables that nothing reads
  # (260.92 and 1498.52 with them).
  'rar-b': (
    generators.RARConfig(codebook_size=1024, width=768, depth=24),
    259.28,
  ),
  'rar-xxl': (
    generators.RARConfig(
      codebook_size=1024, width=1408, depth=40, mlp_ratio=6144 / 1408
    ),
    1495.50,
  ),
  # MaskGen's, less what nothing reads: 1,001 rows of the vocabulary (of codes)
  # and the last block's queries of the text. 604.31 and 1237.35 with them.
  'maskgen-vq-l': (
    maskgen_keys.released_config('categorical', 1024, 16),
    602.24,
  ),
  'maskgen-kl-xl': (
    maskgen_keys.released_config('diffusion', 1280, 20),
    1235.71,
  ),
  # LlamaGen-B over 256 codes of 16,384: about 111 million.
  'llamagen-b': (
    generators.NextTokenConfig(
      codebook_size=16_384,
      width=768,
      depth=12,
      heads=12,
      activation='swiglu',
      mlp_ratio=8 / 3,
    ),
    110.97,
  ),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
  config, millions = PUBLISHED[name]
  module = config.build(dtype=jnp.bfloat16)
  args = example_inputs(config, 2)
  logits, variables = jax.eval_shape(
    lambda: module.init_with_output(jax.random.key(0), *args)
  )
  count = sum(x.size for x in jax.tree.leaves(variables))
  assert round(count / 1e6, 2) == millions
  output = Row(config, None, None).output
  assert logits.shape == (2, config.num_tokens, *output)


def test_published_var_samples_in_one_program():
  """All ten scales, caches, guidance and filters of d16 trace to shapes."""
  config, _ = PUBLISHED['var-d16']
  tokenizer = tokenizers.MultiScaleConfig(
    width=64, heads=1, encoder_depth=1, decoder_depth=1
  )
  make = lambda config: types.Loaded(
    config.build(),
    jax.eval_shape(
      config.build().init, jax.random.key(0), *example_inputs(config)
    ),
    types.Spec(name='var', family=config.family, config=config),
  )
  generator = dataclasses.replace(make(config), tokenizer=make(tokenizer))
  sampler = generators.Sampler(top_k=900, top_p=0.96, guidance=1.5)
  labels = jax.ShapeDtypeStruct((4,), jnp.int32)
  got = jax.eval_shape(
    lambda generator, labels: generators.sample(
      generator, labels, rng=jax.random.key(0), sampler=sampler
    ),
    generator,
    labels,
  )
  assert got.codes.shape == (4, 680, 1)
  assert got.images.shape == (4, 256, 256, 3)


def test_a_foreign_tokenizer_is_refused():
  model = loaded('scale_wise')
  refuse = lambda message: pytest.raises(ValueError, match=message)
  check = model.module.config.check_tokenizer
  check(model.tokenizer)
  with refuse('has lengths'):
    check(line())
  quantizer = dataclasses.replace(
    pyramid().quantizer,
    vq=quantize.VQConfig(codebook_size=VOCAB, dim=6),
  )
  with refuse('4 features of a code'):
    check(dataclasses.replace(pyramid(), quantizer=quantizer).build())
