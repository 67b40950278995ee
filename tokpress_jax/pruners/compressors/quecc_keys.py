"""Weights of QueCC with the official names; none are released.

The compressor is the first of the layers of `mm_projector`; the linear ones
behind it are taken too if they are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import CONV, Rule, dense, norm
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.quecc import QueCCConfig

_OWN = r'mm_projector\.0\.'

# Of the names that `prepare` gives.
RULES = (
  *compressor_keys.mlp(rf'{_OWN}q_proj', 'q'),
  *compressor_keys.mlp(rf'{_OWN}k_proj', 'k'),
  *compressor_keys.mlp(rf'{_OWN}v_proj', 'v'),
  *norm(rf'{_OWN}q_proj\.3', 'norm_q'),
  *norm(rf'{_OWN}k_proj\.3', 'norm_k'),
  *norm(rf'{_OWN}v_proj\.3', 'norm_v'),
  *dense(rf'{_OWN}text_projection\.0', 'text'),
  *norm(rf'{_OWN}text_projection\.1', 'norm_text'),
  Rule(rf'{_OWN}q_downsample\.weight', 'params/down/kernel', CONV),
  Rule(rf'{_OWN}q_downsample\.bias', 'params/down/bias'),
  *compressor_keys.attention(rf'{_OWN}clip_attn', 'attn'),
  *compressor_keys.mlp('mm_projector', 'mlp', first=1),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that official tensors fit.

  Args:
    shapes: official names to shapes, in which grid and heads do not show; there
      are 8 of these, whatever the width.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  down = 'mm_projector.0.q_downsample.weight'
  joined = 'mm_projector.0.k_proj.0.weight'
  text = 'mm_projector.0.text_projection.0.weight'
  keymap.require(shapes, down, joined, text)
  width, _, stride, _ = shapes[down]
  out = shapes.get('mm_projector.1.weight')
  return QueCCConfig(
    stride=stride,
    width=width,
    joined=shapes[joined][1],
    text=shapes[text][1],
    out=None if out is None else out[0],
  )


prepare = compressor_keys.prepare
expected = compressor_keys.expected
