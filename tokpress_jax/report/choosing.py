"""What pruners behind a tower keep of it: how much of the image is still there.

Dimension letters: M images, B of a batch, N tokens, K kept, D features, V
classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import registry, types
from tokpress_jax.nn import resize as resize_lib
from tokpress_jax.pruners import before_llm, reduction, similarities
from tokpress_jax.report import pruning
from tokpress_jax.report.images import ImageSet

# Of LLaVA's 576 tokens: 192, 128 and 64.
SHARES = (1 / 3, 2 / 9, 1 / 9)
_BATCH, _RIDGE = 256, 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoosingRow:
  """One method at one budget, means over the test images.

  Attributes:
    method: its name.
    tokens: K.
    coverage: the cosine of each token to the nearest kept one.
    diversity: 1 - cosine of two kept tokens.
    error: squared error of all tokens, each drawn from its three nearest kept
      ones by their cosines, over the tokens' variance.
    probe: accuracy of a linear probe on the mean of the kept tokens.
  """

  method: str
  tokens: int
  coverage: float
  diversity: float
  error: float
  probe: float


def measure_choosing(
  model: types.Loaded,
  images: ImageSet,
  methods: Sequence[str],
  *,
  shares: Sequence[float] = SHARES,
  layer: int = -1,
) -> list[ChoosingRow]:
  """Measures pruners on the output of a trained ViT.

  The probe is a ridge regression of the classes on the means of the training
  images' kept tokens, masses as weights. Beside the methods stand all tokens,
  and a smaller image of at most as many patches.

  Args:
    model: a ViT with a class token.
    images: training images for the probe, and test images.
    methods: names of pruners that keep K tokens of a row.
    shares: of the patches that are kept.
    layer: whose output is read.

  Returns:
    A row for each method and share, all tokens first.
  """
  config = model.module.config
  patches = config.grid**2
  counts = [max(round(share * patches), 1) for share in shares]
  rows = [_row('all', model, images, None, patches, layer)]
  for name in methods:
    for count in counts:
      pruner = before_llm.at_budget(
        registry.resolve(name),
        count,
        patches=patches,
        depth=config.depth,
        layer=layer,
      )
      rows.append(_row(name, model, images, pruner, count, layer))
  for count in counts:
    grid = max(int(count**0.5), 1)
    side = grid * config.patch
    shrink = lambda x, side=side: np.asarray(
      resize_lib.resize(jnp.asarray(x), (side, side), method='area')
    )
    small = dataclasses.replace(
      images, train=shrink(images.train), test=shrink(images.test)
    )
    model_of = pruning.downsampled(model, side)
    rows.append(_row('smaller image', model_of, small, None, grid**2, layer))
  return rows


def _row(
  name: str,
  model: types.Loaded,
  images: ImageSet,
  pruner: Any,
  count: int,
  layer: int,
) -> ChoosingRow:
  """One method at one budget."""
  needs = frozenset() if pruner is None else pruner.needs

  @jax.jit
  def run(model: types.Loaded, x: Any, rng: Any) -> tuple[Any, ...]:
    tokens, signals = model.module.apply(
      model.variables, x, needs=needs, layer=layer, rng=rng, method='observe'
    )
    kept = tokens if pruner is None else pruner(tokens, signals)[0]
    weight = kept.mass / kept.mass.sum(axis=1, keepdims=True)
    mean = jnp.einsum('bk,bkd->bd', weight, kept.features)
    return mean, *_measures(tokens, kept)

  def means(pixels: np.ndarray) -> list[np.ndarray]:
    parts = []
    for start in range(0, len(pixels), _BATCH):
      x = pixels[start : start + _BATCH]
      spare = _BATCH - len(x)
      padded = np.pad(x, ((0, spare), (0, 0), (0, 0), (0, 0)), mode='wrap')
      out = jax.device_get(run(model, padded, jax.random.key(start)))
      parts.append([a[: len(x)] for a in out])
    return [np.concatenate(a) for a in zip(*parts, strict=True)]

  train, test = means(images.train), means(images.test)
  guess = _probe(train[0], images.train_labels, test[0])
  coverage, diversity, error = (float(a.mean()) for a in test[1:])
  return ChoosingRow(
    method=name,
    tokens=count,
    coverage=coverage,
    diversity=diversity,
    error=error,
    probe=float(np.mean(guess == images.test_labels)),
  )


def _measures(tokens: types.Tokens, kept: types.Tokens) -> tuple[Any, ...]:
  """Coverage, diversity and error of each row, [B]."""
  x = tokens.features.astype(jnp.float32)
  y = kept.features.astype(jnp.float32)
  valid = kept.valid
  pairs = similarities.cosine(x, y)  # [B, N, K]
  pairs = jnp.where(valid[:, None], pairs, -1)
  own = similarities.cosine(y)
  both = valid[:, :, None] & valid[:, None]
  both &= ~jnp.eye(valid.shape[1], dtype=bool)[None]
  number = jnp.maximum(both.sum(axis=(1, 2)), 1)
  diversity = jnp.where(both, 1 - own, 0).sum(axis=(1, 2)) / number
  near, at = jax.lax.top_k(pairs, min(3, valid.shape[1]))
  weight = jax.nn.softmax(jnp.where(near > -1, 20 * near, -jnp.inf), axis=-1)
  batch, slots, links = at.shape
  drawn = reduction.gather(y, at.reshape(batch, -1))
  drawn = drawn.reshape(batch, slots, links, -1)
  drawn = jnp.einsum('bnj,bnjd->bnd', weight, drawn)
  variance = jnp.square(x - x.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
  error = jnp.square(x - drawn).sum(axis=(1, 2)) / variance
  return pairs.max(axis=2).mean(axis=1), diversity, error


def _probe(
  train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> np.ndarray:
  """Classes [M] that a ridge regression on standardised features guesses."""
  mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
  one = lambda n: np.ones((n, 1), np.float64)

  def wide(x: np.ndarray) -> np.ndarray:
    return np.concatenate([(x - mean) / std, one(len(x))], axis=1)

  x, classes = wide(train), np.unique(labels)
  target = (labels[:, None] == classes).astype(np.float64) - 1 / len(classes)
  gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
  weights = np.linalg.solve(gram, x.T @ target)
  return classes[np.argmax(wide(test) @ weights, axis=1)]
