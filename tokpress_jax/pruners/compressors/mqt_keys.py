"""Released weights of MQT's resampler, `query_abstractor` in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import Rule, norm
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.mqt import MQTConfig

_OWN = r'query_abstractor\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(rf'{_OWN}query', 'params/query'),
  *compressor_keys.attention(rf'{_OWN}attn', 'attn'),
  *norm(rf'{_OWN}ln_q', 'norm_q'),
  *norm(rf'{_OWN}ln_k', 'norm_k'),
  *norm(rf'{_OWN}ln_v', 'norm_v'),
  Rule(rf'{_OWN}proj', 'params/proj/kernel'),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes, in which grid and heads do not show; there
      are 16 of these, whatever the width.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  query, out = 'query_abstractor.query', 'query_abstractor.proj'
  keymap.require(shapes, query, out)
  queries, width = shapes[query]
  side = compressor_keys.side_of(queries)
  return MQTConfig(side=side, width=width, out=shapes[out][1])


def released_config() -> Any:
  """The released resampler, of 7B."""
  return MQTConfig()


prepare = compressor_keys.prepare
expected = compressor_keys.expected
