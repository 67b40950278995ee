"""A narrow ConvNeXt and weights for it with torchvision's names, redrawn."""

import functools

import jax
import jax.numpy as jnp
from redraw import redraw

from tokpress_jax.losses import ConvNeXt

DEPTHS, WIDTHS = (1, 2, 3, 1), (8, 12, 16, 24)
NETWORK = ConvNeXt(depths=DEPTHS, widths=WIDTHS)


def shapes():
  """Torchvision's names to shapes."""
  found = {}

  def layer(name, out, *inputs):
    found[f'{name}.weight'] = (out, *inputs)
    found[f'{name}.bias'] = (out,)

  layer('features.0.0', WIDTHS[0], 3, 4, 4)
  layer('features.0.1', WIDTHS[0])
  for i, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
    for j in range(depth):
      block = f'features.{2 * i + 1}.{j}'
      layer(f'{block}.block.0', width, 1, 7, 7)
      layer(f'{block}.block.2', width)
      layer(f'{block}.block.3', 4 * width, width)
      layer(f'{block}.block.5', width, 4 * width)
      found[f'{block}.layer_scale'] = (width, 1, 1)
    if i:
      layer(f'features.{2 * i}.0', WIDTHS[i - 1])
      layer(f'features.{2 * i}.1', width, WIDTHS[i - 1], 2, 2)
  layer('classifier.0', WIDTHS[-1])
  layer('classifier.2', 1000, WIDTHS[-1])
  return found


@functools.cache
def released():
  """Every tensor, so that each matters: a layer's scale is about 1 here."""
  return redraw(shapes(), rules=(('layer_scale', 5, 0),))


def expected():
  """The shapes of our variables."""
  image = jnp.zeros((1, 224, 224, 3))
  return jax.eval_shape(NETWORK.init, jax.random.key(0), image, image)
