"""How many tokens an image gets: length policies and nested dropout.

A policy turns the tokenizer's legal lengths into one length per image. A length
is an int32 array (traced), while the capacity N of the row of tokens is static,
so that any mixture of lengths runs in one compiled program.

Dimension letters: B batch, N token slots (the capacity).
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import errors

Array = jax.Array

Sampler = Literal['none', 'uniform', 'powers']


class Policy(Protocol):
  """Chooses the lengths of a batch."""

  def lengths(self, batch: int, boundaries: tuple[int, ...]) -> Array:
    """Gives int32 [B] legal lengths."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fixed:
  """The same static number of tokens for every image.

  Attributes:
    tokens: the budget; None for all.
  """

  tokens: int | None = None

  def lengths(self, batch: int, boundaries: tuple[int, ...]) -> Array:
    """Gives int32 [B]; see `legal_length` for what is refused."""
    tokens = boundaries[-1] if self.tokens is None else self.tokens
    return jnp.full((batch,), legal_length(tokens, boundaries), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Prefix:
  """A length of its own for each image; may be traced.

  Attributes:
    tokens: int32 [B]; rounded down to a legal length, and up to the smallest.
  """

  tokens: Array

  def lengths(self, batch: int, boundaries: tuple[int, ...]) -> Array:
    """Gives int32 [B]."""
    tokens = jnp.asarray(self.tokens, jnp.int32)
    if tokens.shape != (batch,):
      raise ValueError(
        f'Prefix needs one length per image, [{batch}], got {tokens.shape}; '
        'use Fixed(tokens=n) for one length for all'
      )
    return round_down(tokens, boundaries)


def legal_length(tokens: int, boundaries: tuple[int, ...]) -> int:
  """Rounds a static budget down to a legal length, and says so.

  Args:
    tokens: the budget.
    boundaries: the legal lengths, rising.

  Returns:
    The largest legal length that the budget allows; a warning says when it is
    not the budget itself.

  Raises:
    UserError: if the budget is below the smallest legal length or above the
      largest.
  """
  if not boundaries[0] <= tokens <= boundaries[-1]:
    some = f'{boundaries[0]} to {boundaries[-1]} tokens per image'
    if len(boundaries) == 1:
      some = f'all of its {boundaries[0]} tokens for every image'
    raise errors.UserError(
      f'a budget of {tokens} tokens does not fit: this tokenizer uses {some}'
    )
  legal = max(b for b in boundaries if b <= tokens)
  if legal != tokens:
    warnings.warn(
      f'{tokens} tokens is no legal length of this tokenizer; using {legal} '
      f'(legal: {", ".join(map(str, boundaries))})',
      stacklevel=2,
    )
  return legal


def round_down(tokens: Array, boundaries: tuple[int, ...]) -> Array:
  """Rounds traced budgets down to legal lengths, at least the smallest."""
  legal = jnp.asarray(boundaries, jnp.int32)
  index = jnp.searchsorted(legal, tokens, side='right') - 1
  return legal[jnp.maximum(index, 0)]


def prefix_mask(length: Array, capacity: int) -> Array:
  """Which of the first slots count.

  Args:
    length: int32 [B].
    capacity: N.

  Returns:
    bool [B, N], True for slots below the length.
  """
  return jnp.arange(capacity)[None] < length[:, None]


def sample_lengths(
  rng: Array,
  batch: int,
  boundaries: tuple[int, ...],
  *,
  sampler: Sampler = 'uniform',
  full: float = 0.0,
) -> Array:
  """Draws the training lengths of nested dropout.

  Every prefix of a row trained so decodes (Rippel et al., arXiv 1402.0915; tail
  token drop in One-D-Piece, powers of two in FlexTok).

  Args:
    rng: a typed key.
    batch: B.
    boundaries: the legal lengths, rising.
    sampler: 'uniform' over the legal lengths; 'powers': uniform over 1, 2, 4,
      ..., rounded down to a legal length, and the whole row; 'none': always the
      whole row.
    full: chance that an image keeps its whole row, whatever the sampler says.

  Returns:
    int32 [B].

  Raises:
    ValueError: if the sampler is unknown.
  """
  whole = jnp.full((batch,), boundaries[-1], jnp.int32)
  if sampler == 'none':
    return whole
  if sampler == 'uniform':
    legal = np.asarray(boundaries)
  elif sampler == 'powers':
    powers = [2**i for i in range(int(np.log2(boundaries[-1])) + 1)]
    below = [[b for b in boundaries if b <= p] for p in powers]
    legal = np.unique([b[-1] for b in below if b] + [boundaries[-1]])
  else:
    raise ValueError(
      f"unknown sampler {sampler!r}; try 'uniform', 'powers' or 'none'"
    )
  draw, keep = jax.random.split(rng)
  lengths = jax.random.choice(draw, jnp.asarray(legal, jnp.int32), (batch,))
  return jnp.where(jax.random.uniform(keep, (batch,)) < full, whole, lengths)
