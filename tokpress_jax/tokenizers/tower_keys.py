"""Names of what TiTok's, KARL's and ALIT's released weights share.

Their transformers have the blocks of OpenCLIP; tables and patches differ in
shape only.
"""

from __future__ import annotations

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, Transform

# A 1x1 convolution of torch as a dense kernel.
POINT = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
# A row [1, 1, D] of a table.
ROW = Transform(lambda x: x[0], lambda x: x[None])


def table(source: str, target: str, *transform: Transform) -> Rule:
  """A table of positions or tokens."""
  return Rule(source, f'params/{target}/table', *transform)


BOTH = r'(encoder|decoder)'
_STACK = r'params/\1/stack/layers'


def _block(
  source: str, target: str, kind: str, transform: Transform, point: str = r'\.'
) -> tuple[Rule, Rule]:
  """Weight and bias of one layer of every block."""
  name = rf'{BOTH}\.transformer\.(\d+)\.{source}{point}'
  return (
    Rule(rf'{name}weight', rf'{_STACK}/{target}/{kind}[\2]', transform),
    Rule(rf'{name}bias', rf'{_STACK}/{target}/bias[\2]'),
  )


BLOCKS = (
  *_block('ln_1', 'norm1', 'scale', keymap.SAME),
  *_block('ln_2', 'norm2', 'scale', keymap.SAME),
  *_block('attn.in_proj', 'attn/qkv', 'kernel', LINEAR, '_'),
  *_block('attn.out_proj', 'attn/proj', 'kernel', LINEAR),
  *_block('mlp.c_fc', 'mlp/fc1', 'kernel', LINEAR),
  *_block('mlp.c_proj', 'mlp/fc2', 'kernel', LINEAR),
)
