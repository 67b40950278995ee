"""Another way to compute the same where the device is a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax


def on_cpu(
  fast: Callable[..., Any], plain: Callable[..., Any]
) -> Callable[..., Any]:
  """Returns a function that is `fast` on CPUs and `plain` elsewhere.

  Which is known when a program is lowered, so that an exported one may be for
  another device than this. Derivatives are those of `plain`.

  Args:
    fast: of arrays.
    plain: the same up to rounding.
  """

  @jax.custom_jvp
  def function(*args: Any) -> Any:
    return jax.lax.platform_dependent(*args, cpu=fast, default=plain)

  @functools.partial(function.defjvp, symbolic_zeros=True)
  def _(primals: Any, tangents: Any) -> Any:
    zero = jax.custom_derivatives.SymbolicZero
    moved = [i for i, t in enumerate(tangents) if not isinstance(t, zero)]

    def of_moved(*some: Any) -> Any:
      args = list(primals)
      for i, value in zip(moved, some, strict=True):
        args[i] = value
      return plain(*args)

    pick = lambda values: [values[i] for i in moved]
    _, out_tangents = jax.jvp(of_moved, pick(primals), pick(tangents))
    return function(*primals), out_tangents

  return function
