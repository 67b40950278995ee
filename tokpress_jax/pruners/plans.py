"""A plan as a few numbers: what a config holds and a command line overrides.

A plan is a tuple of (site, pruner) pairs. `PlanConfig` says the usual ones, one
pruner after the attention of every layer, by name and by how many tokens leave.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from tokpress_jax import registry
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.pruners import budgets, flops
from tokpress_jax.pruners.inside_vit import diffrate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """What a plan has to know of its host.

  Attributes:
    depth: layers.
    tokens: that enter the first, protected ones included.
    num_protected: class tokens.
    width: features of a token.
    hidden: features of the MLPs.
  """

  depth: int
  tokens: int
  num_protected: int
  width: int
  hidden: int

  def share(self, counts: Sequence[tuple[int, int]]) -> float:
    """FLOPs of (attention tokens, MLP tokens) over those of all tokens."""
    total = lambda counts: flops.model_flops(
      counts, width=self.width, hidden=self.hidden
    )
    return total(counts) / total([(self.tokens, self.tokens)] * self.depth)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
  """One pruner after the attention of every layer.

  By default there is none. How many tokens leave is said in one of three ways,
  and is the same for every method, so that two are compared at equal cost.

  Attributes:
    method: name of a pruner, see `tokpress list pruners`; '' for none.
    r: tokens that leave in each layer, as in ToMe, at most half of those that
      may; of a fraction, the mean over layers.
    flops: in place of r: the share of the unpruned model's FLOPs, by the
      formula of `flops`; the nearest r is taken.
    prune_kept: of DiffRate, in place of both: see `diffrate_plan`.
    merge_kept: the same.
  """

  method: str = ''
  r: float | None = None
  flops: float | None = None
  prune_kept: tuple[int, ...] = ()
  merge_kept: tuple[int, ...] = ()

  def __post_init__(self):
    said = [
      name
      for name, given in (
        ('r', self.r is not None),
        ('flops', self.flops is not None),
        ('prune_kept and merge_kept', bool(self.prune_kept or self.merge_kept)),
      )
      if given
    ]
    if not self.method:
      if said:
        raise UserError(
          f'a plan with {" and ".join(said)} and no method; name a pruner, '
          "such as method='tome'"
        )
      return
    known = [entry.name for entry in registry.entries('pruner')]
    if self.method not in known:
      raise UserError(
        f'there is no pruner {self.method!r}. '
        f'{did_you_mean(self.method, known)}'
      )
    if len(said) != 1:
      raise UserError(
        f'a plan of {self.method!r} says how many tokens leave by '
        f'{" and ".join(said) or "nothing"}; give one of r (tokens per layer), '
        'flops (a share) or, for diffrate, prune_kept and merge_kept'
      )
    if self.prune_kept and self.method != 'diffrate':
      raise UserError(
        f'prune_kept and merge_kept are of diffrate, not of {self.method!r}; '
        'give r or flops'
      )
    if self.r is not None and self.r <= 0:
      raise UserError(f'r={self.r} removes nothing; give a number above 0')
    if self.flops is not None and not 0 < self.flops < 1:
      raise UserError(
        f'flops={self.flops} is no share of the whole; give one between 0 and 1'
      )

  def plan(self, shape: Shape) -> tuple[tuple[str, Any], ...]:
    """The (site, pruner) pairs for a host.

    Args:
      shape: of the host.

    Returns:
      A plan; layers in which nothing leaves are left out.

    Raises:
      UserError: if the FLOPs cannot be met, or the numbers are of another
        depth.
    """
    if not self.method:
      return ()
    if self.prune_kept or self.merge_kept:
      if len(self.prune_kept) != shape.depth:
        raise UserError(
          f'prune_kept has numbers for {len(self.prune_kept)} layers and the '
          f'host has {shape.depth}; learn the rates of this host '
          '(diffrate_task)'
        )
      return diffrate.diffrate_plan(
        self.prune_kept,
        self.merge_kept,
        tokens=shape.tokens,
        num_protected=shape.num_protected,
      )
    if self.r is not None:
      removed = even_removal(self.r, shape)
    else:
      assert self.flops is not None
      removed = removal_for(self.flops, shape)
    make = registry.resolve(self.method)
    return tuple(
      (f'block_{i}.after_attention', make(budget=budgets.Remove(tokens=n)))
      for i, n in enumerate(removed)
      if n
    )


def even_removal(r: float, shape: Shape) -> tuple[int, ...]:
  """Tokens that leave in each layer, r on the average and half at most.

  Args:
    r: tokens per layer; its fraction is spread evenly.
    shape: of the host.

  Returns:
    A number for each layer.
  """
  removed = []
  left = shape.tokens
  for layer in range(shape.depth):
    # A thousandth, lest 2 / 3 + 2 / 3 + 2 / 3 falls short of 2.
    due = int(r * (layer + 1) + 1e-3) - int(r * layer + 1e-3)
    # What one bipartite matching can merge.
    removed.append(min(due, (left - shape.num_protected) // 2))
    left -= removed[-1]
  return tuple(removed)


@functools.cache
def removal_for(share: float, shape: Shape) -> tuple[int, ...]:
  """The even removal whose FLOPs are nearest to a share of the whole.

  Args:
    share: in (0, 1).
    shape: of the host.

  Returns:
    A number for each layer.

  Raises:
    UserError: if the share is less than halving in every layer leaves.
  """
  most = shape.depth * (shape.tokens // 2)
  options = [even_removal(n / shape.depth, shape) for n in range(1, most + 1)]
  shares = [shape.share(counts_of(option, shape)) for option in options]
  # The first of equals: beyond some r nothing changes any more.
  best = min(range(most), key=lambda i: abs(shares[i] - share))
  least = min(shares)
  if share < least - 0.005:
    raise UserError(
      f'{share:.3f} of the FLOPs is less than halving the tokens in every '
      f'layer leaves, {least:.3f}; give that or more'
    )
  return options[best]


def counts_of(
  removed: Sequence[int], shape: Shape
) -> tuple[tuple[int, int], ...]:
  """(attention tokens, MLP tokens) of each layer, as `model_flops` takes."""
  counts = []
  left = shape.tokens
  for n in removed:
    counts.append((left, left - n))
    left -= n
  return tuple(counts)
