"""Released weights of MaskGIT's VQGAN: their names, and the config they fit.

The file `maskgit-vqgan-imagenet-f16-256.bin` of fun-research/TiTok. TiTok's
files hold the same decoder under another name: `decoder_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import quantize
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import CONV, SAME, Rule, Transform
from tokpress_jax.tokenizers.maskgit_vqgan import MaskGITVQGANConfig


def layer(
  source: str, target: str, kind: str = 'kernel', transform: Transform = SAME
) -> tuple[Rule, Rule]:
  """Weight and bias of one layer; `kind` is what we call the weight."""
  return (
    Rule(rf'{source}\.weight', rf'params/{target}/{kind}', transform),
    Rule(rf'{source}\.bias', rf'params/{target}/bias'),
  )


def network_rules(source: str, target: str) -> tuple[Rule, ...]:
  """Rules of an encoder or decoder.

  Args:
    source: its released name, a regular expression without groups.
    target: ours.
  """
  level = rf'{source}\.(?:down|up)\.(\d+)\.block\.(\d+)'
  mid = rf'{source}\.mid\.(\d+)'
  rules: list[Rule] = []
  for block, ours, part in (
    (level, rf'{target}/level_\1/block_\2', r'\3'),
    (mid, rf'{target}/mid/block_\1', r'\2'),
    # MAGE's copy, that of KARL and ALIT, counts from 1.
    *(
      (rf'{source}\.mid\.block_{i + 1}', rf'{target}/mid/block_{i}', r'\1')
      for i in range(2)
    ),
  ):
    rules += layer(rf'{block}\.(norm[12])', f'{ours}/{part}', 'scale')
    rules += layer(rf'{block}\.(conv[12])', f'{ours}/{part}', transform=CONV)
    rules += layer(
      rf'{block}\.nin_shortcut', f'{ours}/shortcut', transform=CONV
    )
  return (
    *rules,
    *layer(rf'{source}\.(conv_in|conv_out)', rf'{target}/\1', transform=CONV),
    *layer(
      rf'{source}\.up\.(\d+)\.upsample(?:_conv|\.conv)',
      rf'{target}/up_\1',
      transform=CONV,
    ),
    *layer(rf'{source}\.norm_out', f'{target}/norm_out', 'scale'),
  )


RULES = (
  Rule(r'quantize\.embedding\.weight', 'params/quantizer/codebook'),
  *network_rules('encoder', 'encoder'),
  *network_rules('decoder', 'decoder'),
)


def sizes_of(
  shapes: Mapping[str, tuple[int, ...]],
  decoder: str = 'decoder',
  codebook: str = 'quantize.embedding.weight',
) -> dict[str, Any]:
  """The fields of the config that a decoder's tensors say.

  Args:
    shapes: released names to shapes.
    decoder: its released name.
    codebook: that of the codebook.
  """
  keymap.require(shapes, codebook, f'{decoder}.conv_out.weight')
  codes, features = shapes[codebook]
  channels, width = shapes[f'{decoder}.conv_out.weight'][:2]
  name = decoder.replace('.', r'\.')
  outputs = keymap.indexed(
    shapes, rf'{name}\.up\.(\d+)\.block\.0\.conv1\.weight'
  )
  mid = keymap.indexed(shapes, rf'{name}\.mid\.(?:block_)?(\d+)\.conv1\.weight')
  return {
    'channels': channels,
    'patch': 2 ** (len(outputs) - 1),
    'width': width,
    'multipliers': tuple(s[0] // width for s in outputs),
    'blocks': len(mid),
    'quantizer': quantize.VQConfig(codebook_size=codes, dim=features),
  }


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> MaskGITVQGANConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.

  Returns:
    The config, for images of 16 x 16 tokens (the weights do not know).

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(shapes, 'encoder.conv_in.weight')
  sizes = sizes_of(shapes)
  return MaskGITVQGANConfig(image_size=16 * sizes['patch'], **sizes)


def released_config() -> MaskGITVQGANConfig:
  """The released tokenizer."""
  return MaskGITVQGANConfig()


def expected(config: MaskGITVQGANConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
