"""What every quantiser returns, and how its codebook's use is counted.

Dimensions: N tokens, D features, V codes, Q codes per token.

Statistics are *sums* over tokens, never means, so that they add over
microbatches and devices before anything is made of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Variables = Any  # Linen's dict of collections.


@struct.dataclass
class CodebookStats:
  """Sums over the tokens of a batch; add two of them leaf by leaf.

  Attributes:
    count: float32 [..., V], how many tokens chose each code.
    total: float32 [..., V, D], the sum of those tokens, or None where the
      codes are fixed and nothing is learned from the tokens.
    square: float32 [..., V], the sum of their squared norms, or None.
  """

  count: Array
  total: Array | None = None
  square: Array | None = None


@struct.dataclass
class Quantized:
  """A quantised tensor.

  Attributes:
    codes: int32 [..., Q]; 0 where the mask is False. None if the tokens are
      continuous.
    embeddings: [..., D] in the input's dtype, straight-through: the forward
      value is the code's vector, the gradient is the identity. 0 where the
      mask is False.
    losses: scalars, already weighted; `loss` is their sum.
    stats: what was used, or None.
  """

  codes: Any  # An array, or None.
  embeddings: Array
  losses: dict[str, Array]
  stats: CodebookStats | None = None

  @property
  def loss(self) -> Array:
    """The sum of the weighted losses, float32 []."""
    return sum(self.losses.values(), jnp.zeros((), jnp.float32))


def together(*parts: Quantized) -> Quantized:
  """The last of several passes, with the losses and statistics of all added."""
  add = lambda *x: sum(x[1:], x[0])
  return dataclasses.replace(
    parts[-1],
    losses=jax.tree.map(add, *(part.losses for part in parts)),
    stats=jax.tree.map(add, *(part.stats for part in parts)),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
  """Base of the quantisers' configs.

  A subclass has `build()`, and the properties `dim` (D), `codebook_size` (V)
  and `num_codes` (Q).
  """

  @property
  def input_dim(self) -> int:
    """Features of what is quantised."""
    return self.dim  # type: ignore[attr-defined]

  @property
  def digits(self) -> tuple[int, ...]:
    """Values of each digit of a code, the lowest first; () for none.

    Digits are what a code is made of (levels, bits): their statistics say more
    of its probability than its number does.
    """
    return ()

  def update(
    self,
    variables: Variables,
    stats: CodebookStats,
    *,
    rng: Array,
    path: tuple[str, ...] = (),
  ) -> Variables:
    """Learns from summed statistics; most codebooks have nothing to learn.

    Args:
      variables: the whole model's collections.
      stats: sums over the global batch.
      rng: a key.
      path: the quantiser's module names inside the model.

    Returns:
      New collections; the argument is left as it was.
    """
    del stats, rng, path
    return variables


def check_features(z: Array, dim: int, reason: str) -> None:
  """Checks the last axis of what is quantised.

  Args:
    z: [..., D].
    dim: D.
    reason: what gives D, for the message.

  Raises:
    ValueError: if z has another number of features.
  """
  if z.ndim < 1 or z.shape[-1] != dim:
    raise ValueError(f'Expected z [..., {dim}], {reason}; got {z.shape}.')


def normalize(x: Array, eps: float = 1e-12) -> Array:
  """Scales the last axis to unit length, with a finite gradient at zero."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, eps))


def straight_through(z: Array, quantized: Array) -> Array:
  """The value of `quantized` exactly, with the gradient of `z`.

  Args:
    z: what was quantised, [...].
    quantized: its quantised value, [...].

  Returns:
    `quantized` in the dtype of `z`.
  """
  quantized = jax.lax.stop_gradient(quantized.astype(z.dtype))
  # z - z is exactly zero, so that lookup(codes) equals the embeddings to the
  # last bit; z + (quantized - z), the usual form, is off by a rounding.
  return quantized + (z - jax.lax.stop_gradient(z))


def masked_mean(x: Array, mask: Array | None) -> Array:
  """The mean over the entries that the mask keeps, in float32.

  Args:
    x: [...].
    mask: bool of the same shape, or None to keep all.

  Returns:
    float32 []; 0 if nothing is kept.
  """
  x = x.astype(jnp.float32)
  if mask is None:
    return jnp.mean(x)
  kept = jnp.sum(jnp.where(mask, x, 0.0))
  return kept / jnp.maximum(jnp.sum(mask), 1)


def masked(x: Array, mask: Array | None) -> Array:
  """Zeros where the mask [...] is False; x is [..., K]."""
  return x if mask is None else jnp.where(mask[..., None], x, 0)


def count_codes(codes: Array, size: int, mask: Array | None = None) -> Array:
  """Counts how often each code occurs.

  Args:
    codes: int32 [...].
    size: V.
    mask: bool [...], the codes that count; None for all.

  Returns:
    float32 [V].
  """
  weight = jnp.ones(codes.shape) if mask is None else mask
  return jax.ops.segment_sum(
    weight.astype(jnp.float32).reshape(-1), codes.reshape(-1), size
  )


def code_stats(
  z: Array, codes: Array, size: int, mask: Array | None = None
) -> CodebookStats:
  """Sums the tokens that chose each code.

  Args:
    z: [..., D].
    codes: int32 [...].
    size: V.
    mask: bool [...], the tokens that count; None for all.

  Returns:
    The statistics, without a gradient.
  """
  z = jax.lax.stop_gradient(z.astype(jnp.float32))
  z = masked(z, mask).reshape(-1, z.shape[-1])
  flat = codes.reshape(-1)
  return CodebookStats(
    count=count_codes(codes, size, mask),
    total=jax.ops.segment_sum(z, flat, size),
    square=jax.ops.segment_sum(jnp.sum(jnp.square(z), -1), flat, size),
  )


def usage(count: Array) -> Array:
  """The fraction of codes that occur at all; count is [..., V]."""
  return jnp.mean((count > 0).astype(jnp.float32), axis=-1)


def perplexity(count: Array) -> Array:
  """The exponentiated entropy of the codes' frequencies: V if all are equal.

  Args:
    count: [..., V].

  Returns:
    float32 [...]; 1 if nothing was counted.
  """
  count = count.astype(jnp.float32)
  total = jnp.maximum(jnp.sum(count, axis=-1, keepdims=True), 1e-9)
  p = count / total
  return jnp.exp(-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)), axis=-1))
