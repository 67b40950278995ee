"""Scores from change: through a layer, a projector, from frame to frame.

Dimension letters: B batch, N token slots, D features, E features of an output,
T frames, S slots of one frame, m directions, H rows, W columns, k window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.nn.norms import l2_normalize
from tokpress_jax.types import Array


def transition(before: Array, after: Array, *, among: Array) -> Array:
  """How much a sub-layer turns and stretches a token (TransPrune).

  (|b| / |a|) exp(1 - cos(a, b)) / sum of exp(1 - cos) over tokens, for a
  token's input a and output b before the residual is added (arXiv:2507.20630).
  A layer's score is that of its attention plus that of its MLP; scores add up
  over layers.

  Args:
    before: [B, N, D] after the norm, into the sub-layer.
    after: [B, N, D] out of it.
    among: [B, N] bool, the tokens that the sum is over.

  Returns:
    float32 [B, N].
  """
  a, b = before.astype(jnp.float32), after.astype(jnp.float32)
  cosine = jnp.sum(l2_normalize(a) * l2_normalize(b), axis=-1)
  turned = jnp.exp(1 - cosine)
  total = jnp.where(among, turned, 0).sum(axis=1, keepdims=True)
  length = jnp.linalg.norm(a, axis=-1)
  stretched = jnp.linalg.norm(b, axis=-1) / jnp.where(length > 0, length, 1)
  return stretched * turned / jnp.where(total > 0, total, 1)


def zeroth_order(
  project: Callable[[Array], Array],
  x: Array,
  *,
  rng: Array,
  directions: int = 64,
  step: float = 0.01,
) -> Array:
  """How sensitive a projector is to a token (ZOO-Prune, arXiv:2509.24837).

  The mean over random unit directions u of |f(x + h u) - f(x - h u)| / 2 h. All
  tokens of a row share one bank of directions. float32 throughout: at h = 0.01
  a component moves by about one bfloat16 rounding.

  Args:
    project: the projector, [B, N, D] to [B, N, E], each token by itself.
    x: [B, N, D] before it.
    rng: [B] typed keys.
    directions: m; twice as many calls of `project`.
    step: h.

  Returns:
    float32 [B, N]; ZOO-Prune goes on with `normalise(..., by='minmax')`.
  """
  x = x.astype(jnp.float32)
  draw = lambda key: jax.random.normal(key, (directions, x.shape[-1]))
  bank = l2_normalize(jax.vmap(draw)(rng))  # [B, m, D]

  def one(total, direction):  # [B, D]
    shift = step * direction[:, None]
    change = project(x + shift) - project(x - shift)
    length = jnp.linalg.norm(change.astype(jnp.float32), axis=-1)
    return total + length / (2 * step), None

  zero = jnp.zeros(x.shape[:2], jnp.float32)
  total, _ = jax.lax.scan(one, zero, jnp.moveaxis(bank, 1, 0))
  return total / directions


def temporal_change(
  x: Array, *, frames: int, measure: Literal['cosine', 'absolute'] = 'cosine'
) -> Array:
  """How much each place changed since the frame before (DTD, DyCoke).

  The frame before is compared whether or not its token was kept, as in
  TimeChat-Online's code (arXiv:2504.17343): it drops what has a cosine above
  0.5, so it keeps a change of at least 0.5.

  Args:
    x: [B, N, D], frame after frame, the same places in each: N = T S. Features,
      or pixels of a patch.
    frames: T.
    measure: 1 - cosine, or the mean of absolute differences.

  Returns:
    float32 [B, N]; infinite in the first frame, which is kept whole.

  Raises:
    UserError: if the frames do not divide the slots, or the measure is unknown.
  """
  batch, slots, width = x.shape
  if frames < 1 or slots % frames:
    raise UserError(
      f'{slots} slots do not make {frames} equal frames; give tokens of whole '
      'frames, without class or separator tokens'
    )
  x = x.astype(jnp.float32).reshape(batch, frames, slots // frames, width)
  now, then = x[:, 1:], x[:, :-1]
  if measure == 'cosine':
    change = 1 - jnp.sum(l2_normalize(now) * l2_normalize(then), axis=-1)
  elif measure == 'absolute':
    change = jnp.mean(jnp.abs(now - then), axis=-1)
  else:
    raise UserError(
      f"change is measured by 'cosine' or 'absolute', got {measure!r}"
    )
  change = jnp.pad(change, ((0, 0), (1, 0), (0, 0)), constant_values=jnp.inf)
  return change.reshape(batch, slots)


def window_similarity(
  x: Array, *, grid: tuple[int, int], window: int = 3, valid: Array
) -> Array:
  """How alike the tokens of each window are (MustDrop, arXiv:2411.10803).

  The mean cosine of all pairs of different tokens in windows that do not
  overlap; MustDrop merges windows above 0.8 after the first ViT layer. Rows and
  columns beyond the last whole window are in none.

  Args:
    x: [B, H W, D] in raster order.
    grid: (H, W).
    window: k.
    valid: [B, H W] bool.

  Returns:
    float32 [B, H // k, W // k]; -inf for windows that hold padding.

  Raises:
    UserError: if the grid is not that of the tokens, or holds no window.
  """
  rows, columns = grid[0] // window, grid[1] // window
  if grid[0] * grid[1] != x.shape[1] or window < 2 or not rows * columns:
    raise UserError(
      f'windows of {window} x {window} in a grid of {grid} do not fit '
      f'{x.shape[1]} tokens; give the rows and columns of the tokens, and a '
      'window of at least 2 that fits'
    )

  def cut(y):  # [B, H W, F] to [B, rows, columns, k k, F]
    y = y.reshape(y.shape[0], *grid, -1)
    y = y[:, : rows * window, : columns * window]
    y = y.reshape(y.shape[0], rows, window, columns, window, -1)
    y = y.transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(y.shape[0], rows, columns, window**2, -1)

  unit = cut(l2_normalize(x.astype(jnp.float32)))
  # The sum over all pairs is the square of the sum; a token's own is 1 (or 0).
  pairs = jnp.sum(jnp.square(unit.sum(axis=3)), axis=-1)
  own = jnp.sum(jnp.square(unit), axis=(3, 4))
  mean = (pairs - own) / (window**2 * (window**2 - 1))
  whole = cut(valid[..., None]).all(axis=(3, 4))
  return jnp.where(whole, mean, -jnp.inf)
