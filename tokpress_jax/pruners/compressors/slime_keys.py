"""Released weights of SliME's resampler of crops, and of the layers behind it.

What the whole image goes through, a mixture of these layers and of a second
resampler (`mm_projector.attn`), is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import Rule, norm
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.slime import SliMEResamplerConfig

_OWN = r'sampler\.post_qformer\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(rf'{_OWN}query', 'params/query'),
  *compressor_keys.attention(rf'{_OWN}attn', 'attn'),
  *norm(rf'{_OWN}ln_q', 'norm_q'),
  *norm(rf'{_OWN}ln_kv', 'norm_x'),
  *norm(rf'{_OWN}ln_post', 'norm_out'),
  *compressor_keys.mlp(r'mm_projector(?:\.projection)?', 'mlp'),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes, in which the grid does not show.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  query = 'sampler.post_qformer.query'
  keymap.require(shapes, query)
  queries, width = shapes[query]
  first = ('mm_projector.projection.0.weight', 'mm_projector.0.weight')
  out = next((shapes[name][0] for name in first if name in shapes), None)
  return SliMEResamplerConfig(
    side=compressor_keys.side_of(queries),
    width=width,
    heads=compressor_keys.heads_of(width),
    out=out,
  )


def released_config(out: int) -> Any:
  """The released resampler before a language model of F features."""
  return SliMEResamplerConfig(out=out)


prepare = compressor_keys.prepare
expected = compressor_keys.expected
