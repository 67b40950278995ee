"""Accuracy of a classifier as a function of the tokens its pruners keep."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import pruners, types
from tokpress_jax.io import images as images_lib
from tokpress_jax.models import counts
from tokpress_jax.nn import resize as resize_lib
from tokpress_jax.report.images import ImageSet
from tokpress_jax.viz import pruning as picture_lib

Plan = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningRow:
  """One pruner at one budget.

  Attributes:
    pruner: its name.
    tokens: patches left at the end.
    flops: of one image, as a fraction of the unpruned model's.
    accuracy: on the test images.
  """

  pruner: str
  tokens: int
  flops: float
  accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningResult:
  """All pruners at all budgets.

  Attributes:
    rows: the measurements; the first is the model without a pruner.
    pictures: name of a pruner to uint8 strips [H, W, 3]: an image and what is
      left of it.
  """

  rows: tuple[PruningRow, ...]
  pictures: dict[str, np.ndarray]


def measure_pruners(
  model: types.Loaded, images: ImageSet, *, show: int = 5
) -> PruningResult:
  """Prunes a trained ViT off the shelf, at 3/4, 1/2 and 1/4 of its patches.

  Beside the pruners stand the two baselines that every table needs: tokens at
  random, and a smaller image (arXiv 2510.07143 found that it beats many
  pruners).

  Args:
    model: a ViT classifier.
    images: what it is measured on.
    show: how many images are drawn.

  Returns:
    The result.
  """
  config = model.module.config
  patches = config.grid**2
  full = counts.model_flops(config)
  rows = [
    PruningRow(
      pruner='none',
      tokens=patches,
      flops=1.0,
      accuracy=_accuracy(model, (), images),
    )
  ]
  pictures = {}
  half = max(patches // 2, 1)
  for part in (3, 2, 1):
    budget = max(patches * part // 4, 1)
    for name, plan in plans(config.depth, patches, budget).items():
      share = counts.model_flops(config, plan) / full
      score = _accuracy(model, plan, images)
      rows.append(
        PruningRow(pruner=name, tokens=budget, flops=share, accuracy=score)
      )
      if budget == half:
        pictures[name] = _picture(model, plan, images.test[:show])
  for grid in range(config.grid - 1, 0, -1):
    small = downsampled(model, grid * config.patch)
    size = (small.module.config.image_size,) * 2
    shrunk = resize_lib.resize(jnp.asarray(images.test), size, method='area')
    rows.append(
      PruningRow(
        pruner='smaller image',
        tokens=grid**2,
        flops=counts.model_flops(small.module.config) / full,
        accuracy=_accuracy(
          small, (), dataclasses.replace(images, test=np.asarray(shrunk))
        ),
      )
    )
  return PruningResult(rows=tuple(rows), pictures=pictures)


def plans(depth: int, patches: int, budget: int) -> dict[str, Plan]:
  """Plans that leave `budget` of the patches after the first layers.

  Args:
    depth: layers of the host.
    patches: without the class token.
    budget: patches to keep.

  Returns:
    Name to plan. Merging halves at most in one layer, so ToMe spreads over as
    many layers as it needs; the others act once, in the first of them.
  """
  first = min(depth - 1, 1)
  site = lambda i: f'block_{i}.after_attention'
  merges, left, layer = [], patches, first
  while left > budget and layer < depth:
    step = min(left - budget, (left + 1) // 2)
    merges.append(
      (site(layer), pruners.ToMe(budget=pruners.Remove(tokens=step)))
    )
    left, layer = left - step, layer + 1
  once = lambda pruner: ((site(first), pruner(budget=budget)),)
  return {
    'ToMe': tuple(merges),
    'top attention': once(pruners.TopAttention),
    'stride': once(pruners.Stride),
    'random': once(pruners.Random),
  }


def downsampled(model: types.Loaded, image_size: int) -> types.Loaded:
  """The same ViT for smaller images: its position table is shrunk.

  Args:
    model: a ViT with a class token or without.
    image_size: the new side, divisible by the patch.

  Returns:
    The model for images of that side.
  """
  config = model.module.config
  small = dataclasses.replace(config, image_size=image_size)
  params = dict(model.variables['params'])
  table = params['positions']['table']
  lead = config.num_tokens - config.grid**2
  grid = table[lead:].reshape(config.grid, config.grid, -1)
  grid = resize_lib.resize(grid, (small.grid, small.grid), method='bilinear')
  table = jnp.concatenate([table[:lead], grid.reshape(small.grid**2, -1)])
  params['positions'] = {'table': table}
  return types.Loaded(
    module=small.build(),
    variables={**model.variables, 'params': params},
    spec=model.spec,
  )


def _accuracy(model: types.Loaded, plan: Plan, images: ImageSet) -> float:
  run = jax.jit(
    lambda m, x, rng: jnp.argmax(m(x, plan=plan, rng=rng).logits, axis=-1)
  )
  guess = run(model, jnp.asarray(images.test), jax.random.key(0))
  return float(np.mean(np.asarray(guess) == images.test_labels))


def _picture(model: types.Loaded, plan: Plan, shown: np.ndarray) -> np.ndarray:
  """A row of images above what the plan leaves of each."""
  config = model.module.config
  out = jax.jit(lambda m, x, rng: m(x, plan=plan, rng=rng))(
    model, jnp.asarray(shown), jax.random.key(0)
  )
  scale = max(128 // config.image_size, 1)
  strips = []
  for row, image in enumerate(shown):
    pixels = images_lib.to_uint8(image)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = picture_lib.draw_reductions(
      pixels,
      out.reductions,
      grid=(config.grid, config.grid),
      row=row,
      leading=config.num_tokens - config.grid**2,
      panels=1,
    )
    strips += [strip, np.full((strip.shape[0], 16, 3), 255, np.uint8)]
  return np.concatenate(strips[:-1], axis=1)
