"""What a block leaves in the cache once it is decided.

A commit is a function of the cache `before` the block, the cache `after` the
forward pass that predicted it, and `clean`, which runs the decided block and
gives the cache with its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

CacheT = TypeVar('CacheT')
Commit = Callable[[CacheT, CacheT, Callable[[CacheT], CacheT]], CacheT]


def append(
  before: CacheT, after: CacheT, clean: Callable[[CacheT], CacheT]
) -> CacheT:
  """Keeps what the prediction wrote: VAR, next-token, HAR, NAR."""
  del before, clean
  return after


def rerun(
  before: CacheT, after: CacheT, clean: Callable[[CacheT], CacheT]
) -> CacheT:
  """Runs the block again with its decided values: xAR, at time 0."""
  del after
  return clean(before)


def nothing(
  before: CacheT, after: CacheT, clean: Callable[[CacheT], CacheT]
) -> CacheT:
  """Forgets the block: MVAR, whose past enters through the inputs alone."""
  del after, clean
  return before
