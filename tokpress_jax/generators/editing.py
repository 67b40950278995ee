"""Zero-shot edits with a scale-wise generator: which tokens are kept.

VAR (Tian et al., arXiv 2404.02905, section 5.4): tokens of a given image are
forced outside a box (in-painting), inside it (out-painting), or outside it
under another class (class-conditional editing); the generator draws the rest.
Nothing is trained for it.

  codes = tokenizer.encode(images).codes
  forced = editing.keep(codes, scales, editing.Box(0.1, 0.1, 0.8, 0.8))
  tp.sample(generator, labels, rng=rng, forced=forced)

Dimension letters: B batch, L tokens of all scales, h rows and w columns of a
scale.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import errors
from tokpress_jax.nn import resize

Array = jax.Array

Edit = Literal['inside', 'outside']


@dataclasses.dataclass(frozen=True)
class Box:
  """A part of an image, in fractions of its sides.

  Attributes:
    top: first row.
    left: first column.
    bottom: row after the last.
    right: column after the last.
  """

  top: float
  left: float
  bottom: float
  right: float

  def __post_init__(self):
    if not (0 <= self.top < self.bottom <= 1) or not (
      0 <= self.left < self.right <= 1
    ):
      raise errors.UserError(
        f'a box is top, left, bottom, right in fractions of the image, as '
        f'0.1 0.1 0.8 0.8; got {self.top} {self.left} {self.bottom} '
        f'{self.right}'
      )


def drawn_tokens(
  scales: tuple[tuple[int, int], ...], box: Box, *, draw: Edit = 'inside'
) -> np.ndarray:
  """Which tokens are drawn anew.

  The box is rounded to tokens of the finest scale; that map is shrunk
  bilinearly to each scale and cut at one half. Scales of three tokens or fewer
  are kept, so that the image's overall look stays (as in the official demo).

  Args:
    scales: rows and columns of each scale.
    box: the part.
    draw: what is drawn: 'inside' the box (in-painting) or 'outside' it
      (out-painting).

  Returns:
    bool [L].

  Raises:
    UserError: if not one token of the finest scale is drawn.
  """
  height, width = scales[-1]
  kept = np.zeros((height, width), np.float32)
  rows = slice(round(box.top * height), round(box.bottom * height))
  columns = slice(round(box.left * width), round(box.right * width))
  kept[rows, columns] = 1
  if draw == 'inside':
    kept = 1 - kept
  if kept.all():
    raise errors.UserError(
      f'nothing is left to draw {draw} the box {dataclasses.astuple(box)}: its '
      f'sides are rounded to the {height} x {width} tokens of the finest '
      f'scale; make it {"larger" if draw == "inside" else "smaller"}'
    )
  parts = []
  for h, w in scales:
    down = resize.resize_matrix(height, h, 'bilinear')
    across = resize.resize_matrix(width, w, 'bilinear')
    small = down @ kept @ across.T
    keep = (small > 0.5) | (h * w <= 3)
    parts.append(~keep.reshape(-1))
  return np.concatenate(parts)


def keep(
  codes: Array,
  scales: tuple[tuple[int, int], ...],
  box: Box,
  *,
  draw: Edit = 'inside',
) -> Array:
  """The `forced` argument of `sample` that edits images.

  Args:
    codes: int32 [B, L, 1] of the images, of `encode`.
    scales: rows and columns of each scale, of the tokenizer.
    box: the part.
    draw: see `drawn_tokens`.

  Returns:
    int32 [B, L], -1 where a token is drawn.

  Raises:
    UserError: if codes and scales do not fit.
  """
  free = drawn_tokens(scales, box, draw=draw)
  if codes.ndim != 3 or codes.shape[1:] != (len(free), 1):
    raise errors.UserError(
      f'codes of these scales are [B, {len(free)}, 1], got {codes.shape}'
    )
  return jnp.where(jnp.asarray(free)[None], -1, codes[..., 0])
