"""Runs parts on eight padded rows, on each row alone, and under vmap.

A test module gives `draw(rng, n)`, the arrays of one row of n tokens, and
`axes`, which say where the tokens are: `ND` is [N, D]. Rows are padded with
junk, every second one in front. All parts of a module are one compiled program
per shape.
"""

import functools

import jax
import numpy as np

LENGTHS = (12, 7, 12, 7, 4, 12, 7, 4)
SLOTS = 12
JUNK = 1e3


class Parts:
  """The parts of a module, and what they gave.

  Attributes:
    parts: name to function of the drawn arrays, with a batch axis in front.
    draw: see above.
    axes: name of an array to its axes; 'slot' holds numbers of slots.
  """

  def __init__(self, parts, draw, axes):
    self.parts, self.axes = parts, {**axes, 'valid': 'N'}
    self.rows = []
    for i, n in enumerate(LENGTHS):
      row = draw(np.random.default_rng((7, i)), n)
      self.rows.append({**row, 'valid': np.ones(n, bool)})

  def run(self, arrays):
    return {name: part(arrays) for name, part in self.parts.items()}

  @functools.cached_property
  def batch(self):
    padded = [self._pad(row, i) for i, row in enumerate(self.rows)]
    arrays = {k: np.stack([p[k] for p in padded]) for k in padded[0]}
    self.arrays = arrays
    return jax.device_get(jax.jit(self.run)(arrays))

  @functools.cached_property
  def alone(self):
    run = jax.jit(self.run)
    add = lambda row: {k: np.asarray(x)[None] for k, x in row.items()}
    return [jax.device_get(run(add(row))) for row in self.rows]

  @functools.cached_property
  def mapped(self):
    _ = self.batch
    twice = {k: np.stack([x[::-1], x]) for k, x in self.arrays.items()}
    got = jax.device_get(jax.jit(jax.vmap(self.run))(twice))
    return jax.tree.map(lambda x: x[1], got)

  def _pad(self, row, i):
    n = LENGTHS[i]
    missing = SLOTS - n
    front = missing if i % 2 else 0
    out = {}
    for name, x in row.items():
      x = np.asarray(x)
      if 'N' not in self.axes.get(name, ''):
        out[name] = x + front if self.axes.get(name) == 'slot' else x
        continue
      widths = [
        (front, missing - front) if letter == 'N' else (0, 0)
        for letter in self.axes[name]
      ]
      junk = JUNK if x.dtype.kind == 'f' else 0
      out[name] = np.pad(x, widths, constant_values=junk)
    return out

  def slots(self, i):
    """Where the tokens of row i lie."""
    missing = SLOTS - LENGTHS[i]
    return np.arange(LENGTHS[i]) + (missing if i % 2 else 0)

  def check(self, name, oracle, *, atol=1e-5):
    """Compares a part with an oracle of one row, alone and among others.

    Arrays are compared on valid tokens; a pair (kept, rank), and a kept mask
    alone, as lists of tokens in their order.
    """
    for i, row in enumerate(self.rows):
      want = oracle(**row)
      got = self._take(self.batch[name], i, self.slots(i))
      single = self._take(self.alone[i][name], 0, np.arange(LENGTHS[i]))
      mapped = self._take(self.mapped[name], i, self.slots(i))
      for value in (got, single, mapped):
        if isinstance(want, list):
          assert value == [int(n) for n in want], (name, i)
        else:
          np.testing.assert_allclose(
            value, want, atol=atol, rtol=1e-5, err_msg=f'{name}, row {i}'
          )

  def _take(self, value, i, slots):
    if isinstance(value, tuple):
      kept, rank = (x[i] for x in value)
      assert not np.delete(kept, slots).any()
      kept, rank = kept[slots], rank[slots]
      order = np.argsort(rank, kind='stable')
      order = [int(n) for n in order if kept[n]]
      assert len(order) == kept.sum()
      assert sorted(rank[order]) == list(range(len(order)))
      return order
    x = value[i]
    if x.dtype == bool:
      assert not np.delete(x, slots).any()
      return [int(n) for n in np.flatnonzero(x[slots])]
    for axis, size in enumerate(x.shape):
      if size == SLOTS and len(slots) < SLOTS:
        x = np.take(x, slots, axis=axis)
    return x
