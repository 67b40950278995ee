"""A loaded model in the form that runs fastest."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import nn, types


def for_sampling(generator: types.Loaded, *, dtype: Any = None) -> types.Loaded:
  """Casts the weights and splits the stacks of layers, once, outside `jit`.

  Softmax, norms, logits, guidance and the quantiser stay float32. Drop the
  argument afterwards, so that the weights lie in memory once:
  `model = for_sampling(tp.load('var-d16'))`.

  Args:
    generator: of `load`, with or without its tokenizer; or a tokenizer, which
      then encodes and decodes faster too.
    dtype: of weights, matmuls and caches; bfloat16 on accelerators and float32
      on a CPU if None.

  Returns:
    The same model, to be given to `sample`.
  """
  if dtype is None:
    cpu = jax.default_backend() == 'cpu'
    dtype = jnp.float32 if cpu else jnp.bfloat16
  tokenizer = generator.tokenizer
  if tokenizer is not None:
    tokenizer = for_sampling(tokenizer, dtype=dtype)
  return dataclasses.replace(
    generator,
    module=generator.module.clone(dtype=dtype),
    variables=nn.unstack(_cast(generator.variables, dtype)),
    tokenizer=tokenizer,
  )


def _cast(variables: types.Variables, dtype: Any) -> types.Variables:
  """Casts float arrays, but for the quantiser's: its sums decide codes."""

  def cast(path: tuple[Any, ...], x: Any) -> Any:
    names = [getattr(key, 'key', None) for key in path]
    exact = {'quantizer', 'pre_quant', 'post_quant'} & set(names)
    if exact or not jnp.issubdtype(x.dtype, jnp.floating):
      return x
    return jnp.asarray(x, dtype)

  return jax.tree_util.tree_map_with_path(cast, variables)
