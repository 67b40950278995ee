"""`tokpress prune MODEL IMAGE --pruner tome --keep 0.5 --out FILE.png`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tyro

from tokpress_jax import registry
from tokpress_jax.cli import common
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import images as images_lib
from tokpress_jax.types import Ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Show which patches of an image a pruner keeps inside a classifier.

  Attributes:
    model: A classifier: model directory, work directory or hub name.
    image: An image file.
    pruner: A name of `tokpress list pruners`.
    keep: The fraction of patches to keep, or with --tokens their number.
    tokens: The number of patches to keep, instead of a fraction.
    sites: Where the pruner acts; by default after the attention of a block
      in the first half.
    seed: For pruners that draw.
    out: The picture: the image, then what is left after each site.
    fit: How the image becomes square: crop, pad or resize.
    scale: Enlargement of the picture; by default to about 256 pixels.
  """

  model: tyro.conf.Positional[str]
  image: tyro.conf.Positional[str]
  pruner: str = 'top_attention'
  keep: float = 0.5
  tokens: int | None = None
  sites: tuple[str, ...] = ()
  seed: int = 0
  out: str = 'pruned.png'
  fit: images_lib.Policy = 'crop'
  scale: int | None = None


def main(argv: Sequence[str]) -> None:
  """Writes the picture and prints how many tokens are left."""
  from tokpress_jax.viz import pruning

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress prune')
  pruners = [entry.name for entry in registry.entries('pruner')]
  if flags.pruner not in pruners:
    raise UserError(
      f'There is no pruner {flags.pruner!r}. '
      f'{did_you_mean(flags.pruner, pruners)}'
    )
  model = common.load(flags.model, 'model')
  config = model.module.config
  patches = config.grid**2
  if flags.tokens is not None and not 0 < flags.tokens <= patches:
    raise UserError(
      f'--tokens is {flags.tokens}; this model has {patches} patches, so '
      f'expected 1 to {patches}.'
    )
  budget = Ratio(ratio=flags.keep) if flags.tokens is None else flags.tokens
  pruner = registry.resolve(flags.pruner)(budget=budget)
  sites = flags.sites or (f'block_{(config.depth - 1) // 2}.after_attention',)
  plan = tuple((site, pruner) for site in sites)
  squares, _ = common.read_squares(
    common.find_images([flags.image]), config, flags.fit
  )

  @jax.jit
  def run(model, pixels, rng):
    images = images_lib.to_float(pixels)
    return model(images, plan=plan, rng=rng), model(images, plan=())

  key = jax.random.key(flags.seed)
  pruned, whole = jax.device_get(run(model, squares[:1], key))
  scale = flags.scale or max(1, 256 // config.image_size)
  image = squares[0].repeat(scale, axis=0).repeat(scale, axis=1)
  picture = pruning.draw_reductions(
    np.broadcast_to(image, (*image.shape[:2], 3)).copy(),
    pruned.reductions,
    grid=(config.grid, config.grid),
    leading=config.num_special,
    panels=len(sites),
  )
  common.write_png(pathlib.Path(flags.out), picture)
  for site, reduction in zip(pruned.sites, pruned.reductions, strict=True):
    print(f'{site}: {int(reduction.valid[0].sum())} tokens')
  if not config.classes:
    print(flags.out)
    return
  print(
    f'class {int(whole.logits[0].argmax())} with all tokens, '
    f'{int(pruned.logits[0].argmax())} after pruning: {flags.out}'
  )
