"""How differently a classifier sees two images: ConvNeXt-S's logits.

The perceptual loss of TiTok's second stage and, beside LPIPS, of TA-TiTok
(bytedance/1d-tokenizer, `modeling/modules/perceptual_loss.py`, "convnext_s"):
both images are resized to 224 x 224 pixels, and the 1,000 logits of Liu et al.,
"A ConvNet for the 2020s" (ConvNeXt, arXiv 2201.03545), the small one, are
compared by their mean squared difference.

Dimension letters: B batch, H rows, W columns, C channels, L blocks of a stage,
D features.

The weights are torchvision's, of ImageNet's 1,000 classes:
https://download.pytorch.org/models/convnext_small-0c510722.pth
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.nn.resize import resize

Array = jax.Array

SIZE = 224  # pixels a side, as it was trained
CLASSES = 1000
# Of ImageNet, for images in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_EPS = 1e-6


def _layer(
  source: str,
  target: str,
  kind: str,
  transform: keymap.Transform = keymap.SAME,
  row: str = '',
) -> tuple[keymap.Rule, keymap.Rule]:
  """Weight and bias of a layer."""
  return (
    keymap.Rule(
      rf'{source}\.weight', f'params/{target}/{kind}{row}', transform
    ),
    keymap.Rule(rf'{source}\.bias', f'params/{target}/bias{row}'),
  )


def _stage(i: int) -> tuple[keymap.Rule, ...]:
  """A stage, which torchvision counts as 2 i + 1."""
  block = rf'features\.{2 * i + 1}\.(\d+)'
  inside = lambda place, name, kind, transform: _layer(
    rf'{block}\.block\.{place}', f'stage_{i}/{name}', kind, transform, r'[\1]'
  )
  return (
    *inside(0, 'depthwise', 'kernel', keymap.CONV),
    *inside(2, 'norm', 'scale', keymap.SAME),
    *inside(3, 'fc1', 'kernel', keymap.LINEAR),
    *inside(5, 'fc2', 'kernel', keymap.LINEAR),
    keymap.Rule(
      rf'{block}\.layer_scale',
      rf'params/stage_{i}/layer_scale[\1]',
      keymap.reshape((-1, 1, 1), (-1,)),
    ),
  )


def _half(i: int) -> tuple[keymap.Rule, ...]:
  """What halves the map before stage i + 1."""
  place = rf'features\.{2 * i + 2}'
  return (
    *_layer(rf'{place}\.0', f'half_norm_{i}', 'scale'),
    *_layer(rf'{place}\.1', f'half_{i}', 'kernel', keymap.CONV),
  )


RULES = (
  *_layer(r'features\.0\.0', 'stem', 'kernel', keymap.CONV),
  *_layer(r'features\.0\.1', 'stem_norm', 'scale'),
  *(rule for i in range(4) for rule in _stage(i)),
  *(rule for i in range(3) for rule in _half(i)),
  *_layer(r'classifier\.0', 'norm', 'scale'),
  *_layer(r'classifier\.2', 'logits', 'kernel', keymap.LINEAR),
)


class ConvNeXt(linen.Module):
  """The distance, with its network's weights; the defaults are ConvNeXt-S's.

  Attributes:
    depths: L of each stage.
    widths: D of each stage.
    dtype: inside convolutions and products; norms are float32 inside.
  """

  depths: tuple[int, ...] = (3, 3, 27, 3)
  widths: tuple[int, ...] = (96, 192, 384, 768)
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    conv = lambda features, side: nn.Conv(
      features, side, stride=side, padding=((0, 0),) * 2, dtype=self.dtype
    )
    norm = lambda: nn.LayerNorm(eps=_EPS, dtype=self.dtype)
    self.stem, self.stem_norm = conv(self.widths[0], 4), norm()
    self.half = [conv(width, 2) for width in self.widths[1:]]
    self.half_norm = [norm() for _ in self.widths[1:]]
    self.stage = [
      linen.scan(
        _Block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        length=depth,
      )(width, dtype=self.dtype)
      for depth, width in zip(self.depths, self.widths, strict=True)
    ]
    self.norm = norm()
    self.logits = linen.Dense(CLASSES)

  def classify(self, images: Array) -> Array:
    """What it sees.

    Args:
      images: [B, H, W, C] in [-1, 1], of any size; one channel counts as three
        equal ones.

    Returns:
      float32 [B, 1000], logits of ImageNet's classes.

    Raises:
      ValueError: if the images have neither one nor three channels.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
      raise ValueError(
        'ConvNeXt takes images [B, H, W, C] of 1 or 3 channels; got '
        f'{images.shape}.'
      )
    x = (images.astype(jnp.float32) + 1) / 2
    x = resize(x, (SIZE, SIZE), method='antialiased')
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    x = (x - _wide(MEAN)) / _wide(STD)
    x = self.stem_norm(self.stem(x))
    for i, stage in enumerate(self.stage):
      if i:
        x = self.half[i - 1](self.half_norm[i - 1](x))
      x, _ = stage(x, None)
    x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return self.logits(self.norm(x).astype(jnp.float32))

  def __call__(self, x: Array, y: Array) -> Array:
    """The distance of each pair.

    Args:
      x: [B, H, W, C] in [-1, 1].
      y: of the same shape.

    Returns:
      float32 [B], the mean over classes of the squared difference.
    """
    if x.shape != y.shape:
      raise ValueError(f'Shapes differ: {x.shape} and {y.shape}.')
    difference = self.classify(x) - self.classify(y)
    return jnp.mean(jnp.square(difference), axis=-1)


class _Block(linen.Module):
  """Depthwise 7x7, norm, two products with GELU; scaled, and added."""

  width: int
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array, _: None) -> tuple[Array, None]:
    """Maps [B, H, W, D] to the same shape."""
    dense = lambda n, name: linen.Dense(n, dtype=self.dtype, name=name)
    y = _Depthwise(dtype=self.dtype, name='depthwise')(x)
    y = nn.LayerNorm(eps=_EPS, dtype=self.dtype, name='norm')(y)
    y = linen.gelu(dense(4 * self.width, 'fc1')(y), approximate=False)
    y = dense(self.width, 'fc2')(y)
    init = linen.initializers.constant(1e-6)
    scale = self.param('layer_scale', init, (self.width,))
    return x + y * scale.astype(self.dtype)[None, None, None], None


class _Depthwise(linen.Module):
  """A 7x7 convolution of each channel by itself."""

  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, D] to the same shape."""
    features = x.shape[-1]
    init = linen.initializers.truncated_normal(0.02)
    kernel = self.param('kernel', init, (7, 7, 1, features))
    bias = self.param('bias', linen.initializers.zeros, (features,))
    y = jax.lax.conv_general_dilated(
      x,
      kernel.astype(self.dtype),
      (1, 1),
      ((3, 3), (3, 3)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=features,
    )
    return y + bias.astype(self.dtype)[None, None, None]


def _wide(x: tuple[float, ...]) -> Array:
  return jnp.asarray(x, jnp.float32)[None, None, None]


def expected() -> Any:
  """The shapes of the variables."""
  image = jnp.zeros((1, SIZE, SIZE, 3))
  return jax.eval_shape(ConvNeXt().init, jax.random.key(0), image, image)


def load_convnext(path: str | os.PathLike[str]) -> Any:
  """Reads the weights.

  Args:
    path: a safetensors file, with our names or with torchvision's.

  Returns:
    Variables of `ConvNeXt`, as NumPy arrays.

  Raises:
    UserError: if there is no such file, or if it holds other weights.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f'there is no file {str(path)!r} with the weights of ConvNeXt-S. They '
      'are published as '
      'https://download.pytorch.org/models/convnext_small-0c510722.pth; make a '
      'safetensors file of them:\n  tokpress convert convnext '
      'convnext_small-0c510722.pth --out convnext.safetensors\n(To train '
      'without: --task.convnext-weight 0.)'
    )
  return keymap.read_network(path, RULES, expected())
