"""Sheets of pictures: small images in labelled rows and columns, as PNG.

H, W, C are an image's height, width and channels, n the images of a row. The
images are uint8, or floats in [-1, 1] as everywhere in the library; they are
enlarged without smoothing, so that a pixel stays a pixel. Everything around
them is transparent and the labels are mid-grey: one file for light and dark.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tokpress_jax.errors import UserError

_LABEL = (125, 125, 125, 255)
_TEXT = 13  # Height of the labels, in pixels.


def sheet(
  rows: Sequence[Any],
  *,
  row_labels: Sequence[str] = (),
  column_labels: Sequence[str] = (),
  cell: int = 64,
  gap: int = 4,
  size: int = _TEXT,
) -> Image.Image:
  """Lays out images in rows.

  Args:
    rows: Arrays `[n, H, W, C]`, or sequences of arrays `[H, W, C]`, with C 1
      or 3. Rows may differ in n, images in size.
    row_labels: One per row, or none; they may have several lines.
    column_labels: One per column, or none; see `wrap`.
    cell: Side in pixels of the square that each image is enlarged to fill.
    gap: Pixels between images.
    size: Height of the labels, in pixels.

  Returns:
    An RGBA image with a transparent background.
  """
  if not rows or not all(len(row) for row in rows):
    raise ValueError('A sheet needs at least one row, each with an image.')
  columns = max(len(row) for row in rows)
  for name, labels, count in (
    ('row_labels', row_labels, len(rows)),
    ('column_labels', column_labels, columns),
  ):
    if labels and len(labels) != count:
      raise ValueError(f'{len(labels)} {name} were given for {count}.')
  font = ImageFont.load_default(size)
  wide = lambda text: max(map(font.getlength, text.split('\n')))
  left = max((int(wide(t)) + 8 + size // 8 for t in row_labels), default=0)
  lines = max((t.count('\n') + 1 for t in column_labels), default=0)
  step = size + 5
  top = step * lines + 3 if lines else 0
  out = Image.new(
    'RGBA',
    (
      left + columns * (cell + gap) - gap,
      top + len(rows) * (cell + gap) - gap,
    ),
    (0, 0, 0, 0),
  )
  draw = ImageDraw.Draw(out)

  def write(text: str, x: int, middle: float, anchor: str) -> None:
    """Lines of text, centred on a height."""
    parts = text.split('\n')
    y = middle - step * (len(parts) - 1) / 2
    for i, part in enumerate(parts):
      draw.text((x, y + step * i), part, _LABEL, font, anchor=anchor)

  for r, row in enumerate(rows):
    y = top + r * (cell + gap)
    if row_labels:
      write(row_labels[r], left - 8, y + cell // 2, 'rm')
    for c, image in enumerate(row):
      out.paste(_cell(image, cell), (left + c * (cell + gap), y))
  for c, text in enumerate(column_labels):
    x = left + c * (cell + gap) + cell // 2
    write(text, x, size // 2 + 1 + step * (lines - 1) / 2, 'mm')
  return out


def reconstructions(
  images: Any, decoded: Mapping[int, Any], *, cell: int = 64
) -> Image.Image:
  """The same images, decoded from ever more tokens.

  Args:
    images: The originals `[n, H, W, C]`.
    decoded: Number of tokens -> what they decode to, `[n, H, W, C]`.
    cell: Side of an enlarged image, in pixels.
  """
  budgets = sorted(decoded)
  return sheet(
    [*(decoded[b] for b in budgets), images],
    row_labels=[
      *(f'{b} token{"s" if b != 1 else ""}' for b in budgets),
      'original',
    ],
    cell=cell,
  )


def samples_by_class(
  samples: Any,
  labels: Any,
  class_names: Sequence[str],
  *,
  per_class: int = 10,
  cell: int = 48,
) -> Image.Image:
  """The first samples of each class, one class per row.

  Args:
    samples: [n, H, W, C].
    labels: [n] integers, the classes that were asked for.
    class_names: Names of the classes; those without samples have no row.
    per_class: Samples per row.
    cell: Side of an enlarged image, in pixels.
  """
  samples, labels = np.asarray(samples), np.asarray(labels)
  rows = [samples[labels == c][:per_class] for c in range(len(class_names))]
  shown = [c for c, row in enumerate(rows) if len(row)]
  return sheet(
    [rows[c] for c in shown],
    row_labels=[class_names[c] for c in shown],
    cell=cell,
  )


def scale_by_scale(
  stages: Sequence[Any],
  scales: Sequence[int | tuple[int, int]],
  *,
  row_labels: Sequence[str] = (),
  cell: int = 64,
) -> Image.Image:
  """How images appear while a scale-wise generator adds its scales.

  Args:
    stages: What is decoded after each scale, S arrays `[n, H, W, C]`.
    scales: Each scale in tokens, a side or (rows, columns), S of them.
    row_labels: One per image, or none.
    cell: Side of an enlarged image, in pixels.
  """
  if len(stages) != len(scales):
    raise ValueError(f'{len(stages)} stages for {len(scales)} scales.')
  grids = [(s, s) if isinstance(s, int) else s for s in scales]
  return sheet(
    [[stage[i] for stage in stages] for i in range(len(stages[0]))],
    row_labels=row_labels,
    column_labels=[f'{h}x{w}' for h, w in grids],
    cell=cell,
  )


def edits(
  original: Any,
  drawn: Any,
  results: Sequence[Any],
  *,
  row_labels: Sequence[str] = (),
  cell: int = 64,
) -> Image.Image:
  """An image, the part of it that was kept, and what was made of it.

  Args:
    original: `[H, W, C]`.
    drawn: bool `[h, w]`, the part that was drawn anew, on a grid over the
      image; it is grey where the kept part is shown.
    results: Rows of images, each `[n, H, W, C]`.
    row_labels: One per row, or none.
    cell: Side of an enlarged image, in pixels.
  """
  original = np.asarray(original)
  height, width = original.shape[:2]
  mask = Image.fromarray(np.asarray(drawn, np.uint8))
  mask = mask.resize((width, height), Image.Resampling.NEAREST)
  grey = 127 if original.dtype == np.uint8 else 127 / 127.5 - 1
  kept = np.where(np.asarray(mask, bool)[..., None], grey, original)
  kept = kept.astype(original.dtype)
  blank = max(len(row) for row in results) - 1
  return sheet(
    [[original, kept, *row] for row in results],
    row_labels=row_labels,
    column_labels=['original', 'kept', 'result', *[''] * blank],
    cell=cell,
  )


def wrap(text: str, width: int, size: int = _TEXT) -> str:
  """Breaks a label between words.

  Args:
    text: One or more lines.
    width: That a line has, in pixels; a longer word stays whole.
    size: Height of the letters.
  """
  font = ImageFont.load_default(size)
  found: list[str] = []
  for line in text.split('\n'):
    first = True
    for word in line.split():
      longer = f'{found[-1]} {word}' if not first else word
      if not first and font.getlength(longer) <= width:
        found[-1] = longer
      else:
        found.append(word)
      first = False
  return '\n'.join(found)


def png(image: Image.Image) -> bytes:
  """The bytes of a PNG file."""
  buffer = io.BytesIO()
  image.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def small_png(image: Image.Image) -> bytes:
  """The bytes of a PNG file of 256 colours, a third of the size of `png`.

  Args:
    image: RGBA, opaque but for its ground and for labels of one grey.
  """
  levels = 16  # of transparency; other colours are of the opaque pixels
  opacity = np.asarray(image)[..., 3]
  white = Image.new('RGBA', image.size, 'white')
  flat = Image.alpha_composite(white, image).convert('RGB')
  few = flat.quantize(256 - levels, method=Image.Quantize.MEDIANCUT)
  few = flat.quantize(palette=few, dither=Image.Dither.NONE)
  colours = (few.getpalette() or [])[: 3 * (256 - levels)]
  colours += [0] * (3 * (256 - levels) - len(colours)) + [*_LABEL[:3]] * levels
  step = np.round(opacity / 255 * levels).astype(np.uint8)
  index = np.where(step < levels, 256 - levels + step, np.asarray(few))
  out = Image.fromarray(index.astype(np.uint8)).convert('L')
  out.putpalette(colours)
  clear = [255] * (256 - levels)
  clear += [round(255 * i / levels) for i in range(levels)]
  buffer = io.BytesIO()
  out.save(buffer, 'PNG', optimize=True, transparency=bytes(clear))
  return buffer.getvalue()


def encoded(image: Image.Image, suffix: str) -> bytes:
  """The bytes of a picture file.

  Args:
    image: RGBA.
    suffix: of the file's name: .png, .jpg, .jpeg or .webp. What is transparent
      is white in a JPEG.

  Raises:
    UserError: if it is another one.
  """
  suffix = suffix.lower()
  if suffix == '.png':
    return png(image)
  if suffix not in ('.jpg', '.jpeg', '.webp'):
    raise UserError(f'pictures are .png, .jpg, .jpeg or .webp, got {suffix!r}')
  buffer = io.BytesIO()
  if suffix == '.webp':
    image.save(buffer, 'WEBP', quality=90)
  else:
    white = Image.new('RGBA', image.size, 'white')
    flat = Image.alpha_composite(white, image.convert('RGBA'))
    flat.convert('RGB').save(buffer, 'JPEG', quality=92)
  return buffer.getvalue()


def _cell(image: Any, side: int) -> Image.Image:
  array = np.asarray(image)
  if array.ndim != 3 or array.shape[-1] not in (1, 3):
    raise ValueError(
      f'An image has shape {array.shape}; expected [H, W, 1] or [H, W, 3].'
    )
  if array.dtype != np.uint8:
    array = np.clip((array.astype(np.float32) + 1) * 127.5, 0, 255)
    array = np.round(array).astype(np.uint8)
  rgb = np.broadcast_to(array, (*array.shape[:2], 3))
  picture = Image.fromarray(np.ascontiguousarray(rgb))
  scale = side / max(picture.size)
  width, height = (max(1, round(s * scale)) for s in picture.size)
  # Shrinking needs averaging; enlarging must not blur.
  method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
  return picture.resize((width, height), method)
