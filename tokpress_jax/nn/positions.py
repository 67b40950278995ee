"""Position codes: learned, sin-cos and rotary, in one and two dimensions.

Dimension letters: T tokens, P position axes, D model features, E head features,
B batch, A heads.

Positions are explicit arrays [T, P] (or [B, T, P]) of coordinates, so that a
pruned or permuted row of tokens keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.errors import UserError

Array = jax.Array


def grid_positions(*sizes: int) -> np.ndarray:
  """Coordinates of a grid in raster order.

  Args:
    *sizes: the grid's sizes, rows first.

  Returns:
    int32 [T, P] with T the product of the P sizes.
  """
  axes = np.meshgrid(*(np.arange(n) for n in sizes), indexing='ij')
  return np.stack([a.reshape(-1) for a in axes], axis=-1).astype(np.int32)


def sincos(
  positions: Array | np.ndarray, width: int, *, base: float = 10_000.0
) -> Array:
  """Sin-cos codes: each axis takes an equal share of the features.

  Args:
    positions: [..., P].
    width: D, divisible by 2 P.
    base: the longest wavelength over 2 pi.

  Returns:
    float32 [..., D]; per axis D / 2P sines, then as many cosines (the layout of
    MAE and big_vision, one axis after the other).

  Raises:
    ValueError: if the width does not divide.
  """
  axes = positions.shape[-1]
  if width % (2 * axes):
    raise ValueError(
      f'sin-cos codes of {axes} axes need a width divisible by {2 * axes}, '
      f'got {width}'
    )
  count = width // (2 * axes)
  rates = base ** -(np.arange(count, dtype=np.float32) / count)
  angles = _outer(positions, rates)  # [..., P, D / 2P]
  codes = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return codes.reshape(*positions.shape[:-1], width)


def time_codes(
  time: Array | np.ndarray,
  width: int = 256,
  *,
  base: float = 10_000.0,
  scale: float = 1.0,
) -> Array:
  """Sin-cos codes of times [...]: float32 [..., width], cosines first.

  Args:
    time: steps of a diffusion, or times of a flow.
    width: of the codes.
    base: the longest wavelength over the shortest.
    scale: of the times.
  """
  rates = sincos_rates(width // 2, base) * np.float32(scale)
  time = jnp.asarray(time, jnp.float32)[..., None]
  angles = time * rates.reshape((1,) * (time.ndim - 1) + rates.shape)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sincos_rates(count: int, base: float) -> np.ndarray:
  """base^(-i / count) for i < count, float32.

  The exponent is rounded to float32 before, as in the official codes: at an
  angle of 1,000 the last bit of a rate shows.
  """
  exponent = -np.float32(np.log(base)) * np.arange(count, dtype=np.float32)
  exponent = (exponent / np.float32(count)).astype(np.float64)
  return np.exp(exponent).astype(np.float32)


@struct.dataclass
class Rotation:
  """Rotary position code of T tokens: `cos`, `sin` float32 [(B,) T, E / 2]."""

  cos: Array
  sin: Array
  layout: Literal['interleaved', 'half'] = struct.field(
    pytree_node=False, default='interleaved'
  )


def rotation(
  positions: Array | np.ndarray,
  head_dim: int,
  *,
  base: float = 10_000.0,
  layout: Literal['interleaved', 'half'] = 'interleaved',
) -> Rotation:
  """Rotary position embedding (Su et al., arXiv 2104.09864), axial in P axes.

  Args:
    positions: [T, P] or [B, T, P]; each axis turns its own E / P features.
    head_dim: E, divisible by 2 P.
    base: of the geometric row of rates.
    layout: which features form a pair: neighbours (2i, 2i + 1), or (i,
      i + E / 2).

  Returns:
    The Rotation, to be given to `rotate`.

  Raises:
    ValueError: if the head does not divide.
  """
  axes = positions.shape[-1]
  if head_dim % (2 * axes):
    raise ValueError(
      f'rotary codes of {axes} axes need a head divisible by {2 * axes}, got '
      f'{head_dim} features'
    )
  count = head_dim // (2 * axes)
  rates = base ** -(np.arange(count, dtype=np.float32) / count)
  angles = _outer(positions, rates)  # [..., T, P, E / 2P]
  angles = angles.reshape(*positions.shape[:-1], head_dim // 2)
  return Rotation(cos=jnp.cos(angles), sin=jnp.sin(angles), layout=layout)


def sectioned_rotation(
  positions: Array | np.ndarray,
  sections: Sequence[int],
  *,
  base: float = 10_000.0,
  layout: Literal['interleaved', 'half'] = 'half',
) -> Rotation:
  """Rotary codes of several axes that share one row of rates (M-RoPE).

  Unlike `rotation`, whose axes have rates of their own from 1 down, the P axes
  share the E / 2 rates: the first section of them turns by the first axis, the
  next by the next (Qwen2-VL, arXiv:2409.12191, section 2.1).

  Args:
    positions: [T, P] or [B, T, P].
    sections: P numbers of rates that add up to E / 2; Qwen2-VL has (16, 24,
      24) for (time, row, column).
    base: of the geometric row of rates.
    layout: see `rotation`.

  Returns:
    The Rotation, to be given to `rotate`.

  Raises:
    ValueError: if there is not one section per axis.
  """
  if len(sections) != positions.shape[-1]:
    raise ValueError(
      f'{positions.shape[-1]} axes need as many sections, got {sections}'
    )
  count = sum(sections)
  rates = base ** -(np.arange(count, dtype=np.float32) / count)
  axis = np.repeat(np.arange(len(sections)), sections)
  chosen = jnp.asarray(positions, jnp.float32)[..., axis]  # [..., T, E / 2]
  angles = chosen * rates.reshape((1,) * (chosen.ndim - 1) + (count,))
  return Rotation(cos=jnp.cos(angles), sin=jnp.sin(angles), layout=layout)


def split_sections(sections: Sequence[int], count: int) -> tuple[int, ...]:
  """Sections for tokens with several positions per axis (PPE).

  Args:
    sections: rates of each axis.
    count: positions per axis.

  Returns:
    Each section in `count` equal parts.

  Raises:
    UserError: if the count does not divide every section. (The official code
      then mixes the axes.)
  """
  if bad := [n for n in sections if n % count]:
    raise UserError(
      f'{count} positions per axis do not divide the sections {bad} of '
      f'{tuple(sections)}; take a divisor of all'
    )
  return tuple(n // count for n in sections for _ in range(count))


def turn(old: Rotation, new: Rotation) -> Rotation:
  """The rotation that takes keys turned by `old` to those turned by `new`.

  So keys in a cache follow tokens that were renumbered, without the unrotated
  keys: rotate(rotate(x, old), turn(old, new)) is rotate(x, new).

  Args:
    old: the code that the keys carry.
    new: of the same layout and shapes.

  Returns:
    The code of the difference.

  Raises:
    ValueError: if the layouts differ.
  """
  if old.layout != new.layout:
    raise ValueError(f'layouts differ: {old.layout} and {new.layout}')
  return Rotation(
    cos=new.cos * old.cos + new.sin * old.sin,
    sin=new.sin * old.cos - new.cos * old.sin,
    layout=old.layout,
  )


def rotate(x: Array, code: Rotation) -> Array:
  """Turns queries or keys.

  Args:
    x: [B, A, T, E].
    code: of the T tokens.

  Returns:
    [B, A, T, E]; float32 inside, dtype kept.
  """
  cos, sin = code.cos, code.sin
  if cos.ndim == 2:
    cos, sin = cos[None], sin[None]
  cos, sin = cos[:, None], sin[:, None]  # [B or 1, 1, T, E / 2]
  x32 = x.astype(jnp.float32)
  if code.layout == 'interleaved':
    a, b = x32[..., 0::2], x32[..., 1::2]
    y = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return y.reshape(x.shape).astype(x.dtype)
  a, b = jnp.split(x32, 2, axis=-1)
  y = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return y.astype(x.dtype)


class LearnedPositions(nn.Module):
  """A learned table [T, D], added to x [B, T, D] or looked up.

  Attributes:
    length: T.
    width: D.
    std: of the initial normal draw.
    dtype: of the output.
  """

  length: int
  width: int
  std: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, index: Array | np.ndarray | slice | None = None) -> Array:
    """Gives the rows at `index` (all of them if None) as [..., D]."""
    table = self.param(
      'table', nn.initializers.normal(self.std), (self.length, self.width)
    )
    rows = table if index is None else table[index]
    return rows.astype(self.dtype)


def _outer(positions: Array | np.ndarray, rates: np.ndarray) -> Array:
  """Positions [..., P] times rates [R], as float32 [..., P, R]."""
  return jnp.einsum('...p,r->...pr', jnp.asarray(positions, jnp.float32), rates)
