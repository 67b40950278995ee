"""Jitted functions on any number of rows, in batches of one shape."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np


def in_batches(
  function: Callable[..., Any],
  arrays: Sequence[np.ndarray],
  size: int,
  *,
  multiple: int = 1,
) -> Any:
  """Calls a jitted function on equal batches and joins the results.

  Args:
    function: Of arrays [size, ...], giving a pytree of arrays [size, ...].
    arrays: Arrays [n, ...]; the last batch is padded by its first rows.
    size: Rows in a batch; fewer where there are fewer.
    multiple: What the rows of a batch must be divisible by; rounds up.

  Returns:
    The pytree with arrays [n, ...] on the host.
  """
  count = len(arrays[0])
  size = -(-min(size, count) // multiple) * multiple
  outputs = []
  for start in range(0, count, size):
    rows = np.arange(start, start + size) % count
    outputs.append(jax.device_get(function(*(a[rows] for a in arrays))))
  joined = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *outputs)
  return joined


def stream(
  function: Callable[..., Any],
  rows: Iterable[tuple[np.ndarray, ...]],
  size: int,
  *,
  sharding: jax.sharding.Sharding | None = None,
) -> Iterator[Any]:
  """Calls a jitted function on equal batches of rows without end.

  Args:
    function: Of arrays [size, ...], giving a pytree of arrays [size, ...].
    rows: For each row its arrays [...].
    size: Rows in a batch; the last batch is filled up with its last row.
    sharding: Where the arrays go.

  Yields:
    For each row the pytree with its arrays [...] on the host. The next batch
    is prepared while the device works.
  """

  def results() -> Iterator[tuple[Any, int]]:
    source = iter(rows)
    while batch := list(itertools.islice(source, size)):
      filled = batch + batch[-1:] * (size - len(batch))
      arrays = tuple(np.stack(column) for column in zip(*filled, strict=True))
      yield function(*jax.device_put(arrays, sharding)), len(batch)

  # One batch is fetched after the next one was started.
  ahead: tuple[Any, int] | None = None
  for batch in itertools.chain(results(), [None]):
    if ahead is not None:
      out, count = jax.device_get(ahead[0]), ahead[1]
      leaves, tree = jax.tree.flatten(out)
      for row in zip(*(leaf[:count] for leaf in leaves), strict=True):
        yield jax.tree.unflatten(tree, row)
    ahead = batch
