"""A loaded model in the form that runs fastest."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import nn, types
from tokpress_jax.errors import UserError


def for_inference(
  model: types.Loaded,
  *,
  dtype: Any = None,
  implementation: nn.Implementation | None = None,
) -> types.Loaded:
  """Casts the weights and splits the stacks of layers, once, outside `jit`.

  Softmax, norms, logits, guidance and the quantiser stay float32. Drop the
  argument afterwards, so that the weights lie in memory once:
  `model = tp.for_inference(tp.load('var-d16'))`.

  Args:
    model: of `load`: a generator with or without its tokenizer, a tokenizer, or
      a host of pruners (ViT-B/16 with ToMe takes 0.85 x the time on a CPU).
    dtype: of weights, matmuls and caches; bfloat16 on accelerators and float32
      on a CPU if None.
    implementation: of attention; 'cudnn' is cuDNN's flash attention on a GPU,
      in bfloat16, of models that have it as an attribute (`models.ViT`).

  Returns:
    The same model, used as before.

  Raises:
    UserError: the model's attention is not a matter of choice.
  """
  if dtype is None:
    cpu = jax.default_backend() == 'cpu'
    dtype = jnp.float32 if cpu else jnp.bfloat16
  tokenizer = model.tokenizer
  if tokenizer is not None:
    tokenizer = for_inference(tokenizer, dtype=dtype)
  chosen: dict[str, Any] = {'dtype': dtype}
  if implementation is not None:
    if not hasattr(model.module, 'implementation'):
      raise UserError(
        f'{type(model.module).__name__} has one implementation of attention; '
        'leave `implementation` out'
      )
    chosen['implementation'] = implementation
  return dataclasses.replace(
    model,
    module=model.module.clone(**chosen),
    variables=nn.unstack(_cast(model.variables, dtype)),
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
