"""Counts the floating-point operations of a traced program.

XLA's own cost analysis counts the body of a scan once, whatever its length, so
it cannot be used for a stack of layers under `lax.scan`. This walks the jaxpr
and multiplies by trip counts. Only matrix products and convolutions count (2
per multiply-add): the usual convention for utilisation, and nearly all of the
work of a transformer. Recomputation by remat counts, since it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., Any], *args: Any) -> int:
  """Counts the matmul and convolution operations of `function(*args)`.

  Args:
    function: Any traceable function; it is not run or compiled.
    *args: Its arguments: arrays or `jax.ShapeDtypeStruct`.

  Returns:
    Operations of one call over all devices, 2 per multiply-add.

  Raises:
    ValueError: If a matrix product sits in a `while` loop, whose trip count
      a trace does not know; use `lax.scan` or a static `lax.fori_loop`.
  """
  return _jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _jaxpr(jaxpr: core.Jaxpr) -> int:
  return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: Any) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == 'dot_general':
    return _dot_general(eqn)
  if name == 'conv_general_dilated':
    return _convolution(eqn)
  inner = [_jaxpr(j) for j in _inner(params)]
  if name == 'scan':
    return params['length'] * sum(inner)
  if name == 'cond':
    return max(inner)
  if name == 'while':
    if any(inner):
      raise ValueError(
        'Cannot count the operations of a matrix product inside a `while` '
        'loop: a trace does not know how often it runs. Use lax.scan, or '
        'lax.fori_loop with Python integers as bounds.'
      )
    return 0
  if name == 'shard_map':  # The body sees one device's shard.
    names = ('newly_manual_axes', 'manual_axes')  # Newer and older JAX.
    axes = next(params[n] for n in names if n in params)
    sizes = params['mesh'].shape
    return math.prod(sizes[axis] for axis in axes) * sum(inner)
  return sum(inner)


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  """The jaxprs among an equation's parameters (jit, remat, custom rules)."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        found.append(item)
  return found


def _dot_general(eqn: Any) -> int:
  (contract, _), _ = eqn.params['dimension_numbers']
  left = eqn.invars[0].aval.shape
  out = eqn.outvars[0].aval.shape
  return 2 * math.prod(out) * math.prod(left[axis] for axis in contract)


def _convolution(eqn: Any) -> int:
  """Dense count: padding counts, zeros put between inputs do not."""
  params = eqn.params
  numbers = params['dimension_numbers']
  kernel = eqn.invars[1].aval.shape
  out = eqn.outvars[0].aval.shape
  _, in_features, *space = numbers.rhs_spec
  taps = math.prod(kernel[axis] for axis in space) * kernel[in_features]
  return 2 * math.prod(out) * taps // math.prod(params['lhs_dilation'])
