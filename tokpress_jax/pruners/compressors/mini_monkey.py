"""Mini-Monkey's scale compression: of the fine crops, the half that is read.

Huang et al., "Mini-Monkey: alleviating the semantic sawtooth effect for
lightweight MLLMs via complementary image pyramid" (2024, arXiv:2408.02034).
An image is given in two tilings. Two layers of the language model run on all;
what everything behind the fine tiling pays to its tokens in the second layer,
on average over heads, says which half of them stays. The model then starts
again on the shorter row, positions counted anew.

The official code takes one row at a time, and when it puts the row together it
leaves out the token behind the compressed ones, by mistake; here it stays.

Dimension letters: B batch, N token slots, K kept slots, M rows of attention, A
heads.
"""

from __future__ import annotations

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.pruners import selectors
from tokpress_jax.pruners.scores.attention import attention_rows
from tokpress_jax.types import Array, Reduction, Tokens


def readers(tokens: Tokens, fine: Array) -> Array:
  """The tokens behind a row's fine ones, which may look at them: [B, N] bool.

  Args:
    tokens: N slots.
    fine: bool [B, N], tokens of the fine tiling.
  """
  slots = jnp.arange(fine.shape[1])[None]
  last = jnp.max(jnp.where(fine & tokens.valid, slots, -1), axis=1)
  return tokens.valid & (slots > last[:, None])


def scale_compression(
  tokens: Tokens,
  attention: Array,
  *,
  fine: Array,
  capacity: int,
  rows: Array | None = None,
  ratio: float = 0.5,
  positions: positions_lib.Policy = 'compact',
) -> Reduction:
  """Drops the fine tokens that the others look at least.

  Args:
    tokens: N slots: text and crops, as they enter the language model.
    attention: [B, A, M, N] probabilities of the second layer, of M queries; M
      is N if all are given. `scores.attend` gives those of a few.
    fine: bool [B, N], tokens of the fine tiling. The official code takes the
      first crops to be it.
    capacity: K, at least the other tokens of a row and its fine ones that
      stay. If it is less, fewer fine ones do.
    rows: bool [B, M], queries that count; `readers` if None, which needs all.
    ratio: of a row's fine tokens that stay, rounded down.
    positions: the position policy.

  Returns:
    From N to K slots, order kept.

  Raises:
    UserError: if the shapes or the ratio do not fit.
  """
  slots = tokens.valid.shape[1]
  if rows is None:
    rows = readers(tokens, fine)
  want = (tokens.valid.shape[0], rows.shape[1], slots)
  if attention.ndim != 4 or (attention.shape[0], *attention.shape[2:]) != want:
    raise UserError(
      f'attention must be [B, A, M, N] with B={want[0]}, M={want[1]} and '
      f'N={slots}, got {attention.shape}; give `rows` with the attention of '
      'some queries only'
    )
  if not 0 < ratio <= 1 or not 0 < capacity <= slots:
    raise UserError(
      f'a ratio lies in (0, 1] and a capacity in 1 to {slots}, got '
      f'ratio={ratio} and capacity={capacity}'
    )
  fine = fine & tokens.valid & ~tokens.protected
  other = tokens.valid & ~fine
  number = jnp.floor(fine.sum(axis=1) * ratio + 1e-6).astype(jnp.int32)
  room = jnp.maximum(capacity - other.sum(axis=1), 0)
  kept, _ = selectors.top(
    attention_rows(attention, weight=rows),
    count=jnp.minimum(number, room),
    valid=tokens.valid,
    protected=other,
  )
  result = selectors.selection(tokens, kept, capacity=capacity)
  return positions_lib.place(tokens.positions, result, policy=positions)
