r"""Released weights by an ordered table of regular expressions, and back.

Each model that carries released weights has a table of rules beside it:

  RULES = (
    Rule(r'blocks\.(\d+)\.attn\.proj\.weight',
         r'params/stack/layers/attn/out/kernel[\1]', LINEAR),
    Rule(r'norm\.(?:weight)', 'params/norm/scale'),
    Rule(r'.*\.num_batches_tracked', None),
  )

The first rule whose pattern is the whole name decides. `[\1]` at the end of a
target is a row of a stacked array `[L, ...]`; a target of None drops the
tensor. Whatever does not fit is reported at once, not one error a run.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import safetensors

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Transform:
  """A change of layout and its inverse.

  Attributes:
    forward: From the released layout to ours.
    inverse: And back.
  """

  forward: Callable[[Array], Array]
  inverse: Callable[[Array], Array]


def permute(*axes: int) -> Transform:
  """A transposition of axes, as `numpy.transpose` takes them."""
  back = tuple(int(i) for i in np.argsort(axes))
  return Transform(lambda x: x.transpose(axes), lambda x: x.transpose(back))


def reshape(theirs: Sequence[int], ours: Sequence[int]) -> Transform:
  """A change of shape, such as heads out of features."""
  return Transform(
    lambda x: x.reshape(tuple(ours)), lambda x: x.reshape(tuple(theirs))
  )


def chain(*parts: Transform) -> Transform:
  """Several transforms, in the order of `forward`."""

  def forward(x: Array) -> Array:
    for part in parts:
      x = part.forward(x)
    return x

  def inverse(x: Array) -> Array:
    for part in reversed(parts):
      x = part.inverse(x)
    return x

  return Transform(forward, inverse)


SAME = Transform(lambda x: x, lambda x: x)
LINEAR = permute(1, 0)  # torch [out, in] -> [in, out]
CONV = permute(2, 3, 1, 0)  # torch [out, in, H, W] -> [H, W, in, out]


def _join_patch(x: Array) -> Array:
  """[D, 3, p, p] to [p p 3, D]: the convolution that cuts patches."""
  return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def _split_patch(x: Array) -> Array:
  side = math.isqrt(x.shape[0] // 3)
  return x.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


PATCH = Transform(_join_patch, _split_patch)


@dataclasses.dataclass(frozen=True)
class Rule:
  """One row of a key map.

  Attributes:
    source: A regular expression for the whole released name.
    target: Our name, with groups of the expression; None drops the tensor.
    transform: The change of layout.
  """

  source: str
  target: str | None
  transform: Transform = SAME


def dense(
  source: str, target: str, change: Transform = SAME, row: str = ''
) -> tuple[Rule, Rule]:
  r"""Weight and bias of a linear layer.

  Args:
    source: expression for the released name.
    target: our name, below 'params/'.
    change: of the released order of outputs, before anything else.
    row: what selects a row of a stack, such as '[\1]'.
  """
  kernel = chain(change, LINEAR)
  return (
    Rule(rf'{source}\.weight', f'params/{target}/kernel{row}', kernel),
    Rule(rf'{source}\.bias', f'params/{target}/bias{row}', change),
  )


def norm(source: str, target: str, row: str = '') -> tuple[Rule, Rule]:
  """Weight and bias of a layer norm; see `dense`."""
  return (
    Rule(rf'{source}\.weight', f'params/{target}/scale{row}'),
    Rule(rf'{source}\.bias', f'params/{target}/bias{row}'),
  )


def convert(
  tensors: Mapping[str, Array],
  rules: Sequence[Rule],
  expected: Mapping[str, Any],
  *,
  where: str = 'The checkpoint',
) -> dict[str, Any]:
  """Turns released tensors into variables.

  Args:
    tensors: Released name -> array.
    rules: The key map.
    expected: Our variables as nested dicts of anything with a `shape`, from
      `jax.eval_shape` of the model's `init`.
    where: What the report calls the tensors.

  Returns:
    Variables with the structure of `expected`, as NumPy arrays.

  Raises:
    UserError: One report of every missing, unused and mis-shaped key.
  """
  shapes = {k: tuple(x.shape) for k, x in safetensors.flatten(expected).items()}
  found: dict[str, Array] = {}
  rows: dict[str, dict[int, Array]] = {}
  unused, repeated = [], []
  for name, array in tensors.items():
    match = _match(rules, name)
    if match is None:
      unused.append(name)
      continue
    target, row, transform = match
    if target is None:
      continue
    array = transform.forward(np.asarray(array))
    place: dict[Any, Array] = (
      found if row is None else rows.setdefault(target, {})
    )
    key = target if row is None else row
    if key in place:
      repeated.append(f'{name} (also {target})')
    place[key] = array
  for target, parts in rows.items():
    order = sorted(parts)
    same = len({parts[i].shape for i in order}) == 1
    if order == list(range(len(order))) and same:
      found[target] = np.stack([parts[i] for i in order])
    else:
      shown = {i: parts[i].shape for i in order}
      repeated.append(f'{target} has rows {shown}')
  report(
    where,
    missing=[f'{k} {s}' for k, s in shapes.items() if k not in found],
    unused=unused + [f'{k} (mapped)' for k in found if k not in shapes],
    misshaped=[
      f'{k}: {found[k].shape} there, {s} expected'
      for k, s in shapes.items()
      if k in found and found[k].shape != s
    ]
    + repeated,
  )
  return safetensors.unflatten({k: found[k] for k in shapes})


def read_network(
  path: str | os.PathLike[str], rules: Sequence[Rule], expected: Any
) -> dict[str, Any]:
  """Reads a safetensors file that has our names or the released ones.

  Args:
    path: The file.
    rules: From the released names.
    expected: Our variables, see `convert`.

  Raises:
    UserError: As `convert`.
  """
  flat = safetensors.load_flat(path)
  if any(name.startswith('params/') for name in flat):
    rules = tuple(Rule(name, name) for name in safetensors.flatten(expected))
  return convert(flat, rules, expected, where=os.fspath(path))


def invert(
  variables: Mapping[str, Any], rules: Sequence[Rule], names: Iterable[str]
) -> dict[str, Array]:
  """Turns variables into released tensors, the inverse of `convert`.

  Args:
    variables: Nested dicts of arrays.
    rules: The key map.
    names: The released names to make; those that a rule drops are left out.

  Raises:
    UserError: Names that no rule knows, or whose variable is missing.
  """
  flat = safetensors.flatten(variables)
  out, unused, missing = {}, [], []
  for name in names:
    match = _match(rules, name)
    if match is None:
      unused.append(name)
      continue
    target, row, transform = match
    if target is not None:
      if target not in flat:
        missing.append(target)
        continue
      array = np.asarray(flat[target])
      out[name] = transform.inverse(array if row is None else array[row])
  report('The variables', missing=missing, unused=unused, misshaped=[])
  return out


def require(shapes: Mapping[str, Any], *names: str) -> None:
  """Raises `UserError` unless a checkpoint has these tensors.

  Args:
    shapes: Released name -> anything.
    *names: Those without which its model cannot be told.
  """
  lost = [name for name in names if name not in shapes]
  if lost:
    some = ', '.join([*list(shapes)[:6], '...'][: len(shapes)])
    raise UserError(
      f'The checkpoint is of another kind of model: it lacks '
      f'{", ".join(lost)}, and has {len(shapes)} tensors: {some}.'
    )


def indexed(shapes: Mapping[str, Any], pattern: str) -> list[Any]:
  """Values of the names that match, in the order of the pattern's number.

  Args:
    shapes: Released name -> anything.
    pattern: A regular expression for the whole name, its group a number.
  """
  found = {}
  for name, value in shapes.items():
    match = re.fullmatch(pattern, name)
    if match is not None:
      found[int(match[1])] = value
  return [found[i] for i in sorted(found)]


def report(
  where: str,
  *,
  missing: Sequence[str],
  unused: Sequence[str],
  misshaped: Sequence[str],
) -> None:
  """Raises `UserError` with all that does not fit, if there is anything."""
  groups = {
    'missing': missing,
    'not used': unused,
    'of another shape': misshaped,
  }
  lines = [
    f'{len(keys)} {what}:\n    ' + '\n    '.join(sorted(keys))
    for what, keys in groups.items()
    if keys
  ]
  if lines:
    raise UserError(
      f'{where} is of another model than this config.\n  '
      + '\n  '.join(lines)
      + '\nGive the weights that belong to the config.'
    )


def _match(
  rules: Sequence[Rule], name: str
) -> tuple[str | None, int | None, Transform] | None:
  """Returns (target, row of a stack, transform) by the first rule, or None."""
  for rule in rules:
    match = re.fullmatch(rule.source, name)
    if match is None:
      continue
    if rule.target is None:
      return None, None, rule.transform
    target = match.expand(rule.target)
    stacked = re.fullmatch(r'(.*)\[(\d+)\]', target)
    if stacked:
      return stacked[1], int(stacked[2]), rule.transform
    return target, None, rule.transform
  return None
