"""Released weights of Ristretto's projector, which `TokenFLEX` is built as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import dense, norm
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.token_flex import TokenFLEXConfig

_OWN = r'projector\.mlp\.'

RULES = (
  *norm(rf'{_OWN}layernorm', 'norm'),
  *dense(rf'{_OWN}f1', 'gate'),
  *dense(rf'{_OWN}f2', 'value'),
  *dense(rf'{_OWN}g', 'out_proj'),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes, in which the grid does not show.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  inner, out = 'projector.mlp.f1.weight', 'projector.mlp.g.weight'
  keymap.require(shapes, inner, out)
  hidden, width = shapes[inner]
  return TokenFLEXConfig(width=width, out=shapes[out][0], ratio=hidden // width)


expected = compressor_keys.expected
