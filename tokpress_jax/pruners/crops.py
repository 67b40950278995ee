"""Crops of one image in one row: what any-resolution models put together.

Dimension letters: B batch, G crops of an image, N token slots of a crop.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import reduction
from tokpress_jax.types import Array, Signals, Tokens


def join_crops(
  tokens: Tokens,
  signals: Signals | None = None,
  *,
  crops: int,
  valid: Array | None = None,
) -> tuple[Tokens, Signals]:
  """Puts the crops of each image into one row, crop after crop.

  Args:
    tokens: [B G, N], the crops of an image one after the other (the thumbnail
      first, where there is one), as a tower gives them.
    signals: over the same rows.
    crops: G.
    valid: bool [B, G], crops that an image has, or [B, G, N], patches that show
      some of it (`io.any_resolution.cut_crops`); all if not given.

  Returns:
    Tokens [B, G N] whose `owner` is the number of the crop, and signals over
    the same slots; texts and keys are those of an image's first crop, pixels
    are left out.

  Raises:
    UserError: if the rows are no whole number of images.
  """
  rows, slots = tokens.valid.shape
  if not isinstance(crops, int) or crops < 1 or rows % crops:
    raise UserError(
      f'{rows} rows are no whole number of images of {crops!r} crops; give '
      'every image the same number of crops, and `valid` for those there'
    )
  batch = rows // crops
  shapes = (batch, crops), (batch, crops, slots)
  if valid is not None and valid.shape not in shapes:
    raise UserError(
      f'valid must be [{batch}, {crops}], a crop of each image, or with the '
      f'{slots} tokens of each, got {valid.shape}'
    )

  def join(x: Array, axis: int) -> Array:
    """[B G, ..., N, ...] to [B, ..., G N, ...], N at `axis`."""
    x = jnp.moveaxis(x.reshape(batch, crops, *x.shape[1:]), 1, axis)
    shape = (*x.shape[:axis], crops * slots, *x.shape[axis + 2 :])
    return x.reshape(shape)

  there = join(tokens.valid, 1)
  if valid is not None:
    each = valid if valid.ndim == 3 else valid[..., None]
    there &= jnp.broadcast_to(each, shapes[1]).reshape(batch, -1)
  number = jnp.repeat(jnp.arange(crops, dtype=jnp.int32), slots)[None]
  fields = ('features', 'positions', 'mass', 'kind', 'protected')
  moved: dict[str, Any] = {n: join(getattr(tokens, n), 1) for n in fields}
  moved['mass'] = jnp.where(there, moved['mass'], 0)
  moved['protected'] &= there
  count = tokens.source_count.reshape(batch, crops)
  if valid is not None:
    # Of a crop that is shown in part, the tokens that are.
    shown = there.reshape(shapes[1])
    hidden = (tokens.valid.reshape(shapes[1]) & ~shown).sum(axis=2)
    count = jnp.where(shown.any(axis=2), count - hidden, 0)
  joined = dataclasses.replace(
    tokens,
    **moved,
    valid=there,
    owner=jnp.where(there, number, -1),
    source_count=count.sum(axis=1, dtype=jnp.int32),
    source_slots=crops * tokens.source_slots,
    num_protected=crops * tokens.num_protected,
    grids=tokens.grids * crops if len(tokens.grids) == 1 else (),
  )
  signals = Signals() if signals is None else signals
  first = lambda x: None if x is None else x[::crops]
  return joined, dataclasses.replace(
    reduction.map_signals(signals, join),
    text=first(signals.text),
    text_valid=first(signals.text_valid),
    rng=first(signals.rng),
    pixels=None,
  )
