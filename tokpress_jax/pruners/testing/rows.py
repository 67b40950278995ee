"""Promises about rows: each is what it is alone, wherever its padding stands.

Dimension letters: B batch, N token slots, K kept slots, D features.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from tokpress_jax.pruners.random_inputs import SIGNALS, field_of, make_signals
from tokpress_jax.pruners.testing.running import Running, expect
from tokpress_jax.types import Array, Signals, Tap, Tokens

# Rows that are also run alone.
ALONE = (1, 2)


class Rows(Running):
  """Promises about the rows of a batch."""

  def row_equals_single_run(self) -> None:
    """A row of a batch, padded, is what it is alone and without padding."""
    got = self.program(*self.inputs())
    for row in ALONE:
      want = self.program(*self.on.alone(self.pruner.needs, row=row))
      self._compare(got, want, rows=[row])

  def padding_is_ignored(self) -> None:
    """Whatever it holds, and wherever it stands, if it may move."""
    tokens, signals = self.inputs()
    # Each row's padding moves to the front and is filled with large numbers.
    shift = self.on.slots - jnp.array(self.on.lengths)
    shift = shift if self.on.moves else jnp.zeros_like(shift)
    moved, moved_signals = _roll(tokens, signals, shift)
    got, got_red = self.program(moved, moved_signals)
    want, want_red = self.program(tokens, signals)
    index = jnp.where(got_red.valid, got_red.index - shift[:, None], 0)
    self._compare(
      (got, dataclasses.replace(got_red, index=index)), (want, want_red)
    )
    largest = float(jnp.abs(got.features).max())
    expect(largest < 100, f'padding reached features: {largest}')
    expect(
      bool(((got.mass == 0) == ~got.valid).all()),
      'mass must be 0 where a slot is not valid, and only there',
    )


def _roll(
  tokens: Tokens, signals: Signals, shift: Array
) -> tuple[Tokens, Signals]:
  """Moves each row by so many slots, and fills padding with large numbers."""

  def roll(x: Array, axis: int = 0) -> Array:
    return jax.vmap(lambda row, n: jnp.roll(row, n, axis=axis))(x, shift)

  valid = roll(tokens.valid)
  junk = lambda x, mask: jnp.where(mask, x, 1e4)
  moved = dataclasses.replace(
    tokens,
    features=junk(roll(tokens.features), valid[..., None]),
    positions=roll(tokens.positions),
    valid=valid,
    mass=roll(tokens.mass),
    owner=roll(tokens.owner),
    protected=roll(tokens.protected),
  )
  found: dict[str | Tap, Array] = {}
  needs: list[str | Tap] = [*SIGNALS, *signals.taps]
  for need in needs:
    name, x = field_of(need), signals.get(need)
    if x is None:
      continue
    axis = SIGNALS[name][1]
    if axis is not None:
      x = roll(x, axis)
    if name in ('keys', 'queries'):
      x = junk(x, valid[:, None, :, None])
    if name == 'before':
      x = junk(x, valid[..., None])
    found[need] = x
  return moved, make_signals(found)
