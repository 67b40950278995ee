"""Scores from attention: rows of some queries, columns, PageRank.

Dimension letters: B batch, N token slots (keys), M queries, A heads, G chosen
heads, D features of a head.

A host gives the rows that a pruner needs (the class token's, the last
instruction token's, a window's); `attend` makes them again from queries and
keys, so that fused attention stays on everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.types import Array

HeadJoin = Literal['mean', 'sum', 'max', 'none']
QueryJoin = Literal['mean', 'sum', 'max']

_JOINS: dict[str, Callable[..., Array]] = {
  'mean': jnp.mean,
  'sum': jnp.sum,
  'max': jnp.max,
}


def attend(
  queries: Array,
  keys: Array,
  *,
  valid: Array,
  visible: Array | None = None,
  source: Literal['probability', 'logit'] = 'probability',
  scale: float | None = None,
) -> Array:
  """Attention of some queries to all keys, computed for them alone.

  PruMerge and Recoverable Compression do not split the heads: give
  `similarities.join_heads` of keys and queries, with one axis for the head.
  PyramidDrop, TransPrune and SnapKV give the rotated queries and keys of a
  layer; GlobalCom2 takes the logits.

  Args:
    queries: [B, A, M, D].
    keys: [B, A, N, D].
    valid: [B, N] bool; the softmax runs over these.
    visible: [B, M, N] bool, which key each query may see; all if not given.
    source: 'probability' after the softmax, 'logit' before it.
    scale: of the products; D ** -0.5 if not given.

  Returns:
    float32 [B, A, M, N]; keys that are not seen have probability 0, or logit
    -inf.
  """
  scale = queries.shape[-1] ** -0.5 if scale is None else scale
  logits = scale * jnp.einsum(
    'bamd,band->bamn',
    queries.astype(jnp.float32),
    keys.astype(jnp.float32),
    precision='highest',
  )
  seen = valid[:, None, :]
  seen = seen if visible is None else seen & visible
  logits = jnp.where(seen[:, None], logits, -jnp.inf)
  return logits if source == 'logit' else masked_softmax(logits)


def attention_row(row: Array, *, heads: HeadJoin = 'mean') -> Array:
  """Attention that one query pays to each token.

  Args:
    row: [B, A, N] attention of the query.
    heads: how the heads are joined; 'none' keeps them.

  Returns:
    float32 [B, N], or [B, A, N].
  """
  return _join_heads(row.astype(jnp.float32), heads)


def unsplit_attention(logits: Array, *, valid: Array) -> Array:
  """Attention as if all heads were one (PruMerge, Recoverable Compression).

  Queries and keys of all heads end to end have the sum of the heads' products,
  and a width A times as large: softmax(sum of logits / sqrt(A)).

  Args:
    logits: [B, A, N] of one query, each head's scaled by its own width.
    valid: [B, N] bool; the softmax runs over these.

  Returns:
    float32 [B, N].
  """
  whole = logits.astype(jnp.float32).sum(axis=1) / logits.shape[1] ** 0.5
  return masked_softmax(jnp.where(valid, whole, -jnp.inf))


def attention_rows(
  rows: Array,
  *,
  weight: Array | None = None,
  heads: HeadJoin = 'mean',
  queries: QueryJoin = 'mean',
) -> Array:
  """Attention that several queries pay to each token.

  Heads are joined before queries: the maximum over queries is then that of the
  mean head (MustDrop, arXiv:2411.10803). For means and sums the order does not
  matter.

  Args:
    rows: [B, A, M, N] attention of the queries.
    weight: [B, M] or [B, A, M], what each query counts; a mask of the valid
      ones, of the text, of SparseVLM's raters, or AdaptInfer's prior of words
      (`text_prior`). All 1 if not given.
    heads: how the heads are joined; 'none' keeps them.
    queries: how the queries are joined; 'mean' divides by the sum of the
      weights, 'max' is over queries of positive weight, whose rows it
      multiplies.

  Returns:
    float32 [B, N], or [B, A, N]; 0 where no query counts.
  """
  rows = rows.astype(jnp.float32)
  if weight is None:
    weight = jnp.ones((rows.shape[0], rows.shape[2]), jnp.float32)
  weight = weight.astype(jnp.float32)
  if weight.ndim == 2:
    weight = jnp.broadcast_to(weight[:, None], rows.shape[:3])
  rows = rows * weight[..., None]
  if queries == 'mean':
    # Each head divides by its own weights, so it comes before heads are joined.
    total = weight.sum(axis=2, keepdims=True)
    rows = rows / jnp.where(total > 0, total, 1)[..., None]
  joined = _join_heads(rows, heads)  # [B, M, N] or [B, A, M, N]
  if queries in ('mean', 'sum'):
    return joined.sum(axis=-2)
  counts = weight > 0 if heads == 'none' else (weight > 0).any(axis=1)
  best = jnp.where(counts[..., None], joined, -jnp.inf).max(axis=-2)
  return jnp.where(counts.any(axis=-1, keepdims=True), best, 0)


def strongest_heads(
  rows: Array, *, count: int, valid: Array, weight: Array | None = None
) -> Array:
  """The heads whose queries pay the most to the tokens (SparseVLM v2: 14).

  Args:
    rows: [B, A, M, N] attention.
    count: G.
    valid: [B, N] bool, the tokens that are looked at.
    weight: [B, M], which queries count; all if not given.

  Returns:
    [B, G, M, N], the strongest first; ties go to the earlier head.

  Raises:
    UserError: if there are fewer heads.
  """
  if not 1 <= count <= rows.shape[1]:
    raise UserError(
      f'{count} of {rows.shape[1]} heads were asked for; give a number in 1 '
      f'to {rows.shape[1]}'
    )
  if weight is None:
    weight = jnp.ones((rows.shape[0], rows.shape[2]), jnp.float32)
  mass = jnp.einsum(
    'bamn,bm,bn->ba',
    rows.astype(jnp.float32),
    weight.astype(jnp.float32),
    valid.astype(jnp.float32),
    precision='highest',
  )
  best = jax.lax.top_k(mass, count)[1]
  return jnp.take_along_axis(rows, best[:, :, None, None], axis=1)


def attention_column(
  column: Array,
  *,
  visible: Array | None = None,
  heads: HeadJoin = 'mean',
) -> Array:
  """Attention that each token receives from all queries.

  HiPrune's global attention is this with the number of queries, padding left
  out, as `visible`; H2O's has none, ObservedAttention's has the queries that
  could see each token (`visible_queries`).

  Args:
    column: [B, A, N] attention summed over queries.
    visible: [B, N] or [B, 1], queries that the sum is divided by; none if not
      given.
    heads: how the heads are joined; 'none' keeps them.

  Returns:
    float32 [B, N], or [B, A, N].
  """
  column = column.astype(jnp.float32)
  if visible is not None:
    count = jnp.maximum(visible.astype(jnp.float32), 1)
    column = column / count[:, None]
  return _join_heads(column, heads)


def visible_queries(valid: Array) -> Array:
  """Queries that see each token under a causal mask: [B, N], itself counted."""
  later = jnp.cumsum(valid[:, ::-1], axis=1)[:, ::-1]
  return jnp.where(valid, later, 0)


def pagerank(
  logits: Array,
  *,
  valid: Array,
  temperature: float = 0.1,
  steps: int = 5,
  damping: float = 0.0,
) -> Array:
  """Attention followed from token to token (AIM, arXiv:2412.03248).

  Each head's walk starts evenly on the valid tokens and takes `steps` steps by
  the softmax of its logits; the score is the root mean square over heads of
  where it ends. With damping, each step starts anew with that probability.

  Args:
    logits: [B, A, N, N] of queries to keys; -inf where a key is not seen.
    valid: [B, N] bool.
    temperature: the logits are divided by it.
    steps: of the walk.
    damping: chance of starting anew; 0 in the official code.

  Returns:
    float32 [B, N]; 0 where padded.
  """
  logits = logits.astype(jnp.float32) / temperature
  logits = jnp.where(valid[:, None, None], logits, -jnp.inf)
  move = masked_softmax(logits)
  number = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
  start = (valid / number).astype(jnp.float32)[:, None]  # [B, 1, N]
  at = jnp.broadcast_to(start, move.shape[:3])

  def step(_, at):
    gone = jnp.einsum('bam,bamn->ban', at, move, precision='highest')
    return damping * start + (1 - damping) * gone

  at = jax.lax.fori_loop(0, steps, step, at)
  return jnp.sqrt(jnp.mean(jnp.square(at), axis=1))


def masked_softmax(logits: Array) -> Array:
  """Softmax over the last axis; rows of -inf only give zeros, not NaN."""
  peak = jnp.max(logits, axis=-1, keepdims=True)
  peak = jnp.where(jnp.isfinite(peak), peak, 0)
  value = jnp.exp(logits - jax.lax.stop_gradient(peak))
  total = value.sum(axis=-1, keepdims=True)
  return value / jnp.where(total > 0, total, 1)


def _join_heads(x: Array, heads: HeadJoin) -> Array:
  """Joins axis 1."""
  if heads == 'none':
    return x
  if heads not in _JOINS:
    raise UserError(
      f'unknown way to join heads {heads!r}; try one of {[*_JOINS, "none"]}'
    )
  return _JOINS[heads](x, axis=1)
