"""What pruners behind a tower keep of it: how much of the image is still there.

Dimension letters: M images, B of a batch, N tokens, K kept, D features, P
projected features.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tokpress_jax import registry, types, viz
from tokpress_jax.models import clip, observing
from tokpress_jax.nn import resize as resize_lib
from tokpress_jax.pruners import before_llm, reduction
from tokpress_jax.report import keeping, pruning, retrieval, standing
from tokpress_jax.report.images import ImageSet

# Of LLaVA's 576 tokens 192, a quarter, 128 and 64; of LLaVA-NeXT's 2,880 640,
# 320 and 160.
SHARES = (1 / 3, 1 / 4, 2 / 9, 1 / 9, 1 / 18)
_BATCH = 256
# Of pruners that draw: one draw moves a probe by more than most methods do.
DRAWS = 5
MEASURES = ('kept', 'coverage', 'diversity', 'error', 'probe')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoosingRow:
  """One method at one budget, means over the test images.

  Attributes:
    method: its name.
    tokens: K, the most.
    kept: how many there are: how many some methods leave depends on the image.
    coverage: the cosine of each token to the nearest kept one.
    diversity: 1 - cosine of two kept tokens.
    error: squared error of all tokens, each drawn from its three nearest kept
      ones by their cosines, over the tokens' variance.
    probe: accuracy of a linear probe on the mean of the kept tokens.
    recalls: of retrieval, where the rest of the tower saw the kept tokens only;
      None without texts.
  """

  method: str
  tokens: int
  kept: float
  coverage: float
  diversity: float
  error: float
  probe: float
  recalls: retrieval.Recalls | None = None


def measure_choosing(
  model: types.Loaded,
  images: ImageSet,
  methods: Sequence[str],
  *,
  shares: Sequence[float] = SHARES,
  layer: int = -2,
  texts: retrieval.Texts | None = None,
) -> list[ChoosingRow]:
  """Measures pruners on what a layer of a trained ViT gives.

  The probe is a ridge regression of the classes on the means of the training
  images' kept tokens, masses as weights. For retrieval the kept tokens and the
  special ones go through the rest of the layers (`ViT.finish`). Beside the
  methods stand all tokens, and a smaller image of at most as many patches.

  Of a method that draws (`random`) the rows are means of `DRAWS` draws. Methods
  that read a text are given the image's own, embedded, see
  `standing.plan`: they know what will be asked, and the others do not.

  Args:
    model: a ViT, such as `models.clip_towers` gives; with a class token if a
      method reads its attention.
    images: training images for the probe, and test images.
    methods: names of pruners that keep K tokens of a row.
    shares: of the patches that are kept.
    layer: whose output is read; behind the last one the tower's own features
      do not depend on what is dropped.
    texts: of the images, in the space of the ViT's features; None for none.

  Returns:
    A row for each method and share, all tokens first.
  """
  config = model.module.config
  patches = config.grid**2
  layer = layer % config.depth - config.depth
  counts = dict.fromkeys(max(round(share * patches), 1) for share in shares)
  run = lambda *args: _row(*args, layer=layer, texts=texts)
  rows = [run('all', model, images, None, patches)]
  pairs = list(itertools.product(methods, counts))
  for name, count in tqdm.tqdm(pairs, desc='methods', disable=None):
    pruner = before_llm.at_budget(
      registry.resolve(name),
      count,
      patches=patches,
      depth=config.depth,
      layer=layer,
    )
    rows.append(run(name, model, images, pruner, count))
  for grid in dict.fromkeys(max(int(count**0.5), 1) for count in counts):
    side = grid * config.patch
    shrink = lambda x, side=side: np.asarray(
      resize_lib.resize(jnp.asarray(x), (side, side), method='area')
    )
    small = dataclasses.replace(
      images, train=shrink(images.train), test=shrink(images.test)
    )
    model_of = pruning.downsampled(model, side)
    rows.append(run('smaller image', model_of, small, None, grid**2))
  return rows


def _row(
  name: str,
  model: types.Loaded,
  images: ImageSet,
  pruner: Any,
  count: int,
  *,
  layer: int,
  texts: retrieval.Texts | None,
) -> ChoosingRow:
  """One method at one budget."""
  needs = frozenset() if pruner is None else pruner.needs
  reads_text = bool(needs & observing.GIVEN)
  special = model.module.config.num_special

  @jax.jit
  def run(model: types.Loaded, x: Any, text: Any, rng: Any) -> tuple[Any, ...]:
    tokens, signals = model.observe(
      x, needs=needs - observing.GIVEN, layer=layer, rng=rng, special='keep'
    )
    patches, _ = observing.without_first(tokens, types.Signals(), special)
    kept = patches
    if pruner is not None:
      joint = None
      if reads_text:
        last, _ = model.observe(x, layer=-1, special='keep')
        joint = model.project_tokens(last)
      seen = standing.Seen(tokens, signals, joint)
      plan = standing.plan(pruner, seen, text if reads_text else None)
      with_class = standing.keeps_class(pruner)
      source = tokens if with_class else patches
      kept = reduction.reduce_tokens(source, plan, mode=pruner.mode)
      if with_class:
        kept, _ = observing.without_first(kept, types.Signals(), special)
    weight = kept.mass / kept.mass.sum(axis=1, keepdims=True)
    mean = jnp.einsum('bk,bkd->bd', weight, kept.features)
    whole = observing.with_first(tokens, kept, special)
    pooled = model.finish(whole, layer=layer).pooled
    number = jnp.sum(kept.valid, axis=1, dtype=jnp.float32)
    measured = keeping.measures(patches, kept)
    return mean, clip.unit(pooled), number, *measured

  def all_of(
    pixels: np.ndarray, text: np.ndarray, draw: int
  ) -> list[np.ndarray]:
    parts = []
    for start in range(0, len(pixels), _BATCH):
      rows = [a[start : start + _BATCH] for a in (pixels, text)]
      number = len(rows[0])
      wide = [np.resize(a, (_BATCH, *a.shape[1:])) for a in rows]
      rng = jax.random.fold_in(jax.random.key(draw), start)
      out = jax.device_get(run(model, *wide, rng))
      parts.append([a[:number] for a in out])
    return [np.concatenate(a) for a in zip(*parts, strict=True)]

  def measured(draw: int) -> ChoosingRow:
    sets = []
    for which in ('train', 'test'):
      pixels = getattr(images, which)
      text = np.zeros((len(pixels), 0), np.float32)
      if texts is not None:
        text = getattr(texts, which)
      sets.append(all_of(pixels, text, draw))
    train, test = sets
    guess = keeping.probe(train[0], images.train_labels, test[0])
    number, coverage, diversity, error = (float(a.mean()) for a in test[2:])
    return ChoosingRow(
      method=name,
      tokens=count,
      kept=number,
      coverage=coverage,
      diversity=diversity,
      error=error,
      probe=float(np.mean(guess == images.test_labels)),
      recalls=None if texts is None else retrieval.recalls(test[1], texts),
    )

  draws = DRAWS if 'rng' in needs else 1
  return _mean([measured(draw) for draw in range(draws)])


def _mean(rows: Sequence[ChoosingRow]) -> ChoosingRow:
  """The mean of rows of one method and budget."""
  means = lambda rows, names: {
    name: float(np.mean([getattr(r, name) for r in rows])) for name in names
  }
  found: dict[str, Any] = means(rows, MEASURES)
  recalls = [row.recalls for row in rows if row.recalls is not None]
  if recalls:
    names = [field.name for field in dataclasses.fields(retrieval.Recalls)]
    found['recalls'] = retrieval.Recalls(**means(recalls, names))
  return dataclasses.replace(rows[0], **found)


def choosing_figure(
  rows: Sequence[ChoosingRow], *, images: int, theme: viz.Theme = 'light'
) -> Any:
  """How far each method is above random pruning of as many tokens.

  Args:
    rows: what `measure_choosing` gives, with those of `random`.
    images: M, for the standard errors.
    theme: see `viz.curve`.

  Returns:
    A matplotlib figure: a panel for the linear probe and, where there are
    texts, one for retrieval; a line for each method, best first, a dot for each
    budget that it can keep to. The band is one standard error of the difference
    of two such accuracies, as if of other images each.

  Raises:
    ValueError: if random pruning was not measured.
  """
  measures = {'linear probe': lambda row: row.probe}
  if all(row.recalls is not None for row in rows):
    measures['image of a text'] = lambda row: row.recalls.image_at_1
  random = {row.tokens: row for row in rows if row.method == 'random'}
  if not random:
    raise ValueError(
      'methods are drawn beside random pruning, which was not measured: add '
      "'random' to the methods"
    )
  parts = []
  for title, of in measures.items():
    series: dict[str, dict[str, float]] = {}
    for row in rows:
      if row.method in ('all', 'random') or row.tokens not in random:
        continue
      if row.kept > row.tokens:  # More than it was to leave: no comparison.
        continue
      beside = of(row) - of(random[row.tokens])
      series.setdefault(row.method, {})[f'{row.tokens} tokens'] = beside
    chance = [of(row) for row in random.values()]
    band = max((2 * p * (1 - p) / images) ** 0.5 for p in chance)
    parts.append((title, band, series))
  return viz.beside_zero(
    parts,
    names=[f'{n} tokens' for n in sorted(random, reverse=True)],
    x_label='accuracy over random (grey: 1 s.e.)',
    theme=theme,
  )
