"""Zero-shot retrieval: the text of an image, and the images of a text.

Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (2021, arXiv 2103.00020), section 3.1: recall at k is how often one
of the k nearest by cosine is right.

Dimension letters: N training and M test images, U different texts among those
of the test images, C codes of a text, P features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from tokpress_jax import types
from tokpress_jax.models import clip

_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """The texts of images in the space of a tower's features.

  Attributes:
    train: float32 [N, P], of length 1.
    test: float32 [M, P].
    distinct: float32 [U, P], each text of the test images once.
    which: int [M], the row of `distinct` that is an image's text.
  """

  train: np.ndarray
  test: np.ndarray
  distinct: np.ndarray
  which: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recalls:
  """How often the right one is near, in [0, 1].

  Attributes:
    text_at_1: images whose text is the nearest of all different ones.
    text_at_5: among the five nearest.
    image_at_1: different texts whose nearest image has this text.
    image_at_5: one of whose five nearest images has.
  """

  text_at_1: float
  text_at_5: float
  image_at_1: float
  image_at_5: float


def embed_texts(
  tower: types.Loaded, train: np.ndarray, test: np.ndarray
) -> Texts:
  """Embeds the texts of images.

  Args:
    tower: a text tower, `ClipText`.
    train: int [N, C], what it reads.
    test: int [M, C].
  """

  @jax.jit
  def run(tower: types.Loaded, codes: Any) -> Any:
    return clip.unit(tower(codes).pooled)

  def embed(codes: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(codes), _BATCH):
      rows = codes[start : start + _BATCH]
      padded = np.resize(rows, (_BATCH, codes.shape[1]))
      parts.append(np.asarray(run(tower, padded))[: len(rows)])
    return np.concatenate(parts)

  distinct, which = np.unique(test, axis=0, return_inverse=True)
  each = embed(distinct)
  which = which.reshape(-1)
  return Texts(train=embed(train), test=each[which], distinct=each, which=which)


def recalls(images: np.ndarray, texts: Texts) -> Recalls:
  """Ranks texts for images and images for texts.

  Where several images have a text, any of them is right, so that what repeats
  takes no one's place.

  Args:
    images: [M, P], of length 1.
    texts: theirs.
  """
  cosines = images.astype(np.float64) @ texts.distinct.T.astype(np.float64)
  right = texts.which[:, None] == np.arange(len(texts.distinct))
  found = {}
  for name, table, hits in (
    ('text', cosines, right),
    ('image', cosines.T, right.T),
  ):
    best = np.argsort(-table, axis=1, kind='stable')[:, :5]
    near = np.take_along_axis(hits, best, axis=1)
    found[f'{name}_at_1'] = float(near[:, 0].mean())
    found[f'{name}_at_5'] = float(near.any(axis=1).mean())
  return Recalls(**found)
