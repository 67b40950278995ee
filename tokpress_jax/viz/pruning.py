"""Pictures of what a pruner did: kept patches, groups of merged ones, counts.

Dimension letters: H rows, W columns, h, w patches down and across, N = h w.

Pictures of one image are uint8 [H, W, 3]; a sheet of them is transparent with
labels in mid-grey, one file for light and dark (see `viz.sheets`).
"""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.types import OneHot, Reduction
from tokpress_jax.viz import sheets

_BAR = (11, 98, 168, 255)
_BAR_PALE = (11, 98, 168, 90)
_GREY = (125, 125, 125, 255)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patches:
  """Where the patches of one image went.

  Attributes:
    slots: int [N], the slot that each patch ended in; -1 if it was dropped.
    shares: float [N], the part of the patch that went there: 1, unless the
      reduction is soft and the slot is only the one that took the most; 0 if it
      was dropped.
  """

  slots: np.ndarray
  shares: np.ndarray


def follow_patches(
  reductions: Sequence[Reduction], *, row: int = 0, leading: int = 0
) -> Patches:
  """Follows one row's patches through reductions.

  Args:
    reductions: of a host, in order.
    row: of the batch.
    leading: tokens before the first patch (a class token).

  Returns:
    Where they are at the end. Through a soft reduction a patch goes into many
    slots; the one with most of its weight is given.

  Raises:
    ValueError: if there is no reduction.
  """
  if not reductions:
    raise ValueError('nothing to draw: no reductions, so no token was pruned')
  targets = [
    r.assign.target for r in reductions if isinstance(r.assign, OneHot)
  ]
  if len(targets) == len(reductions):
    slots = np.arange(targets[0].shape[1])
    for target in (np.asarray(t)[row] for t in targets):
      slots = np.where(slots < 0, -1, target[np.maximum(slots, 0)])
    return Patches(
      slots=slots[leading:], shares=(slots >= 0)[leading:].astype(np.float32)
    )
  matrix = _matrix(reductions[0], row)
  for r in reductions[1:]:
    matrix = _matrix(r, row) @ matrix
  matrix = matrix[:, leading:]
  total = matrix.sum(axis=0)
  found = total > 0
  return Patches(
    slots=np.where(found, matrix.argmax(axis=0), -1),
    shares=matrix.max(axis=0) / np.where(found, total, 1),
  )


def _matrix(reduction: Reduction, row: int) -> np.ndarray:
  """One row's matrix, float32 [K, N]."""
  one = dataclasses.replace(
    reduction,
    index=reduction.index[row : row + 1],
    assign=jax.tree.map(lambda x: x[row : row + 1], reduction.assign),
  )
  return np.asarray(reduction_lib.dense(one))[0]


def draw_kept(
  image: np.ndarray, kept: np.ndarray, *, fade: float = 0.85
) -> np.ndarray:
  """Shows the kept patches, the others faded to white.

  Args:
    image: uint8 [H, W, 3].
    kept: bool [h, w].
    fade: how far dropped patches go to white.

  Returns:
    uint8 [H, W, 3].
  """
  shown = to_pixels(kept, image)[..., None]
  pale = image + (255 - image.astype(np.float32)) * fade
  return np.where(shown, image, pale).astype(np.uint8)


def draw_groups(
  image: np.ndarray,
  slots: np.ndarray,
  *,
  line: int | None = None,
  fade: float = 0.85,
) -> np.ndarray:
  """Paints each group of merged patches in its mean colour, with an outline.

  The outline has a colour of the group's own, so that parts which do not touch
  are seen to belong together. A patch alone in its slot is shown as it is;
  dropped patches are faded.

  Args:
    image: uint8 [H, W, 3].
    slots: int [h, w], the slot of each patch, -1 if dropped.
    line: width of the outlines in pixels; by default by the patches' size.
    fade: see `draw_kept`.

  Returns:
    uint8 [H, W, 3].
  """
  where = to_pixels(slots, image)
  if line is None:
    line = max(1, image.shape[0] // slots.shape[0] // 12)
  out = draw_kept(image, slots >= 0, fade=fade)
  edge = edges(where, line)
  found, first, size = np.unique(slots, return_index=True, return_counts=True)
  for slot, start in zip(found[size > 1], first[size > 1], strict=True):
    if slot < 0:
      continue
    inside = where == slot
    mean = image[inside].mean(axis=0).round()
    out[inside] = mean
    # By the first patch, so that most groups keep their colour over layers.
    out[inside & edge] = outline(int(start), mean)
  return out


def draw_tokens(image: np.ndarray, slots: np.ndarray) -> np.ndarray:
  """Groups if there are any, else the kept patches.

  Args:
    image: uint8 [H, W, 3].
    slots: int [h, w], the slot of each patch, -1 if dropped.

  Returns:
    uint8 [H, W, 3].
  """
  if np.bincount(slots[slots >= 0], minlength=1).max() > 1:
    return draw_groups(image, slots)
  return draw_kept(image, slots >= 0)


def pick_panels(number: int, panels: int) -> tuple[int, ...]:
  """How many reductions to show the result of, evenly, all of them included.

  Args:
    number: reductions.
    panels: pictures at most.

  Returns:
    Rising numbers of reductions, each at least 1.
  """
  picks = {round((i + 1) * number / panels) for i in range(panels)}
  return tuple(sorted(picks - {0}))


def token_panels(
  image: np.ndarray,
  reductions: Sequence[Reduction],
  picks: Sequence[int],
  *,
  grid: tuple[int, int],
  row: int = 0,
  leading: int = 0,
) -> list[np.ndarray]:
  """Draws an image's tokens after some of the reductions.

  Args:
    image: uint8 [H, W, 3].
    reductions: of a host, in order.
    picks: numbers of reductions, see `pick_panels`.
    grid: (h, w).
    row: of the batch.
    leading: tokens before the first patch.

  Returns:
    A picture uint8 [H, W, 3] of each.

  Raises:
    ValueError: if the grid does not fit the reductions.
  """
  drawn = []
  for count in picks:
    slots = follow_patches(reductions[:count], row=row, leading=leading).slots
    if slots.size != grid[0] * grid[1]:
      raise ValueError(
        f'a grid of {grid} has {grid[0] * grid[1]} patches, the reductions '
        f'start from {slots.size}; check grid and leading={leading}'
      )
    drawn.append(draw_tokens(image, slots.reshape(grid)))
  return drawn


def draw_reductions(
  image: np.ndarray,
  reductions: Sequence[Reduction],
  *,
  grid: tuple[int, int],
  row: int = 0,
  leading: int = 0,
  panels: int = 4,
  gap: int = 8,
) -> np.ndarray:
  """A strip: the image, then its tokens after some of the reductions.

  Args:
    image: uint8 [H, W, 3].
    reductions: of a host, in order.
    grid: (h, w).
    row: of the batch.
    leading: tokens before the first patch.
    panels: how many reductions are shown, evenly spaced, the last included.
    gap: white pixels between panels.

  Returns:
    uint8 [H, W', 3].

  Raises:
    ValueError: if the grid does not fit the reductions.
  """
  picks = pick_panels(len(reductions), panels)
  strips = token_panels(
    image, reductions, picks, grid=grid, row=row, leading=leading
  )
  white = np.full((image.shape[0], gap, 3), 255, np.uint8)
  parts = [x for strip in (image, *strips) for x in (strip, white)][:-1]
  return np.concatenate(parts, axis=1)


def token_bars(
  counts: Sequence[tuple[int, int]], *, width: int, height: int = 120
) -> Image.Image:
  """Bars of the tokens in each layer.

  Args:
    counts: (tokens in the attention, tokens in the MLP) of each layer, see
      `models.token_counts`. A bar is as high as the first; its pale part is
      what leaves between attention and MLP.
    width: of the picture, in pixels.
    height: of the picture.

  Returns:
    An RGBA image with a transparent background.
  """
  out = Image.new('RGBA', (width, height), (0, 0, 0, 0))
  draw = ImageDraw.Draw(out)
  size = 12
  font = ImageFont.load_default(size)
  floor, room = height - size - 6, height - 2 * size - 12
  most = max(max(pair) for pair in counts)
  step = width / len(counts)
  # Numbers that would run into each other are left out, evenly.
  every = -(-(int(font.getlength(str(most))) + 4) // max(int(step), 1))
  for layer, (first, second) in enumerate(counts):
    left = round(layer * step) + max(1, round(step * 0.1))
    right = max(left, round((layer + 1) * step) - max(1, round(step * 0.1)) - 1)
    middle = (left + right) // 2
    tops = [floor - round(room * n / most) for n in (first, second)]
    draw.rectangle((left, tops[0], right, floor - 1), fill=_BAR_PALE)
    if second:
      draw.rectangle((left, tops[1], right, floor - 1), fill=_BAR)
    if layer % every == 0:
      draw.text((middle, tops[0] - 3), str(first), _GREY, font, anchor='mb')
      draw.text((middle, floor + 4), str(layer), _GREY, font, anchor='mt')
  draw.line((0, floor, width, floor), fill=_GREY)
  return out


def pruned_sheet(
  rows: Sequence[Sequence[np.ndarray]],
  captions: Sequence[str],
  counts: Sequence[tuple[int, int]],
  *,
  lines: Sequence[str] = (),
  row_labels: Sequence[str] = (),
  cell: int = 224,
) -> Image.Image:
  """Images and their tokens, above the tokens in each layer.

  Args:
    rows: of each image, itself and its `token_panels`.
    captions: of the columns.
    counts: see `token_bars`.
    lines: of text below.
    row_labels: one per image, or none.
    cell: side of a picture.

  Returns:
    An RGBA image with a transparent background.
  """
  top = sheets.sheet(
    rows, row_labels=row_labels, column_labels=captions, cell=cell
  )
  size, gap = 13, 10
  font = ImageFont.load_default(size)
  title = 'tokens that enter each layer; dark: those left for its MLP'
  width = max(top.width, int(font.getlength(title)) + 1)
  shown = [
    piece
    for line in lines
    for piece in sheets.wrap(line, width, size).splitlines()
  ]
  bars = token_bars(counts, width=width)
  below = gap + size + 6 + bars.height + gap + (size + 5) * len(shown)
  out = Image.new('RGBA', (width, top.height + below), (0, 0, 0, 0))
  out.paste(top, (0, 0))
  draw = ImageDraw.Draw(out)
  y = top.height + gap
  draw.text((0, y), title, _GREY, font)
  y += size + 6
  out.paste(bars, (0, y))
  y += bars.height + gap
  for line in shown:
    draw.text((0, y), line, _GREY, font)
    y += size + 5
  return out


def outline(number: int, fill: np.ndarray) -> np.ndarray:
  """The colour of an outline, far from those of near numbers and the fill.

  Args:
    number: of the group.
    fill: [3], 0 to 255, what it surrounds.

  Returns:
    float [3], 0 to 255.
  """
  hue = (0.08 + number * 0.6180339887) % 1  # steps of the golden ratio
  dark = fill @ (0.299, 0.587, 0.114) < 150
  value = 1.0 if dark else 0.62
  return np.round(np.multiply(colorsys.hsv_to_rgb(hue, 0.85, value), 255))


def edges(where: np.ndarray, line: int) -> np.ndarray:
  """Finds pixels near another label, or near the border.

  Args:
    where: int [H, W], the label of each pixel.
    line: how near, in pixels.

  Returns:
    bool [H, W].
  """
  padded = np.pad(where, line, constant_values=-2)
  height, width = where.shape
  edge = np.zeros(where.shape, bool)
  for y in range(2 * line + 1):
    for x in range(2 * line + 1):
      edge |= padded[y : y + height, x : x + width] != where
  return edge


def to_pixels(values: np.ndarray, image: np.ndarray) -> np.ndarray:
  """Spreads values over the pixels of their patches.

  Args:
    values: [h, w], integers or bool.
    image: [H, W, ...], of which the size is taken.

  Returns:
    [H, W] of the same dtype.
  """
  height, width = image.shape[:2]
  picture = Image.fromarray(np.asarray(values, np.int32))
  resized = picture.resize((width, height), Image.Resampling.NEAREST)
  return np.asarray(resized).astype(values.dtype)
