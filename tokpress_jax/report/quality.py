"""How many tokens a quality costs, if each image takes as many as it needs.

Dimension letters: N images, K legal lengths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import types
from tokpress_jax.tokenizers import Prefix, Quality
from tokpress_jax.tokenizers.lengths import decibels

# Shorter lists of lengths leave nothing to choose; longer ones take too long.
_LENGTHS = range(4, 65)


@dataclasses.dataclass(frozen=True)
class QualityCost:
  """What a PSNR costs on a set of images.

  Attributes:
    target: in dB.
    tokens: mean over images of what `Quality(target)` takes.
    hits: share of images that reach the target so.
    fixed: the smallest `Fixed(n)` with at least that share, or all tokens.
    agrees: share of images whose length is the shortest that reaches the
      target, by trying all.
  """

  target: float
  tokens: float
  hits: float
  fixed: int
  agrees: float

  @property
  def saved(self) -> float:
    """Share of the fixed length's tokens that are not needed."""
    return 1 - self.tokens / self.fixed


def measure_quality(
  tokenizer: types.Loaded,
  images: np.ndarray,
  *,
  parts: Sequence[float] = (0.25, 0.5),
  batch: int = 256,
) -> tuple[QualityCost, ...]:
  """Chooses the length of every image by its quality.

  Args:
    tokenizer: the tokenizer; nothing is measured if it has few legal lengths,
      or more than can be tried.
    images: [N, H, W, C] in [-1, 1].
    parts: targets are the median PSNR at these parts of all tokens.
    batch: images at once.

  Returns:
    One entry for each part.
  """
  config = tokenizer.module.config
  bounds = np.asarray(config.boundaries)
  chooses = len(bounds) in _LENGTHS and config.condition_shape is None
  if not chooses or config.draws:  # Drawing at every length takes too long.
    return ()

  @jax.jit
  def curve(tokenizer, x):
    whole = tokenizer.encode(x)

    def at(n):
      row = whole.first(n)  # Encoded once, where that is the same.
      if not config.nested:
        row = tokenizer.encode(x, policy=Prefix(row.length))
      return decibels(tokenizer.decode(row), x)

    return jax.lax.map(at, jnp.asarray(bounds, jnp.int32)).T

  @jax.jit
  def choose(tokenizer, x, target):
    return tokenizer.encode(x, policy=Quality(target=target)).length

  starts = range(0, len(images), batch)
  split = [jnp.asarray(images[i : i + batch]) for i in starts]
  table = np.concatenate([np.asarray(curve(tokenizer, x)) for x in split])
  found = []
  for part in parts:
    middle = np.searchsorted(bounds, part * bounds[-1])
    target = np.float32(np.median(table[:, middle]))
    length = np.concatenate(
      [np.asarray(choose(tokenizer, x, target)) for x in split]
    )
    reached = table >= target
    hits = reached[np.arange(len(images)), np.searchsorted(bounds, length)]
    fixed = np.flatnonzero(reached.mean(axis=0) >= hits.mean())
    shortest = np.where(reached.any(1), bounds[reached.argmax(1)], bounds[-1])
    found.append(
      QualityCost(
        target=float(target),
        tokens=float(length.mean()),
        hits=float(hits.mean()),
        fixed=int(bounds[fixed[0]] if len(fixed) else bounds[-1]),
        agrees=float(np.mean(length == shortest)),
      )
    )
  return tuple(found)
