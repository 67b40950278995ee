"""Sampling as one jitted program: the generator's loop, then the decoder.

Decoding to images and the checks of what the user asked for are written once,
here.

Dimension letters: B batch, N tokens, L tokens of the tokenizer's full length, D
token features, H rows, W columns, C channels.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import errors, types
from tokpress_jax.generators import sampling
from tokpress_jax.generators.base import Drawn, GeneratorConfig
from tokpress_jax.tokenizers import lengths as lengths_lib

Array = jax.Array


@struct.dataclass
class Sampled:
  """What sampling gives.

  Attributes:
    codes: int32 [B, N, 1]; 0 beyond the length; None for continuous tokens.
    length: int32 [B], tokens that count.
    images: [B, H, W, C] in [-1, 1]; None without a tokenizer.
    previews: for each number of tokens in `show`, the images [B, H, W, C]
      decoded from that many.
    embeddings: [B, N, D] of continuous tokens, 0 beyond the length; else None.
  """

  codes: Array | None
  length: Array
  images: Array | None
  previews: tuple[Array, ...]
  embeddings: Array | None = None


def sample(
  generator: types.Loaded,
  condition: Any,
  *,
  rng: Array,
  sampler: sampling.Sampler | None = None,
  num_tokens: int | None = None,
  length: Array | None = None,
  forced: Array | None = None,
  show: tuple[int, ...] = (),
) -> Sampled:
  """Samples codes and images: one jitted program, caches and decoder included.

  It compiles once per batch size, `num_tokens`, `show` and set of options that
  are not None; conditions, keys, lengths and the sampler's numbers are traced.
  Row b depends on the key, b and its condition only, not on the batch around
  it.

  Args:
    generator: with its tokenizer (a next-token generator does without; then
      there are no images).
    condition: labels, int [B], where `num_classes` is no class; a `Text` of
      B rows for a generator that reads texts.
    rng: a typed key; the same key gives the same images.
    sampler: temperature, top-k, top-p, guidance; if None, draws from all codes
      without guidance.
    num_tokens: how many tokens are generated and decoded; all if None.
    length: int32 [B], how many of them count in each row; all if None.
    forced: int32 [B, L] codes to keep, -1 where one is to be drawn: a prefix to
      continue, a part of an image to keep (VAR's zero-shot in-painting).
    show: numbers of tokens at which the image so far is decoded too.

  Returns:
    Codes or embeddings, images and previews.

  Raises:
    UserError: for unknown classes, a text where there are classes or the other
      way round, a top-k above the codebook, a number of tokens that is no legal
      length, forced codes of another shape, a tokenizer that does not fit.
  """
  config = generator.module.config
  if not isinstance(config, GeneratorConfig):
    raise errors.UserError(
      f'sample draws from a generator; this is a {type(config).__name__}'
    )
  condition = config.check_condition(condition)
  batch = jax.tree.leaves(condition)[0].shape[0]
  is_array = isinstance(rng, jax.Array)
  if not is_array or not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    raise errors.UserError(
      'rng is a key, jax.random.key(seed) (jax.random.wrap_key_data makes one '
      f'of an old PRNGKey); got {type(rng).__name__}'
    )
  sampler = sampler or sampling.Sampler()
  config.check_sampler(sampler)
  if generator.tokenizer is not None:
    config.check_tokenizer(generator.tokenizer)
    _check_decoder(generator.tokenizer, condition)
  if show and generator.tokenizer is None:
    raise errors.UserError('show needs a generator with its tokenizer')
  if sampler.smooth and not hasattr(config, 'scales'):
    raise errors.UserError(
      'smooth mixes the codes of a scale before they are summed; this is a '
      f'{type(config).__name__}, only scale-wise generators sum codes'
    )
  bounds = config.boundaries
  if num_tokens is None:
    num_tokens = bounds[-1]
  num_tokens = lengths_lib.legal_length(num_tokens, bounds)
  show = tuple(lengths_lib.legal_length(n, bounds) for n in show)
  if forced is not None and forced.shape != (batch, bounds[-1]):
    raise errors.UserError(
      f'forced codes must be [B, L] = {(batch, bounds[-1])} with -1 '
      f'where a code is to be drawn, got {forced.shape}'
    )
  return _sample(
    generator,
    condition,
    rng,
    sampler,
    length,
    forced,
    num_tokens=num_tokens,
    show=show,
  )


@functools.partial(jax.jit, static_argnames=('num_tokens', 'show'))
def _sample(
  generator: types.Loaded,
  condition: Any,
  rng: Array,
  sampler: sampling.Sampler,
  length: Array | None,
  forced: Array | None,
  *,
  num_tokens: int,
  show: tuple[int, ...],
) -> Sampled:
  tokenizer = generator.tokenizer
  drawn = generator.sample_codes(
    condition,
    rng=rng,
    sampler=sampler,
    num_tokens=num_tokens,
    forced=forced,
    tokenizer=tokenizer,
  )
  batch = jax.tree.leaves(condition)[0].shape[0]
  full = jnp.full((batch,), num_tokens, jnp.int32)
  length = full if length is None else jnp.clip(length, 1, num_tokens)
  kept = lengths_lib.prefix_mask(length, num_tokens)
  codes, embeddings = None, None
  if drawn.codes is not None:
    codes = jnp.where(kept, drawn.codes, 0)[..., None]
  if drawn.embeddings is not None:
    embeddings = jnp.where(kept[..., None], drawn.embeddings, 0)
  images: Array | None = None
  previews: tuple[Array, ...] = ()
  if tokenizer is not None:
    paint = lambda n: _paint(tokenizer, drawn, codes, embeddings, n, condition)
    images = paint(length)
    previews = tuple(paint(jnp.minimum(length, n)) for n in show)
  return Sampled(
    codes=codes,
    length=length,
    images=images,
    previews=previews,
    embeddings=embeddings,
  )


def _check_decoder(tokenizer: types.Loaded, condition: Any) -> None:
  """Raises UserError if the decoder reads a text that is not given."""
  shape = tokenizer.module.config.condition_shape
  given = getattr(condition, 'for_decoder', None)
  got = None if given is None else tuple(given.shape[1:])
  if shape is not None and got != tuple(shape):
    raise errors.UserError(
      f'the decoder of this tokenizer reads a text, [B, '
      f'{", ".join(map(str, shape))}]: give it as for_decoder of '
      f'generators.Text, got {got} (None is no text at all, else a shape)'
    )


def _paint(
  tokenizer: types.Loaded,
  drawn: Drawn,
  codes: Array | None,
  embeddings: Array | None,
  length: Array,
  condition: Any,
) -> Array:
  """Decodes the first `length` [B] tokens, or their summed map."""
  if drawn.totals:
    ends = jnp.asarray(tokenizer.boundaries[: len(drawn.totals)])
    last = jnp.searchsorted(ends, length, side='right') - 1
    totals = jnp.stack(drawn.totals, axis=1)  # [B, S, h, w, C]
    index = jnp.maximum(last, 0)[:, None, None, None, None]
    total = jnp.take_along_axis(totals, index, axis=1)[:, 0]
    return tokenizer.decode_total(total)
  read = None
  if tokenizer.module.config.condition_shape is not None:
    read = condition.for_decoder
  options = {'length': length, 'condition': read}
  if codes is not None:
    return tokenizer.decode_codes(_padded(tokenizer, codes), **options)
  tokens = _padded(tokenizer, embeddings)
  return tokenizer.decode_embeddings(tokens, **options)


def _padded(tokenizer: types.Loaded, tokens: Any) -> Array:
  """Pads tokens [B, n, .] to the tokenizer's capacity."""
  missing = tokenizer.num_tokens - tokens.shape[1]
  return jnp.pad(tokens, ((0, 0), (0, missing), (0, 0)))
