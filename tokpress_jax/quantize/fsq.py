"""Finite scalar quantisation, in both published forms.

Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple"
(arXiv:2309.15505), section 3: each feature is bounded to a few levels and
rounded; the codebook is the grid of all combinations.

Two forms are in use and disagree on 1.8% of codes at levels (8, 8, 8, 5, 5,
5): weights trained with one must be run with it.

  * 'google', the paper's notebook (ElasticTok): half = (L - 1)(1 - eps) / 2,
    shift = tan(offset / half);
  * 'lucidrains', vector-quantize-pytorch (FlexTok): half = (L - 1)(1 + eps)
    / 2, shift = atanh(offset / half);

with eps = 1e-3 and offset 1/2 for even L, else 0; then in both the bounded
value is tanh(z + shift) half - offset.

Dimensions: D features, V codes (the product of the levels).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tokpress_jax.quantize import base

Array = jax.Array

LEVELS = {
  2**8: (8, 6, 5),
  2**10: (8, 5, 5, 5),
  2**12: (7, 5, 5, 5, 5),
  2**14: (8, 8, 8, 6, 5),
  2**16: (8, 8, 8, 5, 5, 5),
}
"""The paper's levels (its table 1) for about this many codes."""

_FORMS = ('google', 'lucidrains')
_EPS = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class FSQConfig(base.QuantizerConfig):
  """Levels per feature.

  Attributes:
    levels: at least 2 each; `LEVELS` has the paper's.
    form: 'google' or 'lucidrains'.
  """

  levels: tuple[int, ...] = (8, 5, 5, 5)
  form: str = 'google'

  def __post_init__(self):
    _check(self.levels, self.form)

  @property
  def dim(self) -> int:
    """D."""
    return len(self.levels)

  @property
  def codebook_size(self) -> int:
    """V."""
    return math.prod(self.levels)

  @property
  def digits(self) -> tuple[int, ...]:
    """The levels."""
    return self.levels

  @property
  def num_codes(self) -> int:
    """Q, codes per token."""
    return 1

  def build(self, *, dtype: Any = jnp.float32) -> 'FiniteScalarQuantizer':
    """The module; its arithmetic is float32 whatever the dtype."""
    del dtype
    return FiniteScalarQuantizer(self)


def _check(levels: tuple[int, ...], form: str) -> None:
  if form not in _FORMS:
    raise ValueError(f'form={form!r} is not one of {_FORMS}.')
  if not levels or min(levels) < 2:
    raise ValueError(f'Levels must be at least 2 each; got {levels}.')
  if math.prod(levels) >= 2**31:
    raise ValueError(
      f'Levels {levels} make {math.prod(levels)} codes, which do not fit '
      'int32; use fewer features or levels.'
    )


def bound(z: Array, levels: tuple[int, ...], *, form: str = 'google') -> Array:
  """Squashes features so that rounding gives L values each.

  Args:
    z: float32 [..., D].
    levels: L of each feature.
    form: 'google' or 'lucidrains'.

  Returns:
    float32 [..., D]; feature d rounds to -(L // 2) .. (L - 1) // 2.
  """
  _check(levels, form)
  size = np.asarray(levels, np.float64)
  half = (size - 1) * (1 - _EPS if form == 'google' else 1 + _EPS) / 2
  offset = np.where(size % 2 == 0, 0.5, 0.0)
  invert = np.tan if form == 'google' else np.arctanh
  shape = (1,) * (z.ndim - 1) + (-1,)
  shift, width, centre = (
    jnp.asarray(x, jnp.float32).reshape(shape)
    for x in (invert(offset / half), half, offset)
  )
  return jnp.tanh(z + shift) * width - centre


def fsq(
  z: Array,
  levels: tuple[int, ...],
  *,
  form: str = 'google',
  mask: Array | None = None,
) -> base.Quantized:
  """Rounds each feature to one of its levels.

  The arithmetic is float32: in bfloat16, codes leave their range. The
  gradient passes the rounding but not the bound: d/dz is that of tanh.

  Args:
    z: [..., D], any float dtype.
    levels: L of each feature.
    form: 'google' or 'lucidrains'.
    mask: bool [...], False for padding; None for none.

  Returns:
    A `Quantized`: codes [..., 1], the first feature least significant;
    embeddings in [-1, 1]; no losses.

  Raises:
    ValueError: if z has another number of features.
  """
  base.check_features(
    z, len(levels), f'one feature for each of levels={tuple(levels)}'
  )
  z = jnp.asarray(z)
  bounded = bound(z.astype(jnp.float32), levels, form=form)
  rounded = base.straight_through(bounded, jnp.round(bounded))
  half, basis = _half_and_basis(levels, z.ndim)
  digits = jax.lax.stop_gradient(rounded).astype(jnp.int32) + half
  codes = base.masked(digits, mask)
  codes = jnp.sum(codes * basis, axis=-1).astype(jnp.int32)
  size = math.prod(levels)
  return base.Quantized(
    codes=codes[..., None],
    embeddings=base.masked(rounded / half, mask).astype(z.dtype),
    losses={},
    stats=base.CodebookStats(count=base.count_codes(codes, size, mask)),
  )


def fsq_lookup(codes: Array, levels: tuple[int, ...]) -> Array:
  """The vectors of codes int32 [..., 1]: float32 [..., D]."""
  half, basis = _half_and_basis(levels, codes.ndim)
  size = jnp.asarray(levels).reshape(basis.shape)
  return (codes // basis % size - half) / half


def _half_and_basis(levels: tuple[int, ...], ndim: int) -> tuple[Array, Array]:
  """L // 2 and the place values of a code's digits, [1, ..., 1, D]."""
  shape = (1,) * (ndim - 1) + (-1,)
  half = np.asarray(levels, np.int32) // 2
  basis = np.cumprod((1, *levels[:-1])).astype(np.int32)
  return jnp.asarray(half.reshape(shape)), jnp.asarray(basis.reshape(shape))


class FiniteScalarQuantizer(nn.Module):
  """`fsq` as a module without parameters.

  Attributes:
    config: levels and form.
  """

  config: FSQConfig

  def __call__(self, z: Array, *, mask: Array | None = None) -> base.Quantized:
    """Quantises z [..., D]; see `fsq`."""
    return fsq(z, self.config.levels, form=self.config.form, mask=mask)

  def lookup(self, codes: Array) -> Array:
    """The vectors of codes int32 [..., 1]: float32 [..., D]."""
    return fsq_lookup(codes, self.config.levels)
