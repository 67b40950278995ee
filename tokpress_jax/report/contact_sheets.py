"""What methods before a language model keep of the same images.

The tower runs once for all of them, and each method then plans on what it was
published for; see `report.standing`.

Dimension letters: M images, N token slots, H rows, W columns, C channels, h, w
patches down and across, P features that images share with texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tokpress_jax import viz
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm
from tokpress_jax.report import standing
from tokpress_jax.types import Loaded, Reduction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
  """What one method keeps of M images.

  Attributes:
    name: of the method.
    guided: whether it read the texts.
    pruner: the method.
    reduction: over all images, on the host.
    leading: slots before the first patch.
    crops: rows and columns of crops, whose patches follow the thumbnail's; (1,
      1) if the method reads the image as it is.
    note: what stands for a text where it reads one and there is none.
  """

  name: str
  guided: bool
  pruner: Any
  reduction: Reduction
  leading: int
  crops: tuple[int, int] = (1, 1)
  note: str = ''

  @property
  def label(self) -> str:
    """The name, and whether a text guided."""
    return f'{self.name} + text' if self.guided else self.name

  def slots(self, row: int) -> np.ndarray:
    """Patches of an image that stand for a token that is left, rising."""
    index = np.asarray(self.reduction.index)[row]
    index = np.sort(index[np.asarray(self.reduction.valid)[row]])
    return index[index >= self.leading] - self.leading

  def panel(self, image: np.ndarray, row: int) -> np.ndarray:
    """Draws what is left of one image.

    Args:
      image: uint8 [S, S, 3].
      row: its number.

    Returns:
      uint8 [S, S, 3].
    """
    patches = viz.follow_patches(
      [self.reduction], row=row, leading=self.leading
    ).slots
    alone = np.zeros(patches.shape, bool)
    alone[self.slots(row)] = True
    if self.crops == (1, 1):
      side = round(len(patches) ** 0.5)
      shape = (side, side)
      return viz.draw_choice(
        image, patches.reshape(shape), alone.reshape(shape)
      )
    return viz.draw_crops(image, alone, crops=self.crops)


def keep(
  model: Loaded,
  images: Any,
  pruners: Mapping[str, Any],
  *,
  texts: Any = None,
  detailed: Any = None,
  layer: int = -2,
  seed: int = 0,
  batch: int = 16,
  told: Callable[[str], None] = lambda text: None,
) -> list[Kept]:
  """Lets methods choose among the patches of the same images.

  With texts, methods that read one come twice, without and with it: Recoverable
  and IDPruner score by the cosine of each projected patch to the projected
  text; CATP and DART, which compare a text with the tokens themselves, choose
  among the projected patches, and DART has the text as one word.

  Args:
    model: a ViT, SigLIP's or CLIP's image tower.
    images: float [M, H, W, C] in [-1, 1].
    pruners: name to a method before a language model, such as
      `before_llm.at_budget` makes.
    texts: float [M, P], the text encoder's `pooled` of a text for each image.
    detailed: float [M, 2 H, 2 W, C], the same images for the crops of HiRED and
      GlobalCom2; `images`, enlarged, if None.
    layer: whose output is read.
    seed: of methods that draw.
    batch: images in one call.
    told: is told what is compiled next.

  Returns:
    One for each method; of those that read texts another one with them.

  Raises:
    UserError: if a method needs what the tower does not give, or the texts do
      not fit.
  """
  config = model.module.config
  count = len(images)
  with_texts = texts is not None
  standing.check(pruners, config, layer=layer, texts=with_texts)
  if with_texts and np.shape(texts) != (count, config.features):
    raise UserError(
      f'texts of these images are [{count}, {config.features}], got '
      f'{np.shape(texts)}; encode one for each image, by the encoder that was '
      'trained with this tower'
    )

  @jax.jit
  def see(model: Loaded, images: Any, detailed: Any, rng: Any) -> Any:
    return standing.observe(
      model,
      images,
      tuple(pruners.values()),
      layer=layer,
      texts=with_texts,
      rng=rng,
      detailed=detailed,
    )

  jobs = {}
  for name, pruner in pruners.items():
    jobs[name, False] = pruner
    if with_texts and before_llm.reads_text(pruner):
      jobs[name, True] = pruner
  plans = {
    key: jax.jit(lambda seen, text, p=pruner: standing.plan(p, seen, text))
    for key, pruner in jobs.items()
  }
  parts: dict[Any, list[Reduction]] = {key: [] for key in jobs}
  size = min(batch, count)
  for start in range(0, count, size):
    # The last batch is filled up: one program of each.
    at = np.minimum(np.arange(start, start + size), count - 1)
    fold = lambda i: jax.random.fold_in(jax.random.key(seed), i)
    if not start:
      told('the tower')
    seen = see(
      model,
      np.asarray(images, np.float32)[at],
      None if detailed is None else np.asarray(detailed, np.float32)[at],
      jax.vmap(fold)(jnp.asarray(at)),
    )
    for key, pruner in jobs.items():
      if not start:
        told(key[0])
      text = jnp.asarray(texts)[at] if key[1] else None
      try:
        found = plans[key](seen[standing.view_of(pruner)], text)
      except UserError as error:
        raise UserError(f'{key[0]}: {error}') from error
      own = min(size, count - start)
      host = jax.device_get(dataclasses.replace(found, state=None))
      parts[key].append(jax.tree.map(lambda x, own=own: x[:own], host))
  return [
    Kept(
      name=name,
      guided=guided,
      pruner=pruner,
      reduction=jax.tree.map(
        lambda *x: np.concatenate(x), *parts[name, guided]
      ),
      leading=standing.leading(pruner, config, guided=guided),
      crops=standing.CROPS if standing.view_of(pruner) == 'crops' else (1, 1),
      note='' if guided else standing.note_of(pruner),
    )
    for (name, guided), pruner in jobs.items()
  ]


def contact_sheet(
  pictures: Sequence[np.ndarray],
  kept: Sequence[Kept],
  *,
  rows: Sequence[int] | None = None,
  names: Sequence[str] = (),
  texts: Sequence[str] = (),
  cell: int = 112,
) -> Image.Image:
  """Draws what each method keeps of each image.

  Kept patches are as they are, dropped ones pale. A token that others were
  merged into has an outline, and they have its colour.

  Args:
    pictures: uint8 [S, S, 3] of each image, what the tower sees.
    kept: of `keep`.
    rows: the numbers that the images have there; all in order if None.
    names: of the images, or none.
    texts: that guided, one for each image, or none.
    cell: side of a picture, in pixels.

  Returns:
    A picture with images down and methods across, or the other way round where
    there are more methods than images.
  """
  rows = range(len(pictures)) if rows is None else rows
  return viz.contact_sheet(
    pictures,
    [
      [one.panel(image, row) for one in kept]
      for row, image in zip(rows, pictures, strict=True)
    ],
    [one.label for one in kept],
    names=names,
    texts=texts,
    cell=cell,
  )
