"""Where each variable lives: rules by name, an FSDP rule for the rest.

The first `(regex, axes)` rule found in a variable's name decides. What no rule
matches is cut along its largest dimension that the `fsdp` axis divides, if it
is large enough; smaller arrays stay whole (ZeRO, Rajbhandari et al. 2020,
arXiv:1910.02054, stage 3, left to the compiler).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError
from tokpress_jax.train import tree
from tokpress_jax.train.config import MeshConfig

Rules = Sequence[tuple[str, tuple[Any, ...]]]


def shard(
  variables: Any, mesh: Mesh, config: MeshConfig, *, rules: Rules = ()
) -> Any:
  """Returns the sharding of every variable.

  Args:
    variables: A tree of arrays or of `jax.ShapeDtypeStruct`.
    mesh: The mesh.
    config: The FSDP rule's minimum size and the guard's limits.
    rules: Ordered `(regex, axes)` pairs; `axes` has one entry per dimension.

  Raises:
    UserError: If a rule does not fit an array, or if too many bytes stay whole
      although `fsdp` or `model` is above 1.
  """
  shardings = tree.map_named(
    lambda name, x: NamedSharding(
      mesh, _spec(name, x.shape, mesh, config, rules)
    ),
    variables,
  )
  _check_unsharded(variables, shardings, mesh, config)
  return shardings


def _spec(
  name: str,
  shape: tuple[int, ...],
  mesh: Mesh,
  config: MeshConfig,
  rules: Rules,
) -> PartitionSpec:
  axes = tree.first_match(rules, name)
  if axes is None:
    return _fsdp(shape, mesh.shape['fsdp'], config.fsdp_min_size)
  if len(axes) > len(shape):
    raise UserError(
      f'The sharding rule for {name} has {len(axes)} entries {axes}, but the '
      f'array has {len(shape)} dimensions {shape}.'
    )
  used = [a for entry in axes for a in _entry(entry)]
  unknown = sorted(set(used) - set(mesh.shape))
  if unknown or len(set(used)) < len(used):
    raise UserError(
      f'The sharding rule for {name} is {axes}; each of the mesh axes '
      f'{tuple(mesh.shape)} may be named at most once, and nothing else.'
    )
  for size, entry in zip(shape, axes, strict=False):
    ways = math.prod(mesh.shape[a] for a in _entry(entry))
    if size % ways:
      raise UserError(
        f'The sharding rule for {name} {shape} cuts a dimension of {size} '
        f'into {ways} (mesh axis {entry}), which does not divide it. Choose '
        'another mesh or another rule.'
      )
  return PartitionSpec(*axes)


def _entry(entry: Any) -> tuple[str, ...]:
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else tuple(entry)


def _fsdp(shape: tuple[int, ...], ways: int, min_size: int) -> PartitionSpec:
  fitting = [i for i, size in enumerate(shape) if size and size % ways == 0]
  if ways == 1 or math.prod(shape) < min_size or not fitting:
    return PartitionSpec()
  best = max(fitting, key=lambda i: (shape[i], i))
  return PartitionSpec(*[None] * best, 'fsdp')


def bytes_of(x: Any) -> int:
  """Bytes of an array or of its description."""
  return math.prod(x.shape) * x.dtype.itemsize


def bytes_per_device(tree_: Any, shardings: Any) -> int:
  """Bytes of a tree that one device holds."""
  sizes = jax.tree.map(
    lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize,
    tree_,
    shardings,
  )
  return sum(jax.tree.leaves(sizes))


def _check_unsharded(
  variables: Any, shardings: Any, mesh: Mesh, config: MeshConfig
) -> None:
  if mesh.shape['fsdp'] * mesh.shape['model'] == 1:
    return
  arrays, placed = tree.named(variables), tree.named(shardings)
  whole = {
    name: bytes_of(x)
    for name, x in arrays.items()
    if placed[name].is_fully_replicated
  }
  total = sum(bytes_of(x) for x in arrays.values())
  if total < config.guard_min_mb * 1e6:
    return
  if sum(whole.values()) > config.max_unsharded * total:
    largest = sorted(whole, key=whole.__getitem__, reverse=True)[:10]
    raise UserError(
      f'{sum(whole.values()) / total:.1%} of the variables ({total / 1e6:.0f} '
      f'MB) stay whole on every device; at most {config.max_unsharded:.1%} may '
      'while mesh.fsdp or mesh.model is above 1. Add sharding rules, or raise '
      'mesh.max_unsharded. The largest: '
      + ', '.join(
        f'{name} {arrays[name].shape} {whole[name] / 1e6:.1f} MB'
        for name in largest
      )
      + '.'
    )


def total(variables: Any) -> str:
  """Returns one line: how many bytes the variables have in all."""
  size = sum(bytes_of(x) for x in jax.tree.leaves(variables))
  return f'total of all variables: {size / 1e6:.3f} MB'


def table(variables: Any, shardings: Any) -> str:
  """Returns a text table: name, shape, spec, MB per device, and the sums."""
  placed = tree.named(shardings)
  rows = [('name', 'shape', 'spec', 'MB/device')]
  for name, x in tree.named(variables).items():
    spec = ', '.join(str(entry) for entry in placed[name].spec) or '-'
    size = bytes_per_device(x, placed[name]) / 1e6
    shape = 'x'.join(map(str, x.shape)) or 'scalar'
    rows.append((name, shape, spec, f'{size:.3f}'))
  total = sum(bytes_of(x) for x in jax.tree.leaves(variables))
  here = bytes_per_device(variables, shardings)
  rows.append(('total', f'{total / 1e6:.3f} MB', '', f'{here / 1e6:.3f}'))
  widths = [max(len(row[i]) for row in rows) for i in range(3)]
  return '\n'.join(
    f'{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>9}'
    for a, b, c, d in rows
  )
