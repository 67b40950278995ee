"""What a pruner is checked on: random tokens, and how they are arranged.

Dimension letters: B batch, N token slots, S slots of one crop or frame, H rows
and W columns of a grid.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.nn.positions import grid_positions
from tokpress_jax.pruners import random_inputs
from tokpress_jax.pruners.crop_layouts import place_crops
from tokpress_jax.pruners.crops import join_crops
from tokpress_jax.types import Array, Signals, Tap, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """Eight rows of random tokens in no grid; slot 0 is protected.

  A method that wants more of its tokens (crops, frames, places) is checked on
  another one: here are `Crops`, `Frames`, `Grid` and `Space`; for one of your
  own write `arrange`.

  Attributes:
    lengths: valid tokens of each of the eight rows; padding stands behind them.
    others: lengths that must run in the same program.
    slots: N, at most 24.
    unit: slots come in whole numbers of these; N if a row cannot be shorter.
    moves: whether padding may as well stand in front of a row's tokens.
  """

  lengths: tuple[int, ...] = random_inputs.LENGTHS
  others: tuple[tuple[int, ...], ...] = ((24, 24, 1, 2, 3, 4, 5, 6), (9,) * 8)
  slots: int = random_inputs.SLOTS
  unit: int = 1
  moves: bool = True

  def arrange(self, tokens: Tokens) -> Tokens:
    """Says what these tokens are: positions, owners, grids.

    Args:
      tokens: [B, N], any number of rows and slots, numbered as positions; they
        may be traced. What it gives a row must not depend on other rows, nor on
        how many slots of padding it has.

    Returns:
      The same features, in the same slots.
    """
    return tokens

  def published(self, slots: int) -> Inputs:
    """How 576 or 2,880 tokens are arranged; as these, if nothing else fits."""
    del slots
    return self

  def make(
    self,
    needs: Collection[str | Tap] = (),
    *,
    lengths: Sequence[int] | None = None,
    slots: int | None = None,
    rows: Sequence[int] | None = None,
    seed: int = 0,
  ) -> tuple[Tokens, Signals]:
    """Random tokens, arranged, and signals; see `make_inputs`."""
    tokens, signals = random_inputs.make_inputs(
      needs,
      lengths=self.lengths if lengths is None else lengths,
      slots=self.slots if slots is None else slots,
      rows=rows,
      seed=seed,
    )
    return self.arrange(tokens), signals

  def alone(
    self, needs: Collection[str | Tap], *, row: int
  ) -> tuple[Tokens, Signals]:
    """One row by itself, with as little padding as there can be."""
    return self.make(
      needs,
      lengths=(self.lengths[row],),
      slots=self.slots_alone(row),
      rows=[row],
    )

  def slots_alone(self, row: int) -> int:
    """Slots of a row by itself, see `alone`."""
    return -(-self.lengths[row] // self.unit) * self.unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crops(Inputs):
  """A thumbnail and up to three crops, as `join_crops` and `place_crops` do.

  Crops lie beside or below each other; the last one may end in padding. One
  row is a thumbnail alone.

  Attributes:
    grid: (H, W) of a crop.
  """

  grid: tuple[int, int] = (2, 3)
  lengths: tuple[int, ...] = (24, 12, 16, 24, 6, 18, 22, 12)
  others: tuple[tuple[int, ...], ...] = ((6, 12, 18, 24, 6, 20, 9, 24),)
  unit: int = 6
  moves: bool = False

  def arrange(self, tokens: Tokens) -> Tokens:
    """Crop after crop."""
    size = math.prod(self.grid)
    batch, slots = tokens.valid.shape
    number = slots // size
    crops = Tokens.create(
      tokens.features.reshape(batch * number, size, -1),
      positions=_each(grid_positions(*self.grid), batch * number),
      valid=tokens.valid.reshape(batch * number, size),
      grids=((1, *self.grid),),
    )
    there = crops.valid.any(axis=1).reshape(batch, number)
    joined, _ = join_crops(crops, crops=number, valid=there)
    count = jnp.maximum(there.sum(axis=1) - 1, 1)
    beside = count % 2 == 0
    layout = jnp.where(beside[:, None], 1, count[:, None])
    layout = jnp.concatenate([layout, count[:, None] // layout], axis=1)
    placed = place_crops(joined, layout=layout)
    return dataclasses.replace(
      placed, protected=tokens.protected, num_protected=tokens.num_protected
    )

  def published(self, slots: int) -> Inputs:
    """A thumbnail and four crops of 576 tokens, or three of 144."""
    grid = (24, 24) if slots > 576 else (12, 12)
    return dataclasses.replace(self, grid=grid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames(Inputs):
  """Up to six frames of a video; positions are time, row and column.

  Attributes:
    grid: (H, W) of a frame.
  """

  grid: tuple[int, int] = (2, 2)
  lengths: tuple[int, ...] = (24, 12, 16, 24, 8, 20, 24, 12)
  others: tuple[tuple[int, ...], ...] = (
    (8, 12, 16, 20, 24, 8, 8, 24),
    (4,) * 8,
  )
  unit: int = 4

  def arrange(self, tokens: Tokens) -> Tokens:
    """Frame after frame, one grid of three axes."""
    batch, slots = tokens.valid.shape
    number = slots // math.prod(self.grid)
    places = np.indices((number, *self.grid)).reshape(3, -1).T
    return dataclasses.replace(
      tokens,
      positions=_each(places, batch),
      grids=((number, *self.grid),),
    )

  def published(self, slots: int) -> Inputs:
    """Frames of 144 tokens."""
    return dataclasses.replace(self, grid=(12, 12))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Inputs):
  """A class token and one grid; padding is at its end.

  Attributes:
    grid: (H, W), of at most 23 places; slots and lengths follow from it, where
      they are not given.
  """

  grid: tuple[int, int] = (4, 5)
  lengths: tuple[int, ...] = ()
  others: tuple[tuple[int, ...], ...] = ()
  slots: int = 0
  unit: int = 0
  moves: bool = False

  def __post_init__(self) -> None:
    """Fills in what follows from the grid.

    Raises:
      UserError: if the grid has too many places.
    """
    slots = math.prod(self.grid) + 1
    if not self.slots and slots > random_inputs.SLOTS:
      raise UserError(
        f'checks run on at most {random_inputs.SLOTS - 1} places, and a grid '
        f'of {self.grid} has {slots - 1}; `published` gives the large ones'
      )
    some = tuple(round(slots * share) for share in (1, 0.6, 0.85))
    follows = {
      'slots': slots,
      'unit': slots,
      'lengths': (*some, *some, *some[:2]),
      'others': ((slots, slots, 1, 2, 3, 4, 5, 6),),
    }
    for name, value in follows.items():
      if not getattr(self, name):
        object.__setattr__(self, name, value)

  def arrange(self, tokens: Tokens) -> Tokens:
    """Rows and columns; the class token is at (-1, -1)."""
    nowhere = np.full((tokens.num_protected, 2), -1)
    places = np.concatenate([nowhere, grid_positions(*self.grid)])
    return dataclasses.replace(
      tokens,
      positions=_each(places, tokens.valid.shape[0]),
      grids=((1, *self.grid),),
    )

  def published(self, slots: int) -> Inputs:
    """24 x 24, or 48 x 60."""
    grid = (24, 24) if slots == 576 else (48, 60)
    return dataclasses.replace(self, grid=grid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space(Inputs):
  """Tokens with places in space, which are their first three features."""

  def arrange(self, tokens: Tokens) -> Tokens:
    """Three axes."""
    places = tokens.features[..., :3].astype(jnp.float32)
    return dataclasses.replace(tokens, positions=places)


def _each(places: np.ndarray, batch: int) -> Array:
  """The same [N, P] for each row."""
  return jnp.broadcast_to(jnp.asarray(places)[None], (batch, *places.shape))
