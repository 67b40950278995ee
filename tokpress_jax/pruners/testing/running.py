"""What the promises share: one program of a pruner, inputs, comparisons.

Dimension letters: B batch, N token slots, K kept slots, D features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.pruners.testing.arrangements import Inputs
from tokpress_jax.types import Reduction, Signals, Tokens

Result = tuple[Tokens, Reduction]


def compare(
  got: Result, want: Result, *, rows: Sequence[int], atol: float = 1e-5
) -> None:
  """Compares some rows of a result with all rows of another, where valid.

  Args:
    got: of `rows` and perhaps others.
    want: as many rows as `rows` has.
    rows: of `got`.
    atol: of floats.

  Raises:
    AssertionError: if they differ; says in which row and field.
  """
  (a, a_red), (b, b_red) = jax.device_get((got, want))
  for i, row in enumerate(rows):
    at, want_at = np.flatnonzero(a.valid[row]), np.flatnonzero(b.valid[i])
    expect(
      at.size == want_at.size,
      f'row {row} keeps {at.size} tokens, not {want_at.size}',
    )
    np.testing.assert_array_equal(
      a_red.index[row, at],
      b_red.index[i, want_at],
      err_msg=f'other tokens are kept in row {row}',
    )
    for field in ('features', 'positions', 'mass', 'owner', 'protected'):
      np.testing.assert_allclose(
        np.asarray(getattr(a, field)[row, at], np.float32),
        np.asarray(getattr(b, field)[i, want_at], np.float32),
        atol=atol,
        err_msg=f'{field} of row {row}',
      )


class Running:
  """A pruner that runs, not compiled and compiled.

  Attributes:
    pruner: a frozen dataclass, or a Linen module.
    on: what it is run on.
    variables: of a module; drawn at random if None, so that every parameter
      matters.
    keeps_mass: whether it promises to drop nothing, as a merger does.
    atol: of floats.
  """

  def __init__(
    self,
    pruner: Any,
    *,
    variables: Any = None,
    keeps_mass: bool = False,
    atol: float = 1e-5,
    on: Inputs | None = None,
  ):
    """Compiles nothing yet."""
    self.pruner = pruner
    self.on = Inputs() if on is None else on
    self.keeps_mass = keeps_mass
    self.atol = atol
    self._given = variables
    self._traces = 0
    self._jitted = jax.jit(self._traced)

  @functools.cached_property
  def variables(self) -> Any:
    """Of a module; None for others."""
    if self._given is not None or not isinstance(self.pruner, nn.Module):
      return self._given
    shapes = jax.eval_shape(self.pruner.init, jax.random.key(0), *self.inputs())
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=x.shape) * 0.5 for x in leaves]
    return jax.tree.unflatten(tree, [jnp.asarray(x, 'float32') for x in drawn])

  def inputs(self, **kwargs: Any) -> tuple[Tokens, Signals]:
    """Tokens as `on` makes them, with what the pruner needs."""
    return self.on.make(self.pruner.needs, **kwargs)

  def eager(self, tokens: Tokens, signals: Signals) -> Result:
    """The pruner, not compiled."""
    return self._apply(self.variables, tokens, signals)

  def program(self, tokens: Tokens, signals: Signals) -> Result:
    """The pruner, compiled once per shape."""
    return self._jitted(self.variables, tokens, signals)

  def _apply(self, variables: Any, tokens: Tokens, signals: Signals) -> Result:
    if isinstance(self.pruner, nn.Module):
      return self.pruner.apply(variables, tokens, signals)  # type: ignore[return-value]
    return self.pruner(tokens, signals)

  def _traced(self, variables: Any, tokens: Tokens, signals: Signals) -> Result:
    self._traces += 1
    return self._apply(variables, tokens, signals)

  def _compare(
    self, got: Result, want: Result, rows: Sequence[int] | None = None
  ) -> None:
    rows = range(len(self.on.lengths)) if rows is None else rows
    compare(got, want, rows=rows, atol=self.atol)


def expect(condition: bool, message: str) -> None:
  """An assertion with words, also where asserts are not rewritten."""
  if not condition:
    raise AssertionError(message)
