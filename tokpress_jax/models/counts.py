"""Tokens and FLOPs of a ViT under a plan, without running anything."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tokpress_jax.models import sites
from tokpress_jax.models.vit_config import ViTConfig
from tokpress_jax.pruners import flops


@functools.cache
def token_counts(
  config: ViTConfig, plan: sites.Plan = ()
) -> tuple[tuple[int, int], ...]:
  """Token slots of each layer under a plan.

  Args:
    config: of the ViT.
    plan: (site, pruner) pairs.

  Returns:
    (slots in the attention, slots in the MLP) of each layer.
  """
  module = config.build()
  size = (1, config.image_size, config.image_size, config.channels)

  def run():
    images, key = jnp.zeros(size), jax.random.key(0)
    variables = module.init(key, images)
    return module.apply(variables, images, plan=plan, rng=key)

  out = jax.eval_shape(run)
  sizes = [r.index.shape[1] for r in out.reductions]
  # The last at each site.
  after: dict[str, int] = dict(zip(out.sites, sizes, strict=True))
  slots = after.get('embed', config.num_tokens)
  counts = []
  for i in range(config.depth):
    inner = after.get(f'block_{i}.after_attention', slots)
    counts.append((slots, inner))
    slots = after.get(f'block_{i}.after_mlp', inner)
  return tuple(counts)


def model_flops(config: ViTConfig, plan: sites.Plan = ()) -> int:
  """FLOPs of one image by the formula of `pruners.flops`."""
  return flops.model_flops(
    token_counts(config, plan),
    width=config.width,
    hidden=config.shape.hidden,
  )
