"""Accuracy of a classifier as a function of the tokens its pruners keep.

Every pruner takes tokens away after the attention of every layer, at the rate
of ToMe with the same FLOPs (`pruners.PlanConfig`), so that rows of one budget
cost the same. DiffRate's rates are its own: they are learned for a budget.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import pruners, types, viz
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.models import counts
from tokpress_jax.nn import resize as resize_lib
from tokpress_jax.pruners import flops
from tokpress_jax.report.images import ImageSet
from tokpress_jax.viz import pruning as picture_lib

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Plan = tuple[tuple[str, Any], ...]
Trained = Literal['no', 'rates', 'weights']

BUDGETS = (0.875, 0.75, 0.5, 0.4)  # shares of the FLOPs
NAMES = {
  '': 'none',
  'tome': 'ToMe',
  'diffrate': 'DiffRate',
  'top_attention': 'top attention',
}
SMALLER = 'smaller image'
_OFF_THE_SHELF = ('tome', 'top_attention', 'stride', 'random')
_NEAR = 0.02  # how far a plan's FLOPs may be from the budget it stands for
_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningRow:
  """One pruner at one budget.

  Attributes:
    pruner: its name.
    trained: what was trained for this budget: nothing, its rates, or the
      classifier's weights with the pruner inside.
    budget: the share of FLOPs that it stands for; None for a smaller image.
    tokens: that enter a layer, mean over layers, the class token included.
    flops: of one image, as a fraction of the unpruned model's.
    accuracy: on the test images; of a pruner that draws, the mean over seeds.
    error: its standard error over images.
    over_random: accuracy minus that of random pruning of the same FLOPs, by the
      base's weights, or by those that were trained with random pruning for this
      budget; None where there is none.
    over_random_error: its standard error over images, each its own pair.
  """

  pruner: str
  trained: Trained
  budget: float | None
  tokens: float
  flops: float
  accuracy: float
  error: float
  over_random: float | None = None
  over_random_error: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningResult:
  """All pruners at all budgets.

  Attributes:
    rows: the measurements; the first is the model without a pruner.
    pictures: name of a pruner to uint8 strips [H, W, 3]: an image and what is
      left of it.
    images: how many were measured on.
    seeds: of pruners that draw.
  """

  rows: tuple[PruningRow, ...]
  pictures: dict[str, np.ndarray]
  images: int
  seeds: int


def measure_pruners(
  models: Mapping[str, types.Loaded],
  images: ImageSet,
  *,
  budgets: tuple[float, ...] = BUDGETS,
  seeds: int = 5,
  show: int = 5,
) -> PruningResult:
  """Prunes a trained ViT off the shelf, and measures what was tuned for it.

  Beside the pruners stand the two baselines that every table needs: tokens at
  random, and a smaller image (arXiv 2510.07143 found that it beats many
  pruners).

  Args:
    models: name to ViT classifier. The first without a plan is pruned off the
      shelf; the others are measured with their own plans, and are to start from
      its weights.
    images: what they are measured on.
    budgets: shares of the FLOPs; those that a model cannot meet are left out.
    seeds: how often a pruner that draws is measured.
    show: how many images are drawn.

  Returns:
    The result.

  Raises:
    UserError: if all models have a plan.
  """
  plain = [n for n, m in models.items() if not m.module.config.plan.method]
  if not plain:
    raise UserError(
      f'{", ".join(models)} were all trained with pruners inside; name the '
      'classifier that they started from too'
    )
  base = models[plain[0]]
  config = base.module.config
  tuned = {n: m for n, m in models.items() if n != plain[0]}
  measured = _Measured(base, images, seeds)
  measured.add(base, (), pruner=NAMES[''], trained='no', budget=1.0)
  pictures = {}
  drawn = images.test[:show]
  for budget in budgets:
    for name, plan in plans(config, budget).items():
      measured.add(base, plan, pruner=name, trained='no', budget=budget)
      if budget == 0.5:
        pictures[name] = _picture(base, plan, drawn)
  nearest = lambda share: min((1.0, *budgets), key=lambda b: abs(b - share))
  facts = {}
  for key, model in tuned.items():
    plan = model.module.config.pairs
    budget = nearest(measured.share(config, plan))
    facts[key] = (plan, budget, _shown(model.module.config.plan.method))
    if facts[key][2] == 'random':
      measured.rivals[budget] = model
  for key, model in tuned.items():
    plan, budget, name = facts[key]
    trained: Trained = 'rates' if _same_weights(model, base) else 'weights'
    measured.add(model, plan, pruner=name, trained=trained, budget=budget)
    if budget == 0.5 and trained == 'rates':
      pictures[name] = _picture(model, plan, drawn)
  for grid in range(config.grid - 1, 0, -1):
    small = downsampled(base, grid * config.patch)
    size = (small.module.config.image_size,) * 2
    shrunk = resize_lib.resize(jnp.asarray(images.test), size, method='area')
    of = dataclasses.replace(images, test=np.asarray(shrunk))
    measured.add(small, (), of, pruner=SMALLER, trained='no', budget=None)
  return PruningResult(
    rows=tuple(measured.rows),
    pictures=pictures,
    images=len(images.test),
    seeds=seeds,
  )


class _Measured:
  """Rows, each beside random pruning of the same FLOPs.

  Attributes:
    rows: so far.
    rivals: by budget, classifiers that were trained with random pruning.
  """

  def __init__(self, base: types.Loaded, images: ImageSet, seeds: int):
    self.rows: list[PruningRow] = []
    self.rivals: dict[float, types.Loaded] = {}
    self._base, self._images, self._seeds = base, images, seeds
    self._found: dict[tuple[int, Plan], np.ndarray] = {}

  def share(self, config: Any, plan: Plan) -> float:
    """FLOPs over those of the unpruned base."""
    whole = counts.model_flops(self._base.module.config, ())
    return counts.model_flops(config, plan) / whole

  def add(
    self,
    model: types.Loaded,
    plan: Plan,
    images: ImageSet | None = None,
    *,
    trained: Trained,
    budget: float | None,
    pruner: str,
  ) -> None:
    """Measures one row."""
    config = model.module.config
    share = self.share(config, plan)
    if images is None:
      right = self._right(model, plan)
    else:
      right = _right(model, plan, images, self._seeds)
    error = lambda x: float(x.std() / len(x) ** 0.5)
    row = PruningRow(
      pruner=pruner,
      trained=trained,
      budget=budget,
      tokens=flops.equal_tokens(counts.token_counts(config, plan)),
      flops=share,
      accuracy=float(right.mean()),
      error=error(right),
    )
    tuned = self.rivals.get(budget or 0.0)
    rival = tuned if trained == 'weights' else self._base
    plan = plans(self._base.module.config, share).get('random', ())
    if rival is not None and plan and pruner != 'random':
      gap = right - self._right(rival, plan)
      row = dataclasses.replace(
        row, over_random=float(gap.mean()), over_random_error=error(gap)
      )
    self.rows.append(row)

  def _right(self, model: types.Loaded, plan: Plan) -> np.ndarray:
    """See below; once for each model and plan."""
    key = (id(model), plan)
    if key not in self._found:
      self._found[key] = _right(model, plan, self._images, self._seeds)
    return self._found[key]


def plans(config: Any, budget: float) -> dict[str, Plan]:
  """Plans of one cost: the same tokens leave each layer in all of them.

  Args:
    config: of the host.
    budget: share of the FLOPs.

  Returns:
    Name to plan; nothing where the host is too small for the budget.
  """
  try:
    found = {
      _shown(method): pruners.PlanConfig(method=method, flops=budget).plan(
        config.shape
      )
      for method in _OFF_THE_SHELF
      if config.class_token or method != 'top_attention'
    }
  except UserError:  # less than halving in every layer leaves
    return {}
  share = counts.model_flops(config, next(iter(found.values())))
  near = abs(share / counts.model_flops(config, ()) - budget) < _NEAR
  return found if near else {}


def pruning_figure(
  result: PruningResult, *, theme: viz.Theme = 'light'
) -> Figure:
  """Accuracy by FLOPs, off the shelf and with what was trained for it."""
  parts: list[tuple[str, tuple[Trained, ...]]] = [
    ('Off the shelf (DiffRate: its rates learned)', ('no', 'rates'))
  ]
  if any(r.trained == 'weights' and r.budget != 1 for r in result.rows):
    parts.append(('Fine-tuned with the pruner inside', ('weights',)))
  size = (4.6 * len(parts) + 1.4, 3.6)
  figure, row = viz.blank(len(parts), size=size, theme=theme)
  names = list(dict.fromkeys(r.pruner for r in result.rows if r.budget != 1))
  first = ['ToMe', 'DiffRate', 'random']
  names.sort(key=lambda n: first.index(n) if n in first else len(first))
  lines = {}
  for axes, (title, trained) in zip(row, parts, strict=True):
    whole = [
      r for r in result.rows if r.trained in trained and r.pruner == 'none'
    ][:1]
    for name, color in zip(names, viz.LINES[theme], strict=False):
      rows = [
        r for r in result.rows if r.pruner == name and r.trained in trained
      ]
      if not rows:
        continue
      points = sorted((r.flops, r.accuracy, r.error) for r in [*whole, *rows])
      x, y, error = zip(*points, strict=True)
      lines[name] = axes.errorbar(
        x,
        y,
        yerr=error,
        color=color,
        marker='o',
        ms=4,
        lw=1.6 if name in first else 1.1,
        elinewidth=0.8,
        ls='-' if name in first else '--',
      )
    axes.set_xlabel("share of the unpruned model's FLOPs")
    viz.dress(axes, theme, title=title)
    axes.set_xlim(0.2, 1.02)
  row[0].set_ylabel('accuracy')
  figure.legend(
    list(lines.values()),
    list(lines),
    loc='outside right center',
    frameon=False,
    labelcolor=viz.INK[theme],
  )
  return figure


def verdicts(result: PruningResult) -> str:
  """Says of ToMe and DiffRate where they do not beat random pruning."""
  said = []
  for name in ('ToMe', 'DiffRate'):
    for kinds, how in (
      (('no', 'rates'), 'off the shelf'),
      (('weights',), 'fine-tuned'),
    ):
      rows = [
        r
        for r in result.rows
        if r.pruner == name and r.trained in kinds and r.over_random is not None
      ]
      if not rows:
        continue
      lost = [r for r in rows if not (r.over_random or 0) > 0]
      where = ', '.join(f'{r.budget:g} ({r.over_random:+.3f})' for r in lost)
      said.append(
        f'{name} {how} '
        + (
          f'does not beat random at {where}'
          if lost
          else f'beats random at every budget ({len(rows)})'
        )
      )
  return f'{"; ".join(said)}.' if said else ''


def downsampled(model: types.Loaded, image_size: int) -> types.Loaded:
  """The same ViT for smaller images: its position table is shrunk.

  Args:
    model: a ViT with a class token or without.
    image_size: the new side, divisible by the patch.

  Returns:
    The model for images of that side.
  """
  config = model.module.config
  small = dataclasses.replace(
    config, image_size=image_size, plan=pruners.PlanConfig()
  )
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


def _shown(method: str) -> str:
  """How a registry name stands in tables."""
  return NAMES.get(method, method.replace('_', ' '))


def _same_weights(a: types.Loaded, b: types.Loaded) -> bool:
  """Whether two models differ in nothing but their plans."""
  same = jax.tree.map(
    lambda x, y: bool(jnp.array_equal(x, y)), a.variables, b.variables
  )
  return all(jax.tree.leaves(same))


@functools.cache
def _runner(module: Any, plan: Plan) -> Any:
  """One compilation for each plan."""
  return jax.jit(
    lambda variables, x, rng: jnp.argmax(
      module.apply(variables, x, plan=plan, rng=rng).logits, axis=-1
    )
  )


def _right(
  model: types.Loaded, plan: Plan, images: ImageSet, seeds: int
) -> np.ndarray:
  """How often each image is classified as it should, float [N] in [0, 1]."""
  draws = any('rng' in pruner.needs for _, pruner in plan)
  run = _runner(model.module, plan)
  right = []
  for seed in range(seeds if draws else 1):
    guesses = []
    for start in range(0, len(images.test), _BATCH):
      batch = images.test[start : start + _BATCH]
      count = len(batch)
      if start:  # the last is padded to the shape of the others
        batch = np.resize(batch, (_BATCH, *batch.shape[1:]))
      key = jax.random.fold_in(jax.random.key(seed), start)
      guess = run(model.variables, jnp.asarray(batch), key)
      guesses.append(np.asarray(guess)[:count])
    right.append(np.concatenate(guesses) == images.test_labels)
  return np.mean(right, axis=0)


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
