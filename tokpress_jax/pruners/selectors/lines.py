"""The best of many slots, where one value changes at a time.

Values lie in G lines of L slots, and the highest of each line stays at hand. To
find the best of all, or to change one, takes the work of a line, not of all
slots: what a loop of many small steps on a CPU needs.

Dimension letters: B batch, N token slots, G lines, L slots of a line.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from tokpress_jax.pruners import similarities
from tokpress_jax.types import Array


class Lines(NamedTuple):
  """Values of N slots.

  Attributes:
    values: float32 [B, G, L]; -inf where there is nothing to find.
    high: float32 [B, G], the highest of each line.
  """

  values: Array
  high: Array


def in_lines(values: Array, *, among: Array) -> Lines:
  """Lays values out.

  Args:
    values: float32 [B, N]; NaN and -inf count as the lowest number.
    among: [B, N] bool, the slots that may be found.

  Returns:
    The lines.
  """
  batch, slots = values.shape
  width = math.isqrt(slots - 1) + 1
  values = jnp.where(among, at_least_lowest(values), -jnp.inf)
  wide = [(0, 0), (0, -slots % width)]
  values = jnp.pad(values, wide, constant_values=-jnp.inf)
  values = values.reshape(batch, -1, width)
  return Lines(values, values.max(axis=2))


def flat(lines: Lines, slots: int) -> Array:
  """The values of N slots, [B, N]."""
  return lines.values.reshape(lines.high.shape[0], -1)[:, :slots]


def best(lines: Lines) -> Array:
  """The first slot of the highest value, int32 [B]; 0 if there is none."""
  line = jnp.argmax(lines.high, axis=1)
  values = similarities.take_slot(lines.values, line)
  return line * values.shape[1] + jnp.argmax(values, axis=1)  # [B]


def replace(lines: Lines, slot: Array, value: Array, *, where: Array) -> Lines:
  """Changes a value of each row.

  Args:
    lines: as they are.
    slot: int32 [B].
    value: float32 [B]; -inf takes the slot out.
    where: [B] bool, rows that change.

  Returns:
    The lines.
  """
  width = lines.values.shape[2]
  line, row = slot // width, jnp.arange(slot.shape[0])
  here = jnp.arange(width)[None] == (slot % width)[:, None]
  values = similarities.take_slot(lines.values, line)
  values = jnp.where(here & where[:, None], value[:, None], values)
  return Lines(
    lines.values.at[row, line].set(values),
    lines.high.at[row, line].set(values.max(axis=1)),
  )


def at_least_lowest(value: Array) -> Array:
  """The lowest number in place of NaN and -inf."""
  lowest = jnp.finfo(jnp.float32).min
  return jnp.maximum(jnp.where(jnp.isnan(value), lowest, value), lowest)
