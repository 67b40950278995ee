"""Similarities and distances between tokens: all pairs, or a row per pick.

Dimension letters: B batch, N, M token slots, D features, A heads, P axes of a
position, Q block of tokens.

A greedy selector that picks K of N tokens reads K rows of the N x N matrix. It
takes a `Rows`: a function from the slots picked, int32 [B], to each token's
similarity (or distance) to its row's pick, float32 [B, N]. Only algorithms that
need all pairs, or many rows, should form a whole Gram matrix.

Padding is not known here: what is said about padded slots is arbitrary but
finite if their features are, and selectors ignore it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.nn.norms import l2_normalize
from tokpress_jax.types import Array

Rows = Callable[[Array], Array]

# Up to so many numbers differences of all pairs take no time.
_FEW = 2**24
# Squared distances below this part of |x|^2 + |y|^2 are subtracted first.
_NEAR = 0.01
# From so many tokens on their products are made in stripes.
_MANY, _STRIPES = 1024, 4


def mean_heads(keys: Array) -> Array:
  """Mean of the heads' vectors (ToMe, VisionZip).

  Args:
    keys: [B, A, N, D].

  Returns:
    float32 [B, N, D].
  """
  return keys.astype(jnp.float32).mean(axis=1)


def join_heads(keys: Array) -> Array:
  """Puts the heads' vectors end to end (DART, PruMerge): [B, N, A D]."""
  batch, heads, slots, width = keys.shape
  return keys.transpose(0, 2, 1, 3).reshape(batch, slots, heads * width)


def cosine(x: Array, y: Array | None = None) -> Array:
  """Cosines of all pairs.

  Args:
    x: [B, N, D].
    y: [B, M, D]; x if not given.

  Returns:
    float32 [B, N, M]; 0 for vectors that are 0.
  """
  a = l2_normalize(x.astype(jnp.float32))
  if y is None:
    return own_products(a)
  return products(a, l2_normalize(y.astype(jnp.float32)))


def products(x: Array, y: Array) -> Array:
  """Inner products x [B, N, D] with y [B, M, D]: float32 [B, N, M]."""
  return jnp.einsum('bnd,bmd->bnm', x, y, precision='highest')


def own_products(x: Array) -> Array:
  """Inner products of all pairs, of many tokens half of them made once.

  Args:
    x: float32 [B, N, D].

  Returns:
    float32 [B, N, N].
  """
  slots = x.shape[1]
  if slots < _MANY:
    return products(x, x)
  edges = [slots * i // _STRIPES for i in range(_STRIPES + 1)]
  parts = [slice(*pair) for pair in itertools.pairwise(edges)]
  # Stripe i holds its tokens with all up to its own end.
  stripes = [products(x[:, at], x[:, : at.stop]) for at in parts]
  wide = []
  for i, at in enumerate(parts):
    after = [jnp.swapaxes(s[:, :, at], 1, 2) for s in stripes[i + 1 :]]
    wide.append(jnp.concatenate([stripes[i], *after], axis=2))
  return jnp.concatenate(wide, axis=1)


def scaled_distance(x: Array, y: Array | None = None) -> Array:
  """Euclidean distances of all pairs, over sqrt(D) (DPC-KNN clustering).

  |x|^2 + |y|^2 - 2 x y loses what near tokens differ by. So small inputs are
  subtracted before they are squared. Of large ones only rows that hold a near
  pair are (a token and itself aside), and the rest is one matrix product, right
  to about 1e-5 (`torch.cdist` takes the product alone beyond 25 tokens).

  Args:
    x: [B, N, D].
    y: [B, M, D]; x if not given.

  Returns:
    float32 [B, N, M].
  """
  x = x.astype(jnp.float32)
  other = x if y is None else y.astype(jnp.float32)
  batch, slots, width = x.shape

  def from_one(row):  # [B, D] to [B, M]
    return jnp.sqrt(jnp.mean(jnp.square(other - row[:, None]), axis=-1))

  if slots * other.shape[1] * width < _FEW:
    return jnp.moveaxis(jax.lax.map(from_one, jnp.moveaxis(x, 1, 0)), 0, 1)
  power = lambda z: jnp.sum(jnp.square(z), axis=-1)
  both = power(x)[:, :, None] + power(other)[:, None]
  product = own_products(x) if y is None else products(x, other)
  square = jnp.maximum(both - 2 * product, 0)
  near = square <= _NEAR * both
  if y is None:
    own = jnp.eye(slots, dtype=bool)[None]
    square, near = jnp.where(own, 0, square), near & ~own
  near = near.any(axis=2)
  first = jnp.argsort(~near, axis=1)  # [B, N], rows with a near pair first
  row = jnp.arange(batch)

  def subtract(i, distance):
    at = first[:, i]
    old = distance[row, at]
    new = jnp.where(near[row, at][:, None], from_one(x[row, at]), old)
    distance = distance.at[row, at].set(new)
    return distance if y is not None else distance.at[row, :, at].set(new)

  number = near.sum(axis=1).max()
  distance = jnp.sqrt(square / width)
  return jax.lax.fori_loop(0, number, subtract, distance)


def nearest_other(gram: Array, among: Array) -> Array:
  """Similarity of each token to the nearest other one.

  Args:
    gram: [B, N, N], `cosine(x)`.
    among: [B, N] bool, the tokens that count as others.

  Returns:
    float32 [B, N]; -inf where there is no other.
  """
  own = jnp.eye(gram.shape[1], dtype=bool)[None]
  return jnp.where(among[:, None] & ~own, gram, -jnp.inf).max(axis=2)


def gram_rows(gram: Array) -> Rows:
  """The rows of a matrix of all pairs [B, N, N]."""
  return lambda pick: jnp.take_along_axis(gram, pick[:, None, None], axis=1)[
    :, 0
  ].astype(jnp.float32)


def cosine_rows(x: Array, *, picks: int = 1) -> Rows:
  """Cosines of all tokens to a row's pick.

  Args:
    x: [B, N, D].
    picks: static, how many rows will be read. From one in eight of the tokens
      on (one in sixteen, where half of all pairs are enough: `own_products`)
      all pairs are made at once: that reads the features once, not once per
      pick, and takes less time (2,880 tokens of width 4096, 2 CPU cores).

  Returns:
    The rows.
  """
  part = 8 if x.shape[1] < _MANY else 16
  if part * picks > x.shape[1]:
    return gram_rows(cosine(x))
  unit = l2_normalize(x.astype(jnp.float32))
  return lambda pick: jnp.einsum(
    'bnd,bd->bn', unit, take_slot(unit, pick), precision='highest'
  )


def complement(rows: Rows) -> Rows:
  """1 - similarity, a distance."""
  return lambda pick: 1 - rows(pick)


def distance_rows(points: Array, *, scale: Array | float = 1.0) -> Rows:
  """Euclidean distances of all points to a row's pick.

  Args:
    points: [B, N, P], places in a grid or in space, or features.
    scale: a number or [B] that distances are divided by; sqrt(D) gives
      `scaled_distance`.

  Returns:
    The rows.
  """
  points = points.astype(jnp.float32)
  scale = jnp.reshape(jnp.asarray(scale, jnp.float32), (-1, 1))

  def rows(pick):
    square = jnp.square(points - take_slot(points, pick)[:, None])
    return jnp.sqrt(jnp.sum(square, axis=-1)) / scale

  return rows


def reach(points: Array, pick: Array, *, among: Array) -> Array:
  """Largest distance of some points from one of them.

  SeGPruner scales its geometric distances by this, taken at its first pick.

  Args:
    points: [B, N, P].
    pick: int32 [B].
    among: [B, N] bool, the points that count.

  Returns:
    float32 [B], 1 if all points coincide.
  """
  distance = jnp.where(among, distance_rows(points)(pick), 0).max(axis=1)
  return jnp.where(distance > 0, distance, 1)


def mixture(parts: Sequence[tuple[float, Rows]]) -> Rows:
  """Weighted sum of rows.

  SeGPruner's fused distance is `mixture([(w, distance_rows(xyz, scale=r)),
  (1 - w, complement(cosine_rows(x)))])`.

  Args:
    parts: (weight, rows).

  Returns:
    The rows.

  Raises:
    UserError: if there are no parts.
  """
  if not parts:
    raise UserError('a mixture needs at least one (weight, rows) pair')

  def rows(pick):
    return sum(
      (weight * part(pick) for weight, part in parts[1:]),
      start=parts[0][0] * parts[0][1](pick),
    )

  return rows


def with_text(rows: Rows, text: Array, *, weight: float) -> Rows:
  """Adds what each token is worth to a text to its similarity to a pick.

  Recoverable Compression adds 50 times a CLIP text similarity to the cosine of
  keys.

  Args:
    rows: of N tokens.
    text: [B, N] score of each token, see `scores.text_similarity`.
    weight: its factor.

  Returns:
    The rows.
  """
  term = weight * text.astype(jnp.float32)
  return lambda pick: rows(pick) + term


def take_slot(x: Array, pick: Array) -> Array:
  """Takes one slot of each row: x [B, N, ...] at [B] to [B, ...]."""
  return jax.vmap(lambda row, at: jnp.take(row, at, axis=0))(x, pick)
