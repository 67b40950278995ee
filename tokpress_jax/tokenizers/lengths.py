"""How many tokens an image gets: length policies and nested dropout.

A policy turns the tokenizer's legal lengths into one length per image. A length
is an int32 array (traced), while the capacity N of the row of tokens is static,
so that any mixture of lengths runs in one compiled program.

Dimension letters: B batch, N token slots (the capacity), K legal lengths.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import errors, losses
from tokpress_jax.metrics.images import psnr

Array = jax.Array

Sampler = Literal['none', 'uniform', 'powers', 'batch']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coded:
  """A batch that has its codes and wants lengths.

  Attributes:
    images: [B, H, W, C] in [-1, 1].
    boundaries: the legal lengths, rising; the last is the capacity.
    decode: int32 [B] lengths -> the images that so many tokens give.
  """

  images: Array
  boundaries: tuple[int, ...]
  decode: Callable[[Array], Array]


class Policy(Protocol):
  """Chooses the lengths of a batch.

  The policies here are pytrees: they pass through `jit`, their arrays traced.
  """

  def lengths(self, coded: Coded) -> Array:
    """Gives int32 [B] legal lengths."""
    ...


@struct.dataclass(kw_only=True)
class Fixed:
  """The same static number of tokens for every image.

  Attributes:
    tokens: the budget; None for all.
  """

  tokens: int | None = struct.field(pytree_node=False, default=None)

  def lengths(self, coded: Coded) -> Array:
    """Gives int32 [B]; see `legal_length` for what is refused."""
    bounds = coded.boundaries
    tokens = bounds[-1] if self.tokens is None else self.tokens
    tokens = legal_length(tokens, bounds)
    return jnp.full(coded.images.shape[:1], tokens, jnp.int32)


@struct.dataclass
class Prefix:
  """A length of its own for each image; may be traced.

  Attributes:
    tokens: int32 [B]; rounded down to a legal length, and up to the smallest.
  """

  tokens: Array

  def lengths(self, coded: Coded) -> Array:
    """Gives int32 [B]."""
    tokens, batch = jnp.asarray(self.tokens), len(coded.images)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise ValueError(
        f'Prefix needs whole numbers of tokens, int [{batch}], got '
        f'{tokens.dtype}'
      )
    if tokens.shape != (batch,):
      raise ValueError(
        f'Prefix needs one length per image, [{batch}], got {tokens.shape}; '
        'use Fixed(tokens=n) for one length for all'
      )
    return round_down(tokens.astype(jnp.int32), coded.boundaries)


def decibels(decoded: Array, images: Array) -> Array:
  """PSNR [B] of images [B, H, W, C] in [-1, 1]."""
  return psnr((decoded + 1) / 2, (images + 1) / 2)


def minus_l1(decoded: Array, images: Array) -> Array:
  """A measure for `Quality`: minus the mean |x - y| [B] of pixels in [0, 1].

  ALIT's: Quality(target=-0.07, measure=minus_l1, search='scan',
  otherwise='best').
  """
  return -jnp.mean(jnp.abs(decoded - images), axis=(1, 2, 3)) / 2


def minus_lpips(weights: Any) -> Callable[[Array, Array], Array]:
  """A measure for `Quality`: LPIPS below zero, since more is better.

  Args:
    weights: of `losses.load_lpips`; may be traced.

  Returns:
    (decoded, images) [B, H, W, C] in [-1, 1], of 16 pixels or more -> [B].

  Raises:
    UserError: if these are no weights.
  """
  if not isinstance(weights, Mapping):
    raise errors.UserError(
      'minus_lpips takes the weights of LPIPS, losses.load_lpips(path); got '
      f'{type(weights).__name__}'
    )
  network = losses.LPIPS()

  def measure(decoded: Array, images: Array) -> Array:
    return -network.apply(weights, decoded, images)  # type: ignore[operator]

  return measure


@struct.dataclass(kw_only=True)
class Quality:
  """The shortest prefix whose picture is good enough, or the whole row.

  It is found inside the program that encodes, by decoding. A tokenizer with one
  legal length always takes that.

  Attributes:
    target: of the measure; may be traced, one number or float32 [B].
    measure: (decoded, images) [B, H, W, C] in [-1, 1] -> [B], more is better;
      PSNR in dB by default. With `minus_lpips(weights)` a target of -0.2 takes
      as many tokens as bring LPIPS down to 0.2.
    search: 'bisect' decodes log2(K) times, which is exact where quality rises
      with the length, and then at the next `look` shorter lengths, where it
      does not quite; 'scan' decodes all K and is exact for any measure.
    look: see `search`. Four find the shortest prefix of 99% of the crops of
      `configs/one_d_photos.py`, none that of 97%.
    otherwise: what an image takes that no length makes good enough: 'all', or
      the 'best' (the shortest of them; 'scan' only).
  """

  target: float | Array
  measure: Callable[[Array, Array], Array] = struct.field(
    pytree_node=False, default=decibels
  )
  search: Literal['bisect', 'scan'] = struct.field(
    pytree_node=False, default='bisect'
  )
  look: int = struct.field(pytree_node=False, default=4)
  otherwise: Literal['all', 'best'] = struct.field(
    pytree_node=False, default='all'
  )

  def __post_init__(self):
    if self.search not in ('bisect', 'scan'):
      raise errors.UserError(
        f"search is 'bisect' or 'scan', got {self.search!r}"
      )
    if self.otherwise not in ('all', 'best') or (
      self.otherwise == 'best' and self.search != 'scan'
    ):
      raise errors.UserError(
        f"otherwise is 'all', or 'best' with search='scan'; got "
        f'{self.otherwise!r} with search={self.search!r}'
      )
    if self.look < 0:
      raise errors.UserError(f'look must not be negative, got {self.look}')

  def lengths(self, coded: Coded) -> Array:
    """Gives int32 [B]."""
    bounds = jnp.asarray(coded.boundaries, jnp.int32)
    batch, last = len(coded.images), len(coded.boundaries) - 1

    def good(index: Array) -> Array:
      decoded = coded.decode(bounds[index])
      return self.measure(decoded, coded.images) >= self.target

    def shorter(start: Array, count: int) -> Array:
      """The shortest that is good of `count` before an index, or itself."""

      def look(found: Array, back: Array) -> tuple[Array, None]:
        index = jnp.maximum(start - back, 0)
        return jnp.where(good(index), index, found), None

      return jax.lax.scan(look, start, 1 + jnp.arange(count))[0]

    whole = jnp.full((batch,), last)
    if self.otherwise == 'best':
      values = jax.lax.map(
        lambda index: self.measure(
          coded.decode(jnp.broadcast_to(bounds[index], (batch,))), coded.images
        ),
        jnp.arange(last + 1),
      )  # [K, B]
      enough = values >= self.target
      first = jnp.argmax(enough, axis=0)
      found = jnp.any(enough, axis=0)
      return bounds[jnp.where(found, first, jnp.argmax(values, axis=0))]
    if self.search == 'scan':
      return bounds[shorter(whole, last)]

    def halve(_: Array, span: tuple[Array, Array]) -> tuple[Array, Array]:
      low, high = span
      middle = (low + high) // 2
      enough = good(middle)
      low = jnp.where(enough | (low == high), low, middle + 1)
      return low, jnp.where(enough, middle, high)

    span = (jnp.zeros((batch,), jnp.int32), whole)
    _, high = jax.lax.fori_loop(0, last.bit_length(), halve, span)
    return bounds[shorter(high, min(self.look, last))]


@struct.dataclass(kw_only=True)
class Halting:
  """As many tokens as a tokenizer says that a loss needs, in one pass.

  Of tokenizers that halt (KARL) only: which tokens stay is theirs to say.

  Attributes:
    target: the mean |x - y| of pixels in [0, 1] that is good enough, one number
      or float32 [B]; may be traced. It is rounded up to a loss that the
      tokenizer was trained with (`config.bins`); above the last it is that one.
    threshold: of the chance that a token can be spared, above which it goes.
  """

  target: float | Array = 0.05
  threshold: float | Array = 0.75

  def lengths(self, coded: Coded) -> Array:
    """Refuses: no legal length can be chosen without knowing which tokens."""
    raise errors.UserError(
      'Halting is for tokenizers that say which tokens they can spare (KARL); '
      'use Quality(target=...) for the shortest row that is good enough'
    )


def check_policy(policy: Any) -> Policy:
  """A length policy as it was given; all tokens for None.

  Raises:
    UserError: if it is none: numbers are told which policy they belong to.
  """
  if policy is None:
    return Fixed()
  if callable(getattr(policy, 'lengths', None)) and not isinstance(
    policy, type
  ):
    return policy
  hint = ''
  if isinstance(policy, int | np.integer) and not isinstance(policy, bool):
    hint = f'; give Fixed(tokens={int(policy)}) for so many tokens'
  elif isinstance(policy, float | np.floating):
    hint = f'; give Quality(target=...) or Halting(target={float(policy)})'
  raise errors.UserError(
    'a length policy is Fixed, Prefix, Quality or Halting of '
    f'tokenizers.lengths, got {policy!r}{hint}'
  )


def check_target(target: Any, batch: int, bins: tuple[float, ...]) -> None:
  """Refuses a loss that cannot be asked for.

  Args:
    target: see `Halting`; nothing is said of the values of a traced one.
    batch: B.
    bins: the losses that the tokenizer knows, rising.

  Raises:
    UserError: if it is not above 0, or neither a number nor [B]. A warning says
      where it is outside the bins.
  """
  if jnp.shape(target) not in ((), (batch,)):
    raise errors.UserError(
      f'the target of Halting is one number or one for each image, [{batch}], '
      f'got {jnp.shape(target)}'
    )
  if isinstance(target, jax.core.Tracer):
    return
  low, high = float(np.min(target)), float(np.max(target))
  if not low > 0 or not np.isfinite(high):
    raise errors.UserError(
      'the target of Halting is a mean |x - y| of pixels in [0, 1], above 0; '
      f'got {low if not low > 0 else high}'
    )
  if low < bins[0] or high > bins[-1]:
    warnings.warn(
      f'this tokenizer knows losses from {bins[0]} to {bins[-1]}; a target of '
      f'{low if low < bins[0] else high} is taken for the nearest of them',
      stacklevel=4,
    )


def legal_length(tokens: int, boundaries: tuple[int, ...]) -> int:
  """Rounds a static budget down to a legal length, and says so.

  Args:
    tokens: the budget.
    boundaries: the legal lengths, rising.

  Returns:
    The largest legal length that the budget allows; a warning says when it is
    not the budget itself.

  Raises:
    UserError: if the budget is below the smallest legal length or above the
      largest.
  """
  if not boundaries[0] <= tokens <= boundaries[-1]:
    some = f'{boundaries[0]} to {boundaries[-1]} tokens per image'
    if len(boundaries) == 1:
      some = f'all of its {boundaries[0]} tokens for every image'
    raise errors.UserError(
      f'a budget of {tokens} tokens does not fit: this tokenizer uses {some}'
    )
  legal = max(b for b in boundaries if b <= tokens)
  if legal != tokens:
    warnings.warn(
      f'{tokens} tokens is no legal length of this tokenizer; using {legal} '
      f'(legal: {", ".join(map(str, boundaries))})',
      stacklevel=2,
    )
  return legal


def round_down(tokens: Array, boundaries: tuple[int, ...]) -> Array:
  """Rounds traced budgets down to legal lengths, at least the smallest."""
  legal = jnp.asarray(boundaries, jnp.int32)
  index = jnp.searchsorted(legal, tokens, side='right') - 1
  return legal[jnp.maximum(index, 0)]


def prefix_mask(length: Array, capacity: int) -> Array:
  """Which of the first slots count.

  Args:
    length: int32 [B].
    capacity: N.

  Returns:
    bool [B, N], True for slots below the length.
  """
  return jnp.arange(capacity)[None] < length[:, None]


def sample_lengths(
  rng: Array,
  batch: int,
  boundaries: tuple[int, ...],
  *,
  sampler: Sampler = 'uniform',
  full: float = 0.0,
) -> Array:
  """Draws the training lengths of nested dropout.

  Every prefix of a row trained so decodes (Rippel et al., arXiv 1402.0915; tail
  token drop in One-D-Piece, powers of two in FlexTok).

  Args:
    rng: a typed key.
    batch: B.
    boundaries: the legal lengths, rising.
    sampler: 'uniform' over the legal lengths; 'batch': so, one for all images
      (One-D-Piece's tail token drop); 'powers': uniform over 1, 2, 4, ...,
      rounded down to a legal length, and the whole row; 'none': always the
      whole row.
    full: chance that an image keeps its whole row, whatever the sampler says.

  Returns:
    int32 [B].

  Raises:
    ValueError: if the sampler is unknown.
  """
  whole = jnp.full((batch,), boundaries[-1], jnp.int32)
  if sampler == 'none':
    return whole
  if sampler in ('uniform', 'batch'):
    legal = np.asarray(boundaries)
  elif sampler == 'powers':
    powers = [2**i for i in range(int(np.log2(boundaries[-1])) + 1)]
    below = [[b for b in boundaries if b <= p] for p in powers]
    legal = np.unique([b[-1] for b in below if b] + [boundaries[-1]])
  else:
    raise ValueError(
      f"unknown sampler {sampler!r}; try 'uniform', 'batch', 'powers' or 'none'"
    )
  draw, keep = jax.random.split(rng)
  many = 1 if sampler == 'batch' else batch
  lengths = jax.random.choice(draw, jnp.asarray(legal, jnp.int32), (many,))
  return jnp.where(jax.random.uniform(keep, (batch,)) < full, whole, lengths)
