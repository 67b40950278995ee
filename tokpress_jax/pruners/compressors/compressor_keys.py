"""What the key maps of compressors share: layers, attention, codes, sizes.

A released language model holds its projector under `model.mm_projector.` or the
like, and what is saved of a projector alone has the same names. Rules are of
names without `model.`.

Dimension letters: K queries, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io.keymap import Rule, dense
from tokpress_jax.pruners.compressors import parts

# Codes in bfloat16 are off by up to 0.002.
_TOLERANCE = 0.01


def mlp(source: str, target: str, *, first: int = 0) -> tuple[Rule, ...]:
  """Rules of two linear layers with a GELU between; see `parts.Projector`.

  Args:
    source: expression for the released name of the sequence.
    target: our name, below 'params/'.
    first: the number of the first layer in the sequence.
  """
  return (
    *dense(rf'{source}\.{first}', f'{target}/fc1'),
    *dense(rf'{source}\.{first + 2}', f'{target}/fc2'),
  )


def attention(source: str, target: str) -> tuple[Rule, ...]:
  """Rules of `parts.Attend`, of the names that `prepare` gives."""
  names = {'q': 'q_proj', 'k': 'k_proj', 'v': 'v_proj', 'out': 'out_proj'}
  return tuple(
    rule
    for ours, theirs in names.items()
    for rule in dense(rf'{source}\.{theirs}', f'{target}/{ours}')
  )


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts PyTorch's joined queries, keys and values; checks codes of places.

  Args:
    tensors: released names to arrays.

  Returns:
    As many, with `q_proj`, `k_proj` and `v_proj` for `in_proj`, without codes:
    they are computed here.

  Raises:
    UserError: if codes are others than those that are computed.
  """
  found = dict(tensors)
  for name in tensors:
    start, _, kind = name.rpartition('in_proj_')
    if kind in ('weight', 'bias'):
      whole = found.pop(name)
      third = len(whole) // 3
      for i, part in enumerate('qkv'):
        rows = slice(i * third, None if i == 2 else (i + 1) * third)
        found[f'{start}{part}_proj.{kind}'] = whole[rows]
    elif name.rpartition('.')[2] == 'pos_embed':
      _check_codes(name, found.pop(name))
  return found


def side_of(queries: int) -> int:
  """The side of a square of queries.

  Raises:
    UserError: if they are none.
  """
  side = math.isqrt(queries)
  if side**2 != queries:
    raise UserError(
      f'The checkpoint has {queries} queries, which are no square, as those of '
      'this method are.'
    )
  return side


def heads_of(width: int) -> int:
  """Heads of 128 features, as most of the official classes have."""
  return max(width // 128, 1)


def expected(config: Any) -> Any:
  """The variables that a compressor's weights must fill, as shapes."""
  module = config.build()
  given = {n: jnp.zeros((1, *shape)) for n, shape in module.inputs.items()}
  return jax.eval_shape(module.init, jax.random.key(0), **given)


def _check_codes(name: str, codes: np.ndarray) -> None:
  """Refuses codes [K, D] that are not the sines and cosines of a square.

  Some released ones are not numbers, which the official code puts right as it
  runs; they say nothing here.
  """
  number, width = codes.shape
  want = np.asarray(parts.codes((side_of(number),) * 2, width))
  if np.nanmax(np.abs(codes - want), initial=0) > _TOLERANCE:
    raise UserError(
      f'{name} of the checkpoint does not hold the sines and cosines of '
      f'{side_of(number)} x {side_of(number)} places, which are computed here '
      'and not loaded: it is of another model.'
    )
