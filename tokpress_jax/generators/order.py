"""In which order a row of tokens is predicted: a rank for each position.

Dimension letters: B batch, N tokens, R blocks.

Tokens of one rank form a block and are predicted together. The rank is a NumPy
array [N] where the order is fixed, or a (traced) array [B, N] where each sample
has its own; the sizes of the blocks are static either way, so that every
program has static shapes. Visibility (`visibility.py`) is a comparison of
ranks.

| order | rank | used by |
|---|---|---|
| `raster` | slot | LlamaGen, GPT-like generators |
| `blocks` | scale or level | VAR, MVAR, ResTok's generator |
| `cells` | cell of a grid | xAR |
| `diagonals` | distance from the corner | NAR |
| `random` | a permutation, or random sets | RAR, MAR |
| `by_score` | confidence | MaskGIT |
| `chain` | one order after another | prefixes, Hi-MAR's two phases |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array
MaskSchedule = Literal['cosine', 'arccos', 'linear', 'square']


@struct.dataclass
class Order:
  """Rank of each position and the static sizes of the blocks.

  Attributes:
    rank: int32 [N] or [B, N], values 0 ... R - 1.
    sizes: number of positions of each rank, R static ints.
  """

  rank: np.ndarray | Array
  sizes: tuple[int, ...] = struct.field(pytree_node=False)

  @property
  def num_tokens(self) -> int:
    """N."""
    return sum(self.sizes)

  @property
  def num_blocks(self) -> int:
    """R."""
    return len(self.sizes)

  @property
  def starts(self) -> tuple[int, ...]:
    """The first slot of each block in sequence order."""
    return (0, *itertools.accumulate(self.sizes))[:-1]

  @property
  def permutation(self) -> np.ndarray | Array:
    """Position at each slot of the sequence, [N] or [B, N].

    Within a block, positions stay in ascending order.
    """
    if isinstance(self.rank, np.ndarray):
      return np.argsort(self.rank, axis=-1, kind='stable').astype(np.int32)
    return jnp.argsort(self.rank, axis=-1, stable=True).astype(jnp.int32)

  def to_sequence(self, x: Array) -> Array:
    """Moves x [B, N, ...] from positions into the order of prediction."""
    return _take(x, self.permutation)

  def to_positions(self, x: Array) -> Array:
    """Moves x [B, N, ...] from the order of prediction back to positions."""
    order = self.permutation
    if isinstance(order, np.ndarray):
      return _take(x, np.argsort(order, kind='stable'))
    return _take(x, jnp.argsort(order, axis=-1))


def raster(num_tokens: int) -> Order:
  """One token after another."""
  return blocks((1,) * num_tokens)


def blocks(sizes: tuple[int, ...]) -> Order:
  """Consecutive blocks: VAR's scales (the squares of the sides), levels.

  Args:
    sizes: tokens in each block.

  Returns:
    The order, already in sequence.

  Raises:
    ValueError: if a size is not positive.
  """
  sizes = tuple(int(n) for n in sizes)
  if not sizes or min(sizes) < 1:
    raise ValueError(f'blocks need at least one token each, got sizes {sizes}')
  rank = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  return Order(rank=rank, sizes=sizes)


def cells(grid: tuple[int, int], cell: tuple[int, int]) -> Order:
  """Rectangular cells of a grid, in raster order of the cells (xAR).

  Args:
    grid: rows and columns of tokens.
    cell: rows and columns of one cell.

  Returns:
    The order of the raster positions.

  Raises:
    ValueError: if the cells do not tile the grid.
  """
  (h, w), (ch, cw) = grid, cell
  if h % ch or w % cw:
    raise ValueError(
      f'cells of {ch}x{cw} do not tile a grid of {h}x{w}; choose divisors'
    )
  row, column = np.divmod(np.arange(h * w), w)
  rank = (row // ch) * (w // cw) + column // cw
  return _static(rank)


def diagonals(grid: tuple[int, int]) -> Order:
  """From near to far: Manhattan distance from the first corner (NAR).

  Args:
    grid: rows and columns of tokens.

  Returns:
    The order of the raster positions; rows + columns - 1 blocks.
  """
  row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
  return _static(row + column)


def by_score(scores: Array, sizes: tuple[int, ...]) -> Order:
  """Highest scores first, in blocks of static size (confidence in MaskGIT).

  Args:
    scores: [B, N]; ties go to the earlier position.
    sizes: tokens in each block, sum N; zeros are allowed.

  Returns:
    An order of its own for each sample.

  Raises:
    ValueError: if the sizes do not sum to N.
  """
  if sum(sizes) != scores.shape[-1]:
    raise ValueError(
      f'block sizes sum to {sum(sizes)}, but there are {scores.shape[-1]} '
      'tokens'
    )
  slots = jnp.argsort(scores, axis=-1, stable=True, descending=True)
  place = jnp.argsort(slots, axis=-1)
  level = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  return Order(rank=jnp.asarray(level)[place], sizes=tuple(sizes))


def random(rng: Array, batch: int, sizes: tuple[int, ...]) -> Order:
  """A random order for each sample: permutations (RAR), random sets (MAR).

  Args:
    rng: a typed key.
    batch: B.
    sizes: tokens in each block; all 1 for permutations.

  Returns:
    The order.
  """
  scores = jax.random.uniform(rng, (batch, sum(sizes)))
  return by_score(scores, sizes)


def chain(*orders: Order) -> Order:
  """One order after another, positions concatenated in the same sense.

  A condition or a start token is a first block that is given rather than
  predicted: `chain(blocks((1,)), raster(256))`.

  Args:
    *orders: with static or per-sample ranks.

  Returns:
    The joint order.
  """
  offsets = itertools.accumulate((o.num_blocks for o in orders), initial=0)
  ranks = [o.rank + k for o, k in zip(orders, offsets, strict=False)]
  sizes = tuple(itertools.chain(*(o.sizes for o in orders)))
  if all(isinstance(r, np.ndarray) for r in ranks):
    return Order(rank=np.concatenate(ranks), sizes=sizes)
  batch = next(r.shape[0] for r in ranks if r.ndim == 2)
  wide = [jnp.broadcast_to(r, (batch, r.shape[-1])) for r in map(_2d, ranks)]
  return Order(rank=jnp.concatenate(wide, axis=1), sizes=sizes)


def mask_share(schedule: MaskSchedule, ratio: Any) -> Any:
  """The share m(r) of tokens that is masked when a share r is done.

  Args:
    schedule: 'cosine' cos(pi r / 2), 'arccos' arccos(r) 2 / pi, 'linear' 1 - r
      or 'square' 1 - r^2.
    ratio: r in [0, 1], a number or an array, traced or not.

  Returns:
    As r.

  Raises:
    ValueError: if the name is unknown.
  """
  maths: Any = jnp if isinstance(ratio, jax.Array) else np
  if schedule == 'cosine':
    return maths.cos(np.pi / 2 * ratio)
  if schedule == 'arccos':
    return maths.arccos(ratio) / (np.pi / 2)
  if schedule == 'linear':
    return 1 - ratio
  if schedule == 'square':
    return 1 - ratio**2
  raise ValueError(
    f'unknown schedule {schedule!r}; try one of {get_args(MaskSchedule)}'
  )


def reveal_counts(
  num_tokens: int,
  steps: int,
  schedule: MaskSchedule = 'cosine',
) -> tuple[int, ...]:
  """How many tokens each refinement step reveals.

  After step k of S, floor(N m((k + 1) / S)) tokens stay masked, at least 1 and
  at most one fewer than before, none after the last (MaskGIT, Chang et al.
  2202.04200, section 3.3; TiTok uses arccos, MAR cosine).

  Args:
    num_tokens: N.
    steps: S.
    schedule: see `mask_share`.

  Returns:
    S counts that sum to N. A late count can be 0 if a steep schedule runs out
    of tokens.

  Raises:
    ValueError: if there are more steps than tokens, or the name is unknown.
  """
  if not 1 <= steps <= num_tokens:
    raise ValueError(
      f'{num_tokens} tokens can be revealed in 1 to {num_tokens} steps, got '
      f'{steps}'
    )
  left, counts = num_tokens, []
  for k in range(steps - 1):
    target = int(np.floor(num_tokens * mask_share(schedule, (k + 1) / steps)))
    masked = max(1, min(left - 1, target))
    counts.append(left - masked)
    left = masked
  return (*counts, left)


def random_mask(
  rng: Array,
  batch: int,
  num_tokens: int,
  schedule: MaskSchedule,
  *,
  rounding: Callable[[Array], Array] = jnp.round,
) -> Array:
  """Masks a random part of each row, for training.

  Args:
    rng: a typed key.
    batch: B.
    num_tokens: N.
    schedule: says what share is masked at a time drawn uniformly for each row.
    rounding: of the number of masked tokens, of which there is at least one.

  Returns:
    bool [B, N].
  """
  time_rng, order_rng = jax.random.split(rng)
  time = jax.random.uniform(time_rng, (batch,))
  count = rounding(mask_share(schedule, time) * num_tokens)
  place = jax.random.uniform(order_rng, (batch, num_tokens))
  place = jnp.argsort(jnp.argsort(place, axis=1), axis=1)
  return place < jnp.maximum(count, 1)[:, None]


def _static(rank: np.ndarray) -> Order:
  sizes = tuple(int(n) for n in np.bincount(rank))
  return Order(rank=rank.astype(np.int32), sizes=sizes)


def _2d(rank: np.ndarray | Array) -> Array:
  rank = jnp.asarray(rank)
  return rank[None] if rank.ndim == 1 else rank


def _take(x: Array, index: np.ndarray | Array) -> Array:
  if index.ndim == 1:
    return jnp.take(x, index, axis=1)
  index = index.reshape(index.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, index, axis=1)
