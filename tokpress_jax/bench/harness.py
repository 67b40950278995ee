"""Timing, and the report that every benchmark writes.

A benchmark is a module here with `run(**options) -> list[Row]`. A row is a
flat dict: `name`, `seconds` (median of one call), whatever explains it
(shapes, operations), and, where a peer does the same work in the same process,
`peer`, `peer_seconds` and `ratio` = peer_seconds / seconds (above 1: we are
faster). Ours and the peer's calls alternate, so that a machine that slows down
slows both. A module may have `summary(rows) -> str`, a line behind the table.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import outputs

Row = dict[str, Any]
Call = Callable[[], Any]

_BENCHES = {
  'compressors': 'tokpress_jax.bench.compressors',
  'conv': 'tokpress_jax.bench.conv',
  'matmul': 'tokpress_jax.bench.matmul',
  'pruners': 'tokpress_jax.bench.pruners',
  'titok': 'tokpress_jax.bench.titok',
  'tokens': 'tokpress_jax.bench.tokens',
  'train_step': 'tokpress_jax.bench.train_step',
  'var': 'tokpress_jax.bench.var',
}
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch')


def list_benches() -> dict[str, str]:
  """Name of every benchmark -> the first line of its description."""
  return {
    name: (importlib.import_module(target).__doc__ or '').splitlines()[0]
    for name, target in _BENCHES.items()
  }


def describe(name: str) -> str:
  """What a benchmark does, and its options with their defaults.

  Raises:
    UserError: If the name is unknown.
  """
  module = _find(name)
  defaults = ', '.join(
    f'--{option.replace("_", "-")} {p.default}'
    for option, p in inspect.signature(module.run).parameters.items()
    if p.default is not p.empty
  )
  texts = (inspect.getdoc(module), inspect.getdoc(module.run))
  return '\n\n'.join((*map(str, texts), f'Defaults: {defaults}'))


def _find(name: str) -> Any:
  if name not in _BENCHES:
    raise UserError(
      f'There is no benchmark {name!r}. {did_you_mean(name, _BENCHES)}'
    )
  return importlib.import_module(_BENCHES[name])


def run(
  name: str, json_file: str | os.PathLike[str] | None = None, **options: Any
) -> dict[str, Any]:
  """Runs one benchmark.

  Args:
    name: One of `list_benches()`.
    json_file: Where to write the report; its directory is made.
    **options: Keyword arguments of the benchmark's `run`.

  Returns:
    The report: `bench`, `device`, `device_count`, `platform`, `host`,
    `versions`, `options`, `rows`, each with its `dtype`, and where the
    benchmark has one, its `summary`.

  Raises:
    UserError: If the name or an option is unknown.
  """
  module = _find(name)
  member = module.run
  known = inspect.signature(member).parameters
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise UserError(
      f'Benchmark {name!r} has no option {", ".join(unknown)}; it takes '
      f'{", ".join(known)}.'
    )
  missing = [
    option
    for option, p in known.items()
    if p.default is p.empty and option not in options
  ]
  if missing:
    raise UserError(f'Benchmark {name!r} needs {", ".join(missing)}.')
  if json_file is not None:
    outputs.check_file(json_file, '--json')
  # On a GPU, leaves memory to a peer and to processes of their own.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  report = {'bench': name, **machine(), 'options': options}
  report['rows'] = member(**options)
  if hasattr(module, 'summary'):
    report['summary'] = module.summary(report['rows'])
  if json_file is not None:
    with open(json_file, 'w') as f:
      json.dump(report, f, indent=2, default=str)
      f.write('\n')
  return report


def say(text: str) -> None:
  """Tells someone who waits how far a long benchmark has come."""
  print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
  """What a number depends on besides the code."""
  device = jax.devices()[0]
  versions = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return {
    'device': device.device_kind,
    'device_count': jax.device_count(),
    'platform': device.platform,
    'host': {
      'machine': platform.machine(),
      'system': platform.system(),
      'cores': os.cpu_count(),
    },
    'versions': versions,
  }


def time_calls(
  *calls: Callable[[], Any],
  repeats: int = 5,
  warmup: int = 1,
  take: Callable[[list[float]], float] = statistics.median,
) -> list[float]:
  """Seconds of each call, their median unless told; the calls alternate.

  Args:
    *calls: Functions without arguments. JAX arrays that they return are waited
      for.
    repeats: Timed calls of each.
    warmup: Calls of each before those, not timed: compilation, caches.
    take: What is taken of the repeats; `min` where a peak is sought.

  Returns:
    One number per call, in seconds.
  """
  if repeats < 1:
    raise ValueError(f'repeats is {repeats}; expected at least 1.')
  seconds: list[list[float]] = [[] for _ in calls]
  for turn in range(warmup + repeats):
    for call, times in zip(calls, seconds, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(call())
      if turn >= warmup:
        times.append(time.perf_counter() - start)
  return [take(times) for times in seconds]


def first_calls(calls: dict[str, Call]) -> dict[str, float]:
  """Calls each once, says how long it took, and returns the seconds."""
  seconds = {}
  for name, call in calls.items():
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds[name] = time.perf_counter() - start
    say(f'{name}: first call {seconds[name]:.1f} s')
  return seconds


def versus(peer: str, seconds: float, peer_seconds: float) -> Row:
  """The part of a row that compares with a peer."""
  return {
    'peer': peer,
    'seconds': seconds,
    'peer_seconds': peer_seconds,
    'ratio': peer_seconds / seconds,
  }


def table(report: dict[str, Any]) -> str:
  """A report's rows as aligned text, one column per key of any row."""
  keys = list(dict.fromkeys(k for row in report['rows'] for k in row))
  lines = [keys]
  for row in report['rows']:
    lines.append([_cell(row.get(k, '')) for k in keys])
  widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
  return '\n'.join(
    '  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def _cell(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)
