"""Does a pruner of your own keep what every pruner promises?

`check_pruner(MyPruner(budget=5))`, in a test, asks for all of it. A table of
pruners asks for one promise at a time:

  pruner = testing.Checks(MyPruner(budget=5))
  pruner.jit_equals_eager()   # and so on, by the names in `CHECKS`

A method that wants crops, frames, a grid or places in space says so:
`check_pruner(MyPruner(budget=5), on=testing.Crops())`; of another arrangement
of tokens make a subclass of `Inputs`.

What a method computes is compared with a slow version of your own; these checks
are about the rest: masks, shapes, budgets, compilations.
"""

from tokpress_jax.pruners.random_inputs import LENGTHS, SLOTS, make_inputs
from tokpress_jax.pruners.testing.arrangements import (
  Crops,
  Frames,
  Grid,
  Inputs,
  Space,
)
from tokpress_jax.pruners.testing.check import CHECKS, Checks, check_pruner
from tokpress_jax.pruners.testing.running import compare

__all__ = [
  'CHECKS',
  'LENGTHS',
  'SLOTS',
  'Checks',
  'Crops',
  'Frames',
  'Grid',
  'Inputs',
  'Space',
  'check_pruner',
  'compare',
  'make_inputs',
]
