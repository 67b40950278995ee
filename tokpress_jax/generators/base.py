"""What every generator is, and sampling as one jitted program.

generator = order, visibility, inputs, commit, head, sampler. A method is a
config and a Linen module with two entries: `__call__` gives the training logits
of all blocks in one pass, `sample_codes` draws the codes with its loop.
Decoding to images and the checks of what the user asked for are written once,
here.

Dimension letters: B batch, N tokens, L tokens of the tokenizer's full length, V
codebook entries, H rows, W columns, C channels, D features of a continuous
token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import errors, types
from tokpress_jax.generators import condition as condition_lib
from tokpress_jax.generators import sampling
from tokpress_jax.tokenizers import lengths as lengths_lib

Array = jax.Array
Tokenizing = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
  """What every generator's config has; a method adds its own fields.

  Attributes:
    codebook_size: V.
    num_classes: classes of the condition; 0 for none, or where it is a text.
    class_dropout: share of conditions dropped in training, for guidance.
    width: model features.
    depth: layers.
    heads: attention heads.
    mlp_ratio: hidden features of the MLPs over the width.
    drop_path: rate of dropping a branch at the last layer in training.
    dropout: rate on each branch's output in training.
    remat: recompute activations in the backward pass (less memory).
  """

  family: ClassVar[str] = 'generator'
  # Whether the condition is a `Text`; else it is a class.
  reads_text: ClassVar[bool] = False

  codebook_size: int = 4096
  num_classes: int = 1000
  class_dropout: float = 0.1
  width: int = 1024
  depth: int = 16
  heads: int = 16
  mlp_ratio: float = 4.0
  drop_path: float = 0.0
  dropout: float = 0.0
  remat: bool = False

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Legal lengths, rising; the last is the capacity."""
    raise NotImplementedError

  @property
  def num_tokens(self) -> int:
    """L, the capacity."""
    return self.boundaries[-1]

  def check_tokenizer(self, tokenizer: Any) -> None:
    """Raises UserError unless the tokenizer's codes are what this reads.

    Args:
      tokenizer: its module, its config, or `Loaded`.
    """
    for name in ('codebook_size', 'boundaries'):
      ours, theirs = getattr(self, name), getattr(tokenizer, name)
      if ours != theirs:
        raise errors.UserError(
          f'the generator has {name} {ours}, its tokenizer {theirs}; train '
          'them together, or load the tokenizer this generator was trained on'
        )

  def check_condition(self, condition: Any) -> Any:
    """Checks what is drawn for; traced values pass unseen.

    Args:
      condition: classes, int [B]; `num_classes` is no class.

    Returns:
      It, as arrays with a leading axis B.

    Raises:
      UserError: if it is none, or says what to give.
    """
    if isinstance(condition, condition_lib.Text):
      raise errors.UserError(
        f'this generator ({type(self).__name__}) draws classes: give labels, '
        'int [B], not a text'
      )
    labels = jnp.asarray(condition)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
      raise errors.UserError(
        f'labels are classes, int [B]; got {labels.dtype} {list(labels.shape)}'
      )
    condition_lib.check_labels(labels, self.num_classes)
    return labels

  def check_sampler(self, sampler: sampling.Sampler) -> None:
    """Raises UserError if codes cannot be drawn so."""
    sampler.check(self.codebook_size)

  def fit_to(self, tokenizer: Any) -> GeneratorConfig:
    """Takes from a tokenizer's config what the codes decide.

    Args:
      tokenizer: its config.

    Returns:
      This config with the codebook's size and the layout of the codes set.

    Raises:
      UserError: if this kind of generator cannot read such a tokenizer.
    """
    raise NotImplementedError

  def train_inputs(
    self,
    codes: Array,
    tokenizer: Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Any:
    """Gives what the training pass reads, beside the labels.

    Args:
      codes: int32 [B, N, Q]; embeddings [B, N, D] of a continuous tokenizer.
      tokenizer: calls a method of the tokenizer by name, its variables bound.
      rng: a typed key, for what is masked or drawn.
      step: of training, int32, for what changes over it (RAR's orders); None
        where a model is judged.

    Returns:
      The first argument of the module's `__call__`, an array or a pytree of
      arrays with a leading axis B.
    """
    raise NotImplementedError

  def counted(self, inputs: Any) -> Array | None:
    """Which tokens the loss counts, bool [B, N]; None for all.

    Args:
      inputs: of `train_inputs`.
    """
    del inputs
    return None

  def example_inputs(self) -> tuple[Any, Any]:
    """Arguments of the module's `__call__`, for its initialisation."""
    raise NotImplementedError

  def build(self, *, dtype: Any = jnp.float32) -> nn.Module:
    """Makes the module; parameters are float32, matmuls run in `dtype`."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowConfig(GeneratorConfig):
  """Of a generator that predicts a row of codes.

  Attributes:
    tokens: N, the longest row.
    prefixes: the lengths that decode, rising up to N; () for every length.
  """

  tokens: int = 256
  prefixes: tuple[int, ...] = ()

  def __post_init__(self):
    if self.tokens < 1:
      raise errors.UserError(f'tokens must be at least 1, got {self.tokens}')
    rising = list(self.prefixes) == sorted(set(self.prefixes))
    if self.prefixes and (not rising or self.prefixes[-1] != self.tokens):
      raise errors.UserError(
        f'prefixes must rise up to the {self.tokens} tokens, got '
        f'{self.prefixes}'
      )

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The prefixes."""
    return self.prefixes or tuple(range(1, self.tokens + 1))

  def fit_to(self, tokenizer: Any) -> RowConfig:
    """See `GeneratorConfig`."""
    if tokenizer.quantizer.num_codes != 1:
      raise errors.UserError(
        'this generator predicts one code per token, its tokenizer has '
        f'{tokenizer.quantizer.num_codes}'
      )
    tokens, bounds = tokenizer.num_tokens, tuple(tokenizer.boundaries)
    return dataclasses.replace(
      self,
      codebook_size=tokenizer.codebook_size,
      tokens=tokens,
      prefixes=() if bounds == tuple(range(1, tokens + 1)) else bounds,
    )

  def check_length(self, length: int) -> None:
    """Raises ValueError for more codes than there are tokens."""
    if length > self.tokens:
      raise ValueError(
        f'{length} codes do not fit a generator of {self.tokens} tokens'
      )

  def example_inputs(self) -> tuple[Any, Any]:
    """See `GeneratorConfig`."""
    return jnp.zeros((1, self.tokens), jnp.int32), jnp.zeros((1,), jnp.int32)


@struct.dataclass
class Drawn:
  """What a generator's `sample_codes` gives.

  Attributes:
    codes: int32 [B, n]; None of a generator of continuous tokens.
    totals: of a scale-wise generator, the tokenizer's summed map [B, h, w, C]
      after each scale; () of the others, whose codes say it all.
    embeddings: [B, n, D] of a generator of continuous tokens, else None.
  """

  codes: Array | None
  totals: tuple[Array, ...] = ()
  embeddings: Array | None = None


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
  condition = config.check_condition(condition)
  batch = jax.tree.leaves(condition)[0].shape[0]
  is_array = isinstance(rng, jax.Array)
  if not is_array or not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    raise errors.UserError(
      f'rng is a key, jax.random.key(seed); got {type(rng).__name__}'
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


def is_forced(forced: Array | None, drawn: Array, start: int | Array) -> Array:
  """Which of the codes of slots start ... are forced; see `forced_codes`."""
  if forced is None:
    return jnp.zeros(drawn.shape, bool)
  return (
    jax.lax.dynamic_slice_in_dim(forced, start, drawn.shape[1], axis=1) >= 0
  )


def forced_codes(
  forced: Array | None, drawn: Array, start: int | Array
) -> Array:
  """Puts forced codes in place of drawn ones.

  Args:
    forced: int32 [B, L], -1 where a code is free; or None.
    drawn: int32 [B, n], the codes of slots start ... start + n - 1.
    start: the first slot; may be traced.

  Returns:
    int32 [B, n].
  """
  if forced is None:
    return drawn
  part = jax.lax.dynamic_slice_in_dim(forced, start, drawn.shape[1], axis=1)
  return jnp.where(part >= 0, part, drawn)
