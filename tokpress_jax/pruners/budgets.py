"""Budgets: how many tokens are kept, as static capacities and counts per row.

Dimension letters: B batch, N token slots.

A budget counts the tokens that may be dropped; protected ones (a class token,
text) are kept on top of it. It is resolved twice by the same Python arithmetic:
once on the static number of slots, which gives the capacity K of the result,
and once on the valid tokens of each row, by a table over all possible numbers.
So a padded row keeps exactly what it would keep alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction

import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks
from tokpress_jax.types import Array, Ratio, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes:
  """A budget in bytes, of features or of a key-value cache.

  Attributes:
    limit: bytes of one row.
    per_token: bytes of one token; `cache_bytes` gives a cache's.
  """

  limit: int
  per_token: int

  def __post_init__(self):
    if not 0 < self.per_token <= self.limit:
      raise UserError(
        f'{self.limit} bytes hold no token of {self.per_token} bytes; raise '
        'the limit, or store the tokens in a smaller dtype'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remove:
  """A budget as a number of tokens to take away (ToMe's r).

  Rows with fewer tokens lose what they can, and keep at least one.

  Attributes:
    tokens: r.
  """

  tokens: int

  def __post_init__(self):
    if self.tokens < 1:
      raise UserError(
        f'a pruner removes at least 1 token, got {self.tokens}; leave the '
        'site out of the plan to keep all'
      )


Budget = int | Ratio | Bytes | Remove


def cache_bytes(
  *, layers: int, heads: int, head_dim: int, dtype: str = 'bfloat16'
) -> int:
  """Bytes that one token takes in a key-value cache of this dtype."""
  return 2 * layers * heads * head_dim * jnp.dtype(dtype).itemsize


def check(budget: Budget) -> None:
  """Checks that a budget is one of the kinds.

  Args:
    budget: tokens, or one of the budget types.

  Raises:
    UserError: if it is anything else; a fraction is told to be a `Ratio`, and
      an array to be a number, as a budget is static.
  """
  known = int | Ratio | Bytes | Remove
  if isinstance(budget, bool) or not isinstance(budget, known):
    hint = ''
    if isinstance(budget, float) and 0 < budget <= 1:
      hint = f'; to keep a fraction, give Ratio(ratio={budget!r})'
    elif hasattr(budget, 'dtype'):
      hint = '; a budget is static, so give int(...) of a number outside of jit'
    raise UserError(
      f'a budget is an int, Ratio, Bytes or Remove, got {budget!r}{hint}'
    )


def resolve(budget: Budget, num_tokens: int, num_source: int) -> int:
  """Tokens that a budget keeps of a given number.

  Args:
    budget: tokens, or one of the budget types.
    num_tokens: tokens at the site that may be dropped.
    num_source: the same at the embedding.

  Returns:
    A number in [0, num_tokens]; never 0 unless there are no tokens.

  Raises:
    UserError: if the budget is none of these.
  """
  check(budget)
  if isinstance(budget, Ratio):
    of = num_source if budget.of == 'original' else num_tokens
    # The decimal that was written, so that 0.07 of 100 is 7 in each rounding.
    exact = Fraction(str(budget.ratio)) * of
    rounding: dict[str, Callable[[Fraction], int]] = {
      'floor': math.floor,
      'ceil': math.ceil,
      'round': round,
    }
    kept = max(rounding[budget.rounding](exact), budget.minimum, 1)
  elif isinstance(budget, Bytes):
    kept = budget.limit // budget.per_token
  elif isinstance(budget, Remove):
    kept = max(num_tokens - budget.tokens, 1)
  else:
    kept = budget
  return min(kept, num_tokens)


def problems(budget: Budget, tokens: Tokens) -> list[str]:
  """Says why a budget does not fit the tokens, if so.

  Args:
    budget: what to keep.
    tokens: N slots.
  """
  slots = tokens.valid.shape[1] - tokens.num_protected
  if not isinstance(budget, int) or 1 <= budget <= slots:
    return []
  beside = f' beside {tokens.num_protected} protected ones'
  return [
    f'a budget of {budget} tokens is outside 1 to {slots}, the tokens at this '
    f'site{beside if tokens.num_protected else ""}; give a number in that '
    'range, or a Ratio'
  ]


def capacity(budget: Budget, tokens: Tokens) -> int:
  """Static number of slots K of the result, protected ones included.

  Args:
    budget: what to keep.
    tokens: N slots.

  Returns:
    K.

  Raises:
    UserError: if a budget of tokens is below 1 or above what there is.
  """
  slots = tokens.valid.shape[1] - tokens.num_protected
  checks.refuse('this pruner', problems(budget, tokens))
  source = tokens.source_slots - tokens.num_protected
  return tokens.num_protected + resolve(budget, slots, source)


def row_counts(budget: Budget, tokens: Tokens) -> Array:
  """Unprotected tokens that each row keeps.

  Args:
    budget: what to keep.
    tokens: N slots.

  Returns:
    int32 [B].
  """
  free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
  slots = tokens.valid.shape[1]
  if isinstance(budget, Ratio) and budget.of == 'original':
    counts = tabulate(
      lambda n: resolve(budget, tokens.source_slots, n),
      tokens.source_count - jnp.sum(tokens.protected, axis=1),
      most=tokens.source_slots,
    )
  else:
    counts = tabulate(lambda n: resolve(budget, n, n), free, most=slots)
  return jnp.minimum(counts, free.astype(jnp.int32))


def tabulate(rule: Callable[[int], int], number: Array, *, most: int) -> Array:
  """A whole number for each row, by Python's own arithmetic.

  Args:
    rule: from a number of tokens to another.
    number: int [B].
    most: static, the largest that it may be.

  Returns:
    int32 [B].
  """
  table = [rule(n) for n in range(most + 1)]
  return jnp.asarray(np.array(table, np.int32))[number]


def linear_schedule(
  r: int, depth: int, *, inflect: float = 0.0
) -> tuple[int, ...]:
  """Tokens to remove in each layer, on a line (ToMe, `parse_r`).

  Args:
    r: mean number removed per layer.
    depth: number of layers.
    inflect: 0 is constant; -1 falls from 2r to 0; 1 rises from 0 to 2r.

  Returns:
    `depth` numbers, truncated as in the official code.

  Raises:
    UserError: if inflect is outside -1 to 1.
  """
  if not -1 <= inflect <= 1:
    raise UserError(
      f'inflect in [-1, 1]: -1 falls from 2r to 0, 1 rises; got {inflect}'
    )
  low = int(r * (1.0 - inflect))
  step = (2 * r - 2 * low) / max(depth - 1, 1)
  return tuple(int(low + step * i) for i in range(depth))
