"""Random tokens and signals of every kind, for tests and benchmarks.

Dimension letters: B batch, N token slots, D features, A heads, E head features,
M text tokens, H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.types import Array, Signals, Tap, Tokens

SLOTS, WIDTH, HEADS = 24, 6, 2
LENGTHS = (24, 13, 18, 24, 13, 18, 24, 13)

# Shape of one row of each signal, with the axis of its tokens.
SIGNALS: dict[str, tuple[tuple[int, ...], int | None]] = {
  'keys': ((HEADS, SLOTS, 4), 1),
  'queries': ((HEADS, SLOTS, 4), 1),
  'attention_row': ((HEADS, SLOTS), 1),
  'attention_logits': ((HEADS, SLOTS), 1),
  'attention_column': ((HEADS, SLOTS), 1),
  'before': ((SLOTS, WIDTH), 0),
  'importance': ((SLOTS,), 0),
  'text': ((3, WIDTH), None),
  'text_valid': ((3,), None),
  'pixels': ((8, 8, 3), None),
  'rng': ((), None),
}


def make_inputs(
  needs: Collection[str | Tap] = (),
  *,
  lengths: Sequence[int] = LENGTHS,
  slots: int = SLOTS,
  rows: Iterable[int] | None = None,
  seed: int = 0,
) -> tuple[Tokens, Signals]:
  """Random tokens and signals; row i is the same whatever stands around it.

  Args:
    needs: names of signals, and taps; the others are None.
    lengths: valid tokens of each row; padding stands behind them.
    slots: N, at most `SLOTS`.
    rows: the number of each row, 0 to 7; 0, 1, ... if None.
    seed: of all that is drawn.

  Returns:
    Tokens whose slot 0 is protected, and signals.
  """
  numbers = list(range(len(lengths)) if rows is None else rows)

  def draw(kind: int, *shape: int) -> np.ndarray:
    pick = lambda i: np.random.default_rng((seed, kind, i)).normal(size=shape)
    return np.stack([pick(i) for i in numbers]).astype(np.float32)

  def signal(need: str | Tap) -> Array:
    name, layer = (need, 0) if isinstance(need, str) else (need.signal, 1)
    if name == 'rng':
      return jax.random.split(jax.random.key(seed), 8)[np.array(numbers)]
    if isinstance(need, Tap):  # a number of its own, of either sign
      layer += 2 * abs(need.layer) + (need.layer < 0)
    (shape, axis), kind = SIGNALS[name], list(SIGNALS).index(name) + 1
    x = draw(kind + 100 * layer, *shape)
    if axis is not None:
      x = x.take(np.arange(slots), axis=axis + 1)
    if name in ('attention_row', 'attention_column'):
      x = np.exp(x)
    return jnp.asarray(x > -1 if name == 'text_valid' else x)

  found = {need: signal(need) for need in needs}
  at = np.arange(slots)[None]
  valid = at < np.array(lengths)[:, None]
  tokens = Tokens.create(
    jnp.asarray(draw(0, SLOTS, WIDTH)[:, :slots]),
    valid=jnp.asarray(valid),
    protected=jnp.asarray(np.broadcast_to(at == 0, valid.shape)),
    num_protected=1,
  )
  return tokens, make_signals(found)


def signal_shapes(
  needs: Collection[str | Tap], slots: int, *, batch: int, width: int = 4096
) -> dict[str | Tap, jax.ShapeDtypeStruct]:
  """Shapes of signals at a language model's size, but for keys to draw with.

  Args:
    needs: names of signals, and taps.
    slots: N.
    batch: B.
    width: D, of features and texts.

  Returns:
    A shape for each need but 'rng'.
  """
  shapes = {
    'keys': ((32, slots, 128), 'bfloat16'),
    'queries': ((32, slots, 128), 'bfloat16'),
    'attention_row': ((32, slots), 'float32'),
    'attention_logits': ((32, slots), 'float32'),
    'attention_column': ((32, slots), 'float32'),
    'importance': ((slots,), 'float32'),
    'before': ((slots, width), 'bfloat16'),
    'text': ((77, width), 'bfloat16'),
    'text_valid': ((77,), 'bool'),
    'pixels': ((336, 336, 3), 'float32'),
  }
  named = {n: shapes[field_of(n)] for n in needs if n != 'rng'}
  return {
    need: jax.ShapeDtypeStruct((batch, *shape), dtype)
    for need, (shape, dtype) in named.items()
  }


def field_of(need: str | Tap) -> str:
  """The field of `Signals`."""
  return need.signal if isinstance(need, Tap) else need


def make_signals(found: Mapping[str | Tap, Array]) -> Signals:
  """Fields and taps in one struct."""
  fields: dict[str, Any] = {
    n: x for n, x in found.items() if isinstance(n, str)
  }
  taps = {n: x for n, x in found.items() if isinstance(n, Tap)}
  return Signals(**fields, taps=taps)
