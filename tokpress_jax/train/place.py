"""A loaded model spread over a mesh: sampling and encoding in shards.

The rules are those of training: matrices of the layers are cut over `fsdp` and
`model`, the rest over `fsdp` where it is large. Rows go over `data` alone: with
few rows at once, the compiler had better split each product over `fsdp` too
than bring the weights together.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train import sharding
from tokpress_jax.train.config import MeshConfig
from tokpress_jax.train.tasks.generate import GeneratorTask
from tokpress_jax.types import Loaded


def place(
  loaded: Loaded,
  mesh: Mesh,
  config: MeshConfig,
  *,
  rules: sharding.Rules = GeneratorTask.sharding_rules,
) -> Loaded:
  """Spreads the variables of a model, and of its tokenizer, over a mesh.

  Call it before `for_inference`, which splits the stacks of layers
  that the rules name; what that makes of them stays spread.

  Args:
    loaded: of `load`; every process must hold the same.
    mesh: of `make_mesh(config)`.
    config: the FSDP rule's minimum size and the guard's limits. The guard looks
      at the model alone: its tokenizer may stay whole.
    rules: ordered `(regex, axes)` pairs, see `Task.sharding_rules`.

  Returns:
    The same model; its inputs go through `spread`.

  Raises:
    UserError: if a rule does not fit, or if too much stays whole.
  """
  tokenizer = loaded.tokenizer
  if tokenizer is not None:
    unguarded = dataclasses.replace(config, max_unsharded=1.0)
    tokenizer = place(tokenizer, mesh, unguarded, rules=rules)
  shardings = sharding.shard(loaded.variables, mesh, config, rules=rules)
  return dataclasses.replace(
    loaded,
    variables=jax.tree.map(mesh_lib.put, loaded.variables, shardings),
    tokenizer=tokenizer,
  )


def spread(rows: Any, mesh: Mesh) -> jax.Array:
  """Spreads an array [B, ...] over the `data` axis.

  Args:
    rows: labels, images, codes; every process must hold the same.
    mesh: the mesh of the model.

  Raises:
    UserError: if B does not divide.
  """
  ways = mesh.shape['data']
  if len(rows) % ways:
    raise UserError(
      f'{len(rows)} rows do not divide over mesh.data={ways}; give a multiple '
      f'of {ways}, or spread the parameters instead: mesh.fsdp={ways}'
    )
  return mesh_lib.put(rows, NamedSharding(mesh, PartitionSpec('data')))
