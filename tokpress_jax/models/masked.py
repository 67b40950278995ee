"""A ViT in which masks say what would leave: how DiffRate learns its rates.

All tokens stay, in slots that are sorted anew in every layer, and attention
leaves the masked ones out by weights that carry gradients; see
`pruners.inside_vit.learned_rates`.

Dimension letters: B batch, A heads, N token slots, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from tokpress_jax.nn import Block, Stack, take_layer
from tokpress_jax.pruners.inside_vit import learned_rates
from tokpress_jax.types import Array

# (tokens between a layer's attention and its MLP, importance [B, N], layer).
Step = Callable[[learned_rates.Masked, Array, int], learned_rates.Masked]


def run(
  stack: Stack, state: learned_rates.Masked, step: Step
) -> learned_rates.Masked:
  """Runs all layers.

  Args:
    stack: a bound module; no dropout.
    state: what enters the first layer, the class token first.
    step: what leaves between attention and MLP; `LearnedRates.step`. The
      importance is the class token's attention, mean over heads.

  Returns:
    What leaves the last layer.
  """
  block = Block(stack.config.block, dtype=stack.dtype, parent=None)
  layers: Any = stack.get_variable('params', 'layers')
  for i in range(stack.config.depth):
    params = take_layer(layers, i)
    body = lambda block, state, i=i: _layer(
      block, state, lambda s, row: step(s, row, i)
    )
    call: Any = block.apply
    state = call({'params': params}, state, method=body)
  return state


def _layer(
  block: Block,
  state: learned_rates.Masked,
  step: Callable[[learned_rates.Masked, Array], learned_rates.Masked],
) -> learned_rates.Masked:
  """One layer by its parts."""
  x = state.features
  q, k, v = block.attn.project(block.pre_attention(x, {}))
  logits = jnp.einsum(
    'bane,bame->banm', q, k, preferred_element_type=jnp.float32
  )
  logits = logits * block.attn.logit_scale
  logits = logits + jnp.log(state.mass)[:, None, None]
  weights = learned_rates.policy_softmax(logits, state.mask)  # [B, A, N, N]
  heads = jnp.matmul(weights.astype(v.dtype), v)
  x = block.post_attention(x, block.attn.output(heads), {})
  state = dataclasses.replace(state, features=x)
  state = step(state, weights[:, :, 0].mean(axis=1))
  return dataclasses.replace(state, features=block.feed(state.features, {}))
