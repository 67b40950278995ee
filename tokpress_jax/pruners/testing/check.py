"""All promises of a pruner, one at a time or at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.pruners.testing.arrangements import Inputs
from tokpress_jax.pruners.testing.programs import Programs
from tokpress_jax.pruners.testing.results import Results
from tokpress_jax.pruners.testing.rows import ALONE, Rows
from tokpress_jax.pruners.testing.running import expect
from tokpress_jax.types import Signals


class Checks(Programs, Rows, Results):
  """The promises of one pruner, a method each; they share one program.

  Each raises an AssertionError that says what is broken. They run on eight rows
  of up to 24 tokens, of which slot 0 is protected, on all devices that there
  are. Its arguments are attributes, see `running.Running`.
  """

  def bad_input_lists_all_causes(self) -> None:
    """One error names broken rows and missing signals, outside of `jit`."""
    tokens, _ = self.inputs()
    broken = dataclasses.replace(
      tokens,
      features=tokens.features.at[2, 0].set(jnp.nan),
      valid=tokens.valid.at[1].set(False),
      protected=tokens.protected.at[4, :2].set(True),
    )
    try:
      self.eager(broken, Signals())
    except ValueError as error:
      said = str(error)
    else:
      raise AssertionError(
        'NaN and empty rows were taken; call `base.check` in `plan`'
      )
    for cause in (
      'rows [2] hold NaN',
      'rows [1] are all padding',
      'rows [4] protect more than num_protected=1',
      *map(str, self.pruner.needs),
    ):
      expect(cause in said, f'the error does not say {cause!r}: {said}')


CHECKS = (
  'runs_on_what_it_needs',
  'is_hashable',
  'jit_equals_eager',
  'row_equals_single_run',
  'padding_is_ignored',
  'reduction_is_well_formed',
  'budget_is_respected',
  'protected_tokens_stay',
  'mass_is_accounted_for',
  'bfloat16_is_finite',
  'gradients_reach_what_was_kept',
  'devices_equal_one',
  'compiles_once',
  'vmap_adds_an_axis',
  'shapes_at_published_sizes',
  'bad_input_lists_all_causes',
)


def check_pruner(
  pruner: Any,
  *,
  variables: Any = None,
  keeps_mass: bool = False,
  skip: Collection[str] = (),
  atol: float = 1e-5,
  on: Inputs | None = None,
) -> None:
  """Asks a pruner for all that pruners promise, and lists what it breaks.

  Args:
    pruner: a frozen dataclass (`Pruner` is the base), or a Linen module with
      the same `needs`, `plan` and call.
    variables: of a module; drawn at random if None.
    keeps_mass: whether it promises to drop nothing, as a merger does.
    skip: names of `CHECKS` that the method does not promise.
    atol: of floats.
    on: the tokens that it is run on: `Crops()`, `Frames()`, `Grid()`, `Space()`
      or your own; rows of tokens in no grid if None.

  Raises:
    AssertionError: lists every promise that is broken, and how.
    UserError: if there is no check of a name in `skip`, or the budget is more
      than a row has.
  """
  if isinstance(pruner, type):
    raise UserError(
      f'give a pruner with its budget, {pruner.__name__}(budget=8), and not '
      'the class'
    )
  if on is not None and not isinstance(on, Inputs):
    raise UserError(
      'on is an arrangement such as testing.Crops(), testing.Grid() or one of '
      f'your own, derived from testing.Inputs; got {on!r}'
    )
  on = Inputs() if on is None else on
  budget = getattr(pruner, 'budget', None)
  fewest = min(map(on.slots_alone, ALONE)) - 1
  if isinstance(budget, int) and budget > fewest:
    raise UserError(
      f'checks run on rows of {fewest} tokens beside a protected one, which '
      f'cannot be {budget}; give the pruner a smaller budget for them, such as '
      f'{max(fewest // 2, 1)}, or a Ratio'
    )
  for name in skip:
    if name not in CHECKS:
      raise UserError(f'no check {name!r}. {did_you_mean(name, CHECKS)}')
  checks = Checks(
    pruner, variables=variables, keeps_mass=keeps_mass, atol=atol, on=on
  )
  broken: dict[str, Exception] = {}
  for name in CHECKS:
    if name in skip:
      continue
    try:
      getattr(checks, name)()
    except Exception as error:
      broken[name] = error
      if name == CHECKS[0]:  # the others would repeat it
        break
  if broken:
    first = next(iter(broken.values()))
    lines = [
      f'{name}: {type(error).__name__}: {str(error).strip()}'
      for name, error in broken.items()
    ]
    hint = ''
    if type(on) is Inputs and CHECKS[0] in broken:
      hint = (
        '\nThese tokens are in no grid. If it wants crops, frames, a grid or '
        'places in space, say on=testing.Crops(), Frames(), Grid() or Space().'
      )
    raise AssertionError(
      f'{pruner} breaks {len(broken)} of {len(CHECKS)} promises:\n  '
      + '\n  '.join(line.replace('\n', '\n    ') for line in lines)
      + hint
    ) from first
