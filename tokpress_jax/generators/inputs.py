"""What a block reads before it is predicted.

Dimension letters: B batch, N tokens, n tokens of one block, D features, R
blocks, M parents of a token, V codebook entries.

| inputs | function | used by |
|---|---|---|
| shifted tokens | `shifted` | raster, RAR |
| the tokenizer's up-sampled sum | `started` on its `next_inputs` | VAR, MVAR |
| mask-token queries | `masked` | MaskGIT, MAR, Hi-MAR |
| noised values at time t | `noised` | xAR |
| outputs of weighted parents | `parents`, `from_parents` | NAR |
| learned level queries | `with_queries` | ResTok's generator |
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def started(start: Array, x: Array) -> Array:
  """Puts the inputs of the first block before those of the others.

  With a scale-wise tokenizer x is its up-sampled sum of all scales so far,
  brought to the size of the next (VAR, Tian et al. 2404.02905, algorithm 2).

  Args:
    start: [B, n, D] of the first block (class embedding plus positions).
    x: [B, N - n, D] of the later blocks.

  Returns:
    [B, N, D].
  """
  return jnp.concatenate([start.astype(x.dtype), x], axis=1)


def shifted(start: Array, x: Array) -> Array:
  """The token before each one: x moved right by the length of the start.

  Args:
    start: [B, n, D].
    x: [B, N, D] embeddings of the tokens in the order of prediction.

  Returns:
    [B, N, D]; the last n tokens are read by nobody.
  """
  return started(start, x[:, : x.shape[1] - start.shape[1]])


def masked(x: Array, known: Array, mask_token: Array) -> Array:
  """Replaces unknown tokens by the mask token.

  Args:
    x: [B, N, D] embeddings.
    known: bool [B, N].
    mask_token: [D], or [N, D] where each position has its own (Hi-MAR).

  Returns:
    [B, N, D].
  """
  token = jnp.broadcast_to(mask_token, x.shape[1:])[None]
  return jnp.where(known[..., None], x, token.astype(x.dtype))


def noised(x: Array, noise: Array, time: Array, rank: Array) -> Array:
  """Noises each block at its own time (xAR, Ren et al. 2502.20388, section 3).

  Args:
    x: [B, N, D] clean values.
    noise: [B, N, D] standard normal.
    time: [B, R] in [0, 1] of each block; 0 is clean, 1 is noise.
    rank: int [N] or [B, N].

  Returns:
    (1 - t) x + t noise, [B, N, D]. The velocity is noise - x.
  """
  rank = jnp.broadcast_to(rank, x.shape[:2])
  t = jnp.take_along_axis(time, rank, axis=1)[..., None].astype(x.dtype)
  return (1 - t) * x + t * noise


def parents(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Who predicts each token when it has a left and an upper neighbour (NAR).

  Slot 0 is the start token, slot 1 + i the grid's raster position i. The left
  neighbour speaks through its first output ("right"), the upper one through
  its second ("below"); inside the grid they are averaged; the start token
  predicts the corner through both (He et al. 2503.10696, section 3.2).

  Args:
    grid: rows and columns.

  Returns:
    slot: int32 [N, 2], the left and the upper parent.
    weight: float32 [N, 2], sum 1.
  """
  rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
  left, above = columns > 0, rows > 0
  place = 1 + rows * grid[1] + columns
  slot = np.stack(
    [np.where(left, place - 1, 0), np.where(above, place - grid[1], 0)], axis=1
  )
  weight = np.stack([left, above], axis=1).astype(np.float32)
  weight[0] = 1
  return slot.astype(np.int32), weight / weight.sum(axis=1, keepdims=True)


def from_parents(outputs: Array, slot: np.ndarray, weight: np.ndarray) -> Array:
  """Mixes the outputs of each token's parents.

  Args:
    outputs: [B, 1 + N, M, V], M outputs of each slot.
    slot: int [N, M].
    weight: float [N, M].

  Returns:
    [B, N, V] in float32.
  """
  picked = jnp.stack(
    [outputs[:, slot[:, m], m] for m in range(slot.shape[1])], axis=2
  )  # [B, N, M, V]
  return jnp.einsum('bnmv,nm->bnv', picked.astype(jnp.float32), weight)


def with_queries(x: Array, queries: Array) -> Array:
  """The last level's tokens, then learned queries for the rest of this level.

  ResTok's generator (2601.03955, section 3.3): a level of 2n tokens is read
  from the n tokens of the level before and n queries. Tokens stand before
  queries, as in the released code.

  Args:
    x: [B, n, D] embeddings of the tokens of the level before.
    queries: [m, D] learned.

  Returns:
    [B, n + m, D].
  """
  shape = (x.shape[0], *queries.shape)
  queries = jnp.broadcast_to(queries[None], shape).astype(x.dtype)
  return jnp.concatenate([x, queries], axis=1)
