"""Released weights of LLaVA's projector, which M3 pools behind.

LLaVA-1.5 and LLaVolta have the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.m3 import M3ProjectorConfig

RULES = compressor_keys.mlp('mm_projector', 'mlp')


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes, in which the grid does not show.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  first = 'mm_projector.0.weight'
  keymap.require(shapes, first)
  out, width = shapes[first]
  return M3ProjectorConfig(width=width, out=out)


def released_config() -> Any:
  """The released projector of either M3, of 7B."""
  return M3ProjectorConfig()


expected = compressor_keys.expected
