"""What can be said of arrays that somebody gives, before anything is computed.

Dimension letters: B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Beyond what standardised pixels or added noise reach; bytes lie far above it.
_LARGEST_PIXEL = 8.0


def concrete(*arrays: object) -> bool:
  """Whether the values of all arrays can be looked at."""
  return not any(
    isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)
    or not getattr(x, 'is_fully_addressable', True)
    for x in arrays
  )


def rows_where(bad: Any) -> list[int]:
  """Numbers of the rows where a concrete mask [B] is True."""
  return [int(i) for i in np.flatnonzero(jax.device_get(bad))]


def rows_that(fail: Callable[..., Any], *given: Any) -> list[int]:
  """Numbers of the rows of concrete arrays for which a mask [B] is True.

  Constants are looked at even while something else is traced.

  Args:
    fail: from these arrays to the mask.
    *given: arrays; None and traced ones fail in no row.
  """
  if not concrete(*given):
    return []
  with jax.ensure_compile_time_eval():
    bad = fail(*given)
  return [] if isinstance(bad, jax.core.Tracer) else rows_where(bad)


def shape_of(x: Any) -> tuple[int, ...]:
  """Its shape, () if it is no array."""
  return tuple(getattr(x, 'shape', ()))


def is_key(x: Any) -> bool:
  """Whether this is a typed key, or an array of them."""
  dtype = getattr(x, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def said(x: Any) -> str:
  """What was given, in a word: dtype and shape, a value, or its type."""
  if hasattr(x, 'dtype') and hasattr(x, 'shape'):
    return f'{x.dtype} {tuple(x.shape)}'
  short = x is None or isinstance(x, bool | int | float | str)
  return repr(x) if short else type(x).__name__


def key_causes(rng: Any, batch: int) -> list[str]:
  """Says why an argument is neither a key nor one for each row, if so.

  Args:
    rng: None, a typed key or typed keys [B].
    batch: B.
  """
  if rng is None or (is_key(rng) and rng.shape in ((), (batch,))):
    return []
  return [
    f'rng must be a typed key, as jax.random.key(0), or one for each of the '
    f'{batch} rows, got {said(rng)}'
  ]


def pixel_causes(images: Any) -> list[str]:
  """Says why images [B, H, W, C] are no floats in about [-1, 1], if so.

  Values are looked at outside of `jit`. What lies a little outside of [-1, 1]
  is taken.
  """
  if not hasattr(images, 'dtype') or not hasattr(images, 'ndim'):
    return [
      f'images are an array of floats in [-1, 1], got {type(images).__name__}; '
      'tokpress_jax.io.images reads and fits pictures'
    ]
  if not jnp.issubdtype(images.dtype, jnp.floating):
    return [
      f'images are floats in [-1, 1], got {images.dtype}; give '
      'images / 127.5 - 1 of bytes, as tokpress_jax.io.images.to_float does'
    ]
  if not images.ndim or not images.size:
    return []
  largest = lambda x: jnp.abs(x.reshape(x.shape[0], -1)).max(axis=1)
  if bad := rows_that(lambda x: ~jnp.isfinite(largest(x)), images):
    return [f'images {bad} hold NaN or infinity']
  if rows_that(lambda x: largest(x) > _LARGEST_PIXEL, images):
    return [
      f'images are floats in [-1, 1], got values up to '
      f'{np.abs(np.asarray(images)).max():g}; give images / 127.5 - 1 of bytes'
    ]
  return []
