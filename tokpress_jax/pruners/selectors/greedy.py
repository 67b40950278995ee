"""Greedy selectors: each pick depends on those before it.

All take one row of distances or similarities per pick (`similarities.Rows`).
They run `limit` steps, a static upper bound
of `count`; a row that has its count changes no more. What they read is taken as
constant (`stop_gradient`). Ties go to the earlier token, as in `torch.argmax`
on a CPU.

Only free tokens (valid and not protected) are picked and compared; protected
ones take no part.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks, similarities
from tokpress_jax.pruners.selectors import basic
from tokpress_jax.types import Array


def farthest(
  distances: similarities.Rows,
  *,
  start: Array,
  count: Array | int,
  limit: int,
  valid: Array,
  protected: Array,
  weight: Array | None = None,
  to: Literal['nearest', 'all'] = 'nearest',
) -> tuple[Array, Array]:
  """Picks, each time, the token farthest from those picked.

  The first pick has the highest `start`. Published starts: DivPrune
  (arXiv:2503.02175, section 3), the token farthest from its nearest neighbour,
  `-similarities.nearest_other(gram, free)`; ToDRE the highest attention;
  SeGPruner the first token, zeros.

  Args:
    distances: from all tokens to a row's pick.
    start: [B, N], the score of the first pick.
    count: unprotected tokens to keep, int [B] or one number.
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.
    weight: [B, N], multiplies the distances; ZOO-Prune's sensitivity.
    to: the distance to the 'nearest' pick (max-min), or the sum of those to
      'all' picks (max-sum: ToDRE, arXiv:2505.18757).

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: protected tokens, then picks in
    order.

  Raises:
    UserError: if `to` is unknown, or the limit; see `checks.row_counts`.
  """
  if to not in ('nearest', 'all'):
    raise UserError(f"distance is to the 'nearest' or to 'all', got {to!r}")
  factor = 1.0 if weight is None else weight.astype(jnp.float32)
  join = jnp.minimum if to == 'nearest' else jnp.add
  begin = jnp.inf if to == 'nearest' else 0.0
  return pick_greedily(
    lambda far, step: jnp.where(step == 0, start, far * factor),
    lambda far, pick: join(far, distances(pick)),
    jnp.full(start.shape, begin, jnp.float32),
    count=count,
    limit=limit,
    valid=valid,
    protected=protected,
    start=start,
    weight=weight,
  )


def relevant_and_diverse(
  scores: Array,
  similarity: similarities.Rows,
  *,
  balance: float = 0.5,
  count: Array | int,
  limit: int,
  valid: Array,
  protected: Array,
  at_once: int = 1,
) -> tuple[Array, Array]:
  """Maximal marginal relevance (IDPruner; Carbonell and Goldstein, 1998).

  The first pick has the highest score; each further one the highest
  balance * score - (1 - balance) * largest similarity to a pick.

  Args:
    scores: [B, N]; IDPruner normalises them to [0, 1].
    similarity: of all tokens to a row's pick.
    balance: 1 is top-k.
    count: unprotected tokens to keep, int [B] or one number.
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.
    at_once: tokens picked per step, without comparing them (AngelSlim's
      `parallel_k`).

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: protected tokens, then picks in
    order.

  Raises:
    UserError: if a number does not fit; see `checks.row_counts`.
  """
  scores = scores.astype(jnp.float32)

  def gain(closest, step):
    later = balance * scores - (1 - balance) * closest
    return jnp.where(step == 0, scores, later)

  return pick_greedily(
    gain,
    lambda closest, pick: jnp.maximum(closest, similarity(pick)),
    jnp.full(scores.shape, -2.0, jnp.float32),
    count=count,
    limit=limit,
    valid=valid,
    protected=protected,
    at_once=at_once,
    scores=scores,
  )


def pick_greedily(
  gain: Callable[[Any, Array], Array],
  update: Callable[[Any, Array], Any],
  state: Any,
  *,
  count: Array | int,
  limit: int,
  valid: Array,
  protected: Array,
  at_once: int = 1,
  **arrays: Any,
) -> tuple[Array, Array]:
  """Runs a greedy loop: the highest gain is picked, the state updated.

  Args:
    gain: from the state and the step to [B, N].
    update: from the state and a pick int32 [B] to the state.
    state: at first.
    count: int [B] or one number.
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool.
    at_once: picks per step.
    **arrays: by name, what must be [B, N] too.

  Returns:
    kept [B, N] bool, rank int32 [B, N].
  """
  slots = valid.shape[1]
  count = checks.row_counts(
    count,
    valid=valid,
    protected=protected,
    static=[('limit', limit, 1, slots), ('at_once', at_once, 1, slots)],
    **arrays,
  )
  fixed = protected & valid
  free = valid & ~protected
  count = jnp.minimum(jnp.minimum(count, limit), free.sum(axis=1))
  batch = jnp.arange(valid.shape[0])

  def step(i, carry):
    state, when = carry
    value = without_nan(jax.lax.stop_gradient(gain(state, i)))
    among = free & (when == slots)
    for j in range(at_once):
      pick = best_slot(value, among)
      among = among.at[batch, pick].set(False)
      number = i * at_once + j
      taken = number < count
      now = jnp.where(taken, number, when[batch, pick])
      when = when.at[batch, pick].set(now)
      new = jax.lax.stop_gradient(update(state, pick))
      state = jax.tree.map(
        lambda a, b, taken=taken: jnp.where(taken[:, None], a, b), new, state
      )
    return state, when

  when = jnp.full(valid.shape, slots, jnp.int32)
  steps = -(-limit // at_once)
  _, when = jax.lax.fori_loop(0, steps, step, (state, when))
  return fixed | (when < slots), basic.order_of(when, protected=fixed)


def best_slot(value: Array, among: Array) -> Array:
  """The first slot of the highest value among some, -inf too: int32 [B]."""
  high = jnp.where(among, value, -jnp.inf).max(axis=1, keepdims=True)
  return jnp.argmax(among & (value >= high), axis=1)


def without_nan(value: Array) -> Array:
  """The lowest value where there is none."""
  return jnp.where(jnp.isnan(value), -jnp.inf, value)
