"""Runs a pruner on padded rows of several sizes, and on each row alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.pruners.reduction import SIGNAL_AXES
from tokpress_jax.types import Signals, Tap, Tokens


@functools.partial(jax.jit, static_argnums=0)
def run(pruner, tokens, signals):
  return pruner(tokens, signals)


def check(pruner, make, sizes, *, front=True):
  """Rows of several sizes in one batch equal each row alone.

  Args:
    pruner: what is run.
    make: from the number of a row to (fields of Tokens, signals), numpy, of one
      row without a batch axis; signals are by name or tap.
    sizes: numbers of slots.
    front: whether every second row is padded in front.
  """
  slots = max(sizes)

  def build(numbers, pad):
    columns: dict = {}
    for i in numbers:
      fields, signals = make(i, sizes[i])
      fields = {'valid': np.ones(sizes[i], bool), **fields}
      missing = slots - sizes[i] if pad else 0
      before = missing if front and i % 2 else 0

      def put(x, axis, before=before, missing=missing):
        x = np.asarray(x)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (before, missing - before)
        junk = 1e3 if x.dtype.kind == 'f' else 0
        return np.pad(x, widths, constant_values=junk)

      for name, x in fields.items():
        columns.setdefault(name, []).append(put(x, 0))
      for name, x in signals.items():
        signal = name.signal if isinstance(name, Tap) else name
        axis = SIGNAL_AXES[signal].index('N') - 1
        columns.setdefault(name, []).append(put(x, axis))
    stacked = {k: jnp.asarray(np.stack(v)) for k, v in columns.items()}
    taps = {k: v for k, v in stacked.items() if isinstance(k, Tap)}
    named = {k: v for k, v in stacked.items() if k in SIGNAL_AXES}
    fields = {
      k: v for k, v in stacked.items() if k not in taps and k not in named
    }
    return Tokens.create(**fields), Signals(taps=taps, **named)

  got, reduction = run(pruner, *build(range(len(sizes)), True))
  for i, size in enumerate(sizes):
    want, alone = run(pruner, *build([i], False))
    kept = np.asarray(want.valid[0])
    assert np.asarray(got.valid[i]).sum() == kept.sum() > 0, i
    there = np.asarray(got.valid[i])
    assert there[: kept.sum()].all() and kept[: kept.sum()].all(), i
    shift = slots - size if front and i % 2 else 0
    index = np.asarray(reduction.index[i])[there] - shift
    np.testing.assert_array_equal(index, np.asarray(alone.index[0])[kept])
    for name in ('features', 'positions', 'mass', 'protected'):
      value, alone_value = getattr(got, name)[i], getattr(want, name)[0]
      np.testing.assert_allclose(
        np.asarray(value)[there],
        np.asarray(alone_value)[kept],
        atol=1e-5,
        rtol=1e-5,
        err_msg=f'{name}, row {i}',
      )
