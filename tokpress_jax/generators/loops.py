"""The two loops of all generators; each is part of one jitted program.

Dimension letters: B batch, N tokens, S steps.

`BlockLoop` walks through blocks of static sizes with an exact cache (VAR, xAR,
NAR, HAR, next-token). `RefineLoop` reveals a static number of tokens at each
step, which ones depends on the sample (MaskGIT, MAR; Hi-MAR is two in a row).
Neither knows a network, a head or a tokenizer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.generators import commit as commits

Array = jax.Array


@struct.dataclass
class Block:
  """Where a BlockLoop stands.

  Attributes:
    index: of the block; an int if unrolled, else traced.
    start: its first slot; as index.
    size: its number of slots, static.
  """

  index: int | Array
  start: int | Array
  size: int = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockLoop:
  """Predicts block after block.

  Unrolled, each block has its own static shapes and reads exactly the filled
  part of the cache. Equal blocks may run as one `lax.scan` instead, with traced
  index and start: it compiles once for all of them.

  Attributes:
    sizes: slots of each block.
    commit: what a block leaves in the cache, a function of `commit.py`.
    unroll: False for one `lax.scan`; then all sizes must be equal.
  """

  sizes: tuple[int, ...]
  commit: commits.Commit = commits.append
  unroll: bool = True

  def __post_init__(self):
    if not self.unroll and len(set(self.sizes)) > 1:
      raise ValueError(
        f'only equal blocks can be scanned, got sizes {self.sizes}; set '
        'unroll=True'
      )

  def __call__(
    self,
    step: Callable[[Any, Any, Block], tuple[Any, Any, Any]],
    state: Any,
    cache: Any,
    *,
    clean: Callable[[Any, Any, Block], Any] | None = None,
  ) -> tuple[Any, Any, Any]:
    """Runs the loop.

    Args:
      step: (state, cache, block) -> (state, cache after, output). Makes the
        block's inputs, runs the network, draws the tokens.
      state: pytree carried from block to block; its shapes may change only
        where blocks are unrolled.
      cache: pytree of the keys and values so far.
      clean: (state after, cache before, block) -> cache, for `commit.rerun`.

    Returns:
      The last state, the last cache, and the outputs: a tuple, one a block, or
      a pytree of arrays with a leading axis if scanned.

    Raises:
      ValueError: if the commit needs `clean` and none was given.
    """
    if self.commit is commits.rerun and clean is None:
      raise ValueError(
        'commit.rerun needs clean=(state, cache, block) -> cache'
      )

    def one(state: Any, cache: Any, block: Block) -> tuple[Any, Any, Any]:
      state, after, output = step(state, cache, block)

      def again(before: Any) -> Any:
        assert clean is not None  # Only `rerun` calls this.
        return clean(state, before, block)

      return state, self.commit(cache, after, again), output

    if not self.unroll:
      size = self.sizes[0]

      def body(carry: Any, index: Array) -> tuple[Any, Any]:
        block = Block(index=index, start=index * size, size=size)
        *carry, output = one(carry[0], carry[1], block)
        return tuple(carry), output

      (state, cache), outputs = jax.lax.scan(
        body, (state, cache), jnp.arange(len(self.sizes), dtype=jnp.int32)
      )
      return state, cache, outputs
    outputs = []
    starts = itertools.accumulate(self.sizes, initial=0)
    for index, (start, size) in enumerate(
      zip(starts, self.sizes, strict=False)
    ):
      block = Block(index=index, start=start, size=size)
      state, cache, output = one(state, cache, block)
      outputs.append(output)
    return state, cache, tuple(outputs)


@struct.dataclass
class Step:
  """Where a RefineLoop stands.

  Attributes:
    index: of the step, traced.
    ratio: share of steps done when this one is, (index + 1) / S.
  """

  index: Array
  ratio: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineLoop:
  """Reveals a static number of tokens a step, which ones is traced.

  One `lax.scan`: the network compiles once whatever the number of steps.

  Attributes:
    counts: tokens revealed at each step (`order.reveal_counts`). The last step
      reveals all that is left, so that samples may start with different
      numbers of known tokens.
  """

  counts: tuple[int, ...]

  def __call__(
    self,
    predict: Callable[[Any, Array, Step], tuple[Any, Array]],
    values: Any,
    *,
    known: Array,
  ) -> tuple[Any, Array]:
    """Runs the loop.

    Args:
      predict: (values, known, step) -> (proposal, score): a proposal like
        `values`, and [B, N] scores; of the unknown tokens those with the
        highest scores are revealed (MaskGIT: confidence; MAR: minus a random
        rank). Ties go to the earlier position.
      values: pytree of [B, N, ...]; entries of unknown tokens do not matter.
      known: bool [B, N], tokens given from the start.

    Returns:
      The values, all known, and rank [B, N]: the step that revealed each token,
      -1 where it was given.
    """
    steps = len(self.counts)
    index = np.arange(steps, dtype=np.int32)
    counts = np.asarray(self.counts, np.int32)
    last = index == steps - 1
    ratio = ((index + 1) / steps).astype(np.float32)

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
      values, rank = carry
      index, ratio, count, last = xs
      known = rank < index
      proposal, score = predict(values, known, Step(index=index, ratio=ratio))
      # Known tokens sort behind all others, whatever their score.
      order = jnp.lexsort((-score, known), axis=-1)
      place = jnp.argsort(order, axis=-1)
      reveal = ~known & ((place < count) | last)
      values = jax.tree.map(
        lambda new, old: jnp.where(_like(reveal, new), new, old),
        proposal,
        values,
      )
      return (values, jnp.where(reveal, index, rank)), None

    rank = jnp.where(known, -1, steps).astype(jnp.int32)
    (values, rank), _ = jax.lax.scan(
      body, (values, rank), (index, ratio, counts, last)
    )
    return values, rank


def _like(mask: Array, x: Array) -> Array:
  """Appends axes to a mask [B, N] until it broadcasts to x [B, N, ...]."""
  return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
