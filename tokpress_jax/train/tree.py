"""Parameters by name: `encoder/block/mlp/kernel`, and rules over names."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
from flax import traverse_util

from tokpress_jax.errors import UserError


def map_named(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
  """Maps `f(name, leaf, ...)` over a tree; names join the path by slashes."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: f(
      jax.tree_util.keystr(path, simple=True, separator='/'), *leaves
    ),
    tree,
    *rest,
  )


def named(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by name, in the tree's order."""
  pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in pairs
  }


def select(params: Mapping[str, Any], keep: Collection[str]) -> dict[str, Any]:
  """Returns the nested dict that holds only the named leaves."""
  flat = traverse_util.flatten_dict(params, sep='/')
  return traverse_util.unflatten_dict(
    {name: leaf for name, leaf in flat.items() if name in keep}, sep='/'
  )


def merge(params: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `params` with the leaves of `over` in their places."""
  flat = traverse_util.flatten_dict(params, sep='/')
  flat |= traverse_util.flatten_dict(over, sep='/')
  return traverse_util.unflatten_dict(flat, sep='/')


def first_match(
  rules: Iterable[tuple[str, Any]], name: str, default: Any = None
) -> Any:
  """Returns the value of the first `(regex, value)` found in `name`."""
  for pattern, value in rules:
    if re.search(pattern, name):
      return value
  return default


def check_patterns(
  field: str, patterns: Iterable[str], names: Collection[str]
) -> None:
  """Raises `UserError` if a regex is invalid or is found in no name."""
  for pattern in patterns:
    try:
      found = any(re.search(pattern, name) for name in names)
    except re.error as error:
      raise UserError(
        f'{field} holds {pattern!r}, which is no regular expression: {error}.'
      ) from error
    if not found:
      some = ', '.join(sorted(names)[:8])
      raise UserError(
        f'{field} holds {pattern!r}, which is found in none of the '
        f'{len(names)} names. They look like: {some}.'
      )
