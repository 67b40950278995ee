"""Tokens of different lengths in few static shapes: buckets and packed rows.

An encoded batch is padded to the capacity of its tokenizer. Two ways to spend
less on the padding, both without a compilation for each length:

* `bucket` picks the smallest of a few capacities that holds a batch, and
  `shorten` cuts the batch down to it;
* `pack` puts several images into one row (first fit, longest first), with the
  number of its image beside each token, so that attention stays within images
  (`within_images`), and `unpack` takes the rows apart.

Which image goes where is decided on the host; everything else is arrays.

Dimension letters: B images, N token slots of an image, R rows, T token slots of
a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import types
from tokpress_jax.errors import UserError

Array = jax.Array


def bucket(length: Any, capacities: Sequence[int]) -> int:
  """The smallest capacity that holds every image of a batch.

  Args:
    length: int [B], concrete.
    capacities: in any order; each costs one compilation of what is run on it.

  Returns:
    One of the capacities.

  Raises:
    UserError: if none is large enough.
  """
  longest = int(np.max(_concrete(length)))
  fitting = [n for n in capacities if n >= longest]
  if not fitting:
    raise UserError(
      f'an image of {longest} tokens fits none of the capacities '
      f'{tuple(sorted(capacities))}; add one of at least {longest}'
    )
  return min(fitting)


def _concrete(length: Any) -> np.ndarray:
  if isinstance(length, jax.core.Tracer):
    raise UserError(
      'which image goes where is decided by the lengths, before anything is '
      'compiled: call bucket and pack outside jit'
    )
  return np.asarray(length)


def shorten(encoded: types.Encoded, capacity: int) -> types.Encoded:
  """Cuts an encoded batch [B, N, ...] down to its first slots.

  Args:
    encoded: no image of it may be longer than the capacity.
    capacity: slots that stay; N or more changes nothing.

  Returns:
    The same tokens, [B, capacity, ...].

  Raises:
    UserError: if an image is longer; traced lengths pass unseen.
  """
  if not isinstance(encoded.length, jax.core.Tracer):
    bucket(encoded.length, (capacity,))
  cut: Any = lambda x: None if x is None else x[:, :capacity]
  return dataclasses.replace(
    encoded,
    codes=cut(encoded.codes),
    embeddings=cut(encoded.embeddings),
    valid=cut(encoded.valid),
    positions=cut(encoded.positions),
  )


@struct.dataclass
class Packed:
  """Several images in each row.

  Attributes:
    tokens: [R, T, ...], 0 where padded: codes or embeddings.
    image: int32 [R, T], which image a token is of; -1 where padded.
    slot: int32 [R, T], its place in the image; 0 where padded.
    length: int32 [B], tokens of each image.
  """

  tokens: Array
  image: Array
  slot: Array
  length: Array


def pack(tokens: Array, length: Any, *, capacity: int) -> Packed:
  """Puts the valid tokens of images into as few rows as first fit finds.

  Args:
    tokens: [B, N, ...], codes or embeddings.
    length: int [B], concrete: how many of each image count, at most N.
    capacity: T.

  Returns:
    R rows.

  Raises:
    UserError: if an image is longer than a row.
  """
  length = _concrete(length)
  if length.max(initial=0) > capacity:
    raise UserError(
      f'an image of {length.max()} tokens does not fit a row of {capacity}'
    )
  rows: list[list[int]] = []
  free: list[int] = []
  for image in np.argsort(-length, kind='stable').tolist():
    need = int(length[image])
    row = next((r for r, left in enumerate(free) if left >= need), None)
    if row is None:
      row = len(rows)
      rows.append([])
      free.append(capacity)
    rows[row].append(image)
    free[row] -= need
  of = np.full((len(rows), capacity), -1, np.int32)
  slot = np.zeros((len(rows), capacity), np.int32)
  for row, images in enumerate(rows):
    start = 0
    for image in images:
      end = start + int(length[image])
      of[row, start:end] = image
      slot[row, start:end] = np.arange(end - start)
      start = end
  picked = jnp.asarray(tokens)[np.maximum(of, 0), slot]
  filled = (of >= 0).reshape(*of.shape, *(1,) * (picked.ndim - 2))
  return Packed(
    tokens=jnp.where(filled, picked, 0),
    image=jnp.asarray(of),
    slot=jnp.asarray(slot),
    length=jnp.asarray(length, jnp.int32),
  )


def unpack(packed: Packed, x: Array, *, capacity: int) -> Array:
  """Takes rows apart.

  Args:
    packed: says what lies where.
    x: [R, T, ...], anything that lies as the tokens do: logits, features.
    capacity: N, slots of an image.

  Returns:
    [B, N, ...], 0 beyond each image's length.
  """
  # Padding goes to a slot that is cut off.
  image = jnp.where(packed.image < 0, len(packed.length), packed.image)
  shape = (len(packed.length) + 1, capacity, *x.shape[2:])
  return jnp.zeros(shape, x.dtype).at[image, packed.slot].set(x)[:-1]


def within_images(packed: Packed) -> Array:
  """Attention mask, bool [R, 1, T, T]: tokens see those of their own image."""
  same = packed.image[:, :, None] == packed.image[:, None, :]
  return (same & (packed.image >= 0)[:, None, :])[:, None]
