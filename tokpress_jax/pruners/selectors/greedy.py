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
from tokpress_jax.pruners import similarities
from tokpress_jax.pruners.selectors import basic
from tokpress_jax.types import Array


def farthest(
  distances: similarities.Rows,
  *,
  start: Array,
  count: Array,
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
    count: int32 [B], unprotected tokens to keep.
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
    UserError: if `to` is unknown.
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
  )


def relevant_and_diverse(
  scores: Array,
  similarity: similarities.Rows,
  *,
  balance: float = 0.5,
  count: Array,
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
    count: int32 [B], unprotected tokens to keep.
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.
    at_once: tokens picked per step, without comparing them (AngelSlim's
      `parallel_k`).

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: protected tokens, then picks in
    order.
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
  )


def pick_greedily(
  gain: Callable[[Any, Array], Array],
  update: Callable[[Any, Array], Any],
  state: Any,
  *,
  count: Array,
  limit: int,
  valid: Array,
  protected: Array,
  at_once: int = 1,
) -> tuple[Array, Array]:
  """Runs a greedy loop: the highest gain is picked, the state updated.

  Args:
    gain: from the state and the step to [B, N].
    update: from the state and a pick int32 [B] to the state.
    state: at first.
    count: int32 [B].
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool.
    at_once: picks per step.

  Returns:
    kept [B, N] bool, rank int32 [B, N].
  """
  slots = valid.shape[1]
  check_limit(limit, slots)
  if not 1 <= at_once <= slots:
    raise UserError(f'1 to {slots} tokens are picked at once, got {at_once}')
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


def check_limit(limit: int, slots: int) -> None:
  """Raises `UserError` unless a limit is a number of tokens."""
  if not 1 <= limit <= slots:
    raise UserError(f'a limit lies in 1 to {slots} slots, got {limit}')


def without_nan(value: Array) -> Array:
  """The lowest value where there is none."""
  return jnp.where(jnp.isnan(value), -jnp.inf, value)
