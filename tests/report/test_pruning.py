"""A classifier's accuracy by its FLOPs: equal costs, pairs, words, figure."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from tokpress_jax import pruners, report, types
from tokpress_jax.errors import UserError
from tokpress_jax.models import ViTConfig, model_flops, token_counts
from tokpress_jax.report import pruning as pruning_lib
from tokpress_jax.report import render
from tokpress_jax.report import results as results_lib

CONFIG = ViTConfig(
  image_size=8, channels=1, patch=2, width=8, heads=2, depth=3, classes=3
)
N = 12


def loaded(config, *, seed=0):
  drawn = jax.jit(CONFIG.build().init)(
    jax.random.key(0), np.zeros((1, 8, 8, 1))
  )
  leaves, tree = jax.tree.flatten(drawn)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  moved = [
    x + 0.3 * jax.random.normal(k, x.shape)
    for x, k in zip(leaves, keys, strict=True)
  ]
  spec = types.Spec(name='tiny', family='model', config=config)
  return types.Loaded(config.build(), jax.tree.unflatten(tree, moved), spec)


def planned(**fields):
  return dataclasses.replace(CONFIG, plan=pruners.PlanConfig(**fields))


@functools.cache
def images():
  rng = np.random.default_rng(0)
  pixels = rng.uniform(-1, 1, (N, 8, 8, 1)).astype(np.float32)
  labels = rng.integers(0, 3, N)
  return report.ImageSet(
    info=None,
    train=pixels,
    train_labels=labels,
    test=pixels,
    test_labels=labels,
  )


@functools.cache
def result():
  kept = {'prune_kept': (17, 8, 6), 'merge_kept': (17, 8, 4)}
  models = {
    'tuned': loaded(planned(method='tome', flops=0.75), seed=1),
    'base': loaded(CONFIG),
    'rates': loaded(planned(method='diffrate', **kept)),
    'drawn': loaded(planned(method='random', flops=0.75), seed=2),
  }
  return report.measure_pruners(
    models, images(), budgets=(0.75, 0.1), seeds=2, show=1
  )


def test_rows_of_a_budget_cost_the_same():
  first, *rows = result().rows
  assert (first.pruner, first.flops, first.tokens) == ('none', 1.0, 17)
  found = {}
  for row in rows:
    found.setdefault((row.pruner, row.trained), []).append(row)
  # A tenth of the FLOPs is less than this host can keep.
  off = [found[n, 'no'] for n in ('ToMe', 'top attention', 'stride', 'random')]
  assert [len(r) for r in off] == [1] * 4
  assert len({(r.flops, r.tokens) for (r,) in off}) == 1
  assert abs(off[0][0].flops - 0.75) < 0.02
  (tuned,), (rates,) = found['ToMe', 'weights'], found['DiffRate', 'rates']
  assert tuned.flops == off[0][0].flops and tuned.budget == 0.75
  counts = token_counts(CONFIG, planned(method='tome', flops=0.75).pairs)
  assert tuned.tokens == sum(n for n, _ in counts) / 3
  plan = pruners.diffrate_plan((17, 8, 6), (17, 8, 4), tokens=17)
  share = model_flops(CONFIG, plan) / model_flops(CONFIG, ())
  assert rates.flops == share
  assert [r.budget for r in found['smaller image', 'no']] == [None] * 3


def test_accuracy_and_the_pairs_with_random_pruning():
  model, drawn = loaded(CONFIG), loaded(CONFIG, seed=2)
  labels = images().test_labels

  def right(model, plan, seed=0):
    key = jax.random.fold_in(jax.random.key(seed), 0)
    out = jax.jit(lambda m, x: m(x, plan=plan, rng=key))(model, images().test)
    return np.argmax(out.logits, -1) == labels

  find = lambda name, trained: next(
    r for r in result().rows if (r.pruner, r.trained) == (name, trained)
  )
  random = planned(method='random', flops=0.75).pairs
  tome = planned(method='tome', flops=0.75).pairs
  mean = lambda model: np.mean(
    [right(model, random, s) for s in (0, 1)], axis=0
  )
  assert find('random', 'no').accuracy == pytest.approx(mean(model).mean())
  assert find('random', 'no').over_random is None
  for trained, ours, rival in (
    ('no', model, model),
    ('weights', loaded(CONFIG, seed=1), drawn),
  ):
    row = find('ToMe', trained)
    one = right(ours, tome)
    assert row.accuracy == pytest.approx(one.mean())
    assert row.error == pytest.approx(one.std() / N**0.5)
    gap = one - mean(rival)
    assert row.over_random == pytest.approx(gap.mean())
    assert row.over_random_error == pytest.approx(gap.std() / N**0.5)
  with pytest.raises(UserError, match='a were all trained with pruners'):
    report.measure_pruners({'a': loaded(planned(method='tome', r=1))}, images())


def row(name, over, *, trained='no', budget=0.5):
  return report.PruningRow(
    pruner=name,
    trained=trained,
    budget=budget,
    tokens=9.0,
    flops=budget,
    accuracy=0.5,
    error=0.01,
    over_random=over,
    over_random_error=None if over is None else 0.01,
  )


def test_the_words_say_where_random_is_better():
  rows = (
    row('none', None, budget=1.0),
    row('ToMe', 0.1),
    row('ToMe', -0.02, budget=0.75),
    row('random', None),
    row('ToMe', 0.1, trained='weights'),
    row('DiffRate', 0.1, trained='rates'),
  )
  found = dataclasses.replace(result(), rows=rows)
  assert pruning_lib.verdicts(found) == (
    'ToMe off the shelf does not beat random at 0.75 (-0.020); '
    'ToMe fine-tuned beats random at every budget (1); '
    'DiffRate off the shelf beats random at every budget (1).'
  )


def test_the_page_holds_the_table_and_the_curve(tmp_path):
  page = report.Report(
    images=dataclasses.replace(
      images(),
      info=dataclasses.make_dataclass('I', ['name', 'image_size'])('x', 8),
    ),
    tokenizers={},
    generators={},
    steps={},
    pruning=result(),
    kmeans={},
    judge_accuracy=None,
    curves={},
  )
  path, text = render.write_report(page, tmp_path)
  assert (path.parent / 'pruning_curve.png').stat().st_size > 1000
  numbers = json.loads((tmp_path / 'metrics.json').read_text())['pruning']
  assert len(numbers) == len(result().rows)
  assert numbers == [dataclasses.asdict(r) for r in result().rows]
  lines = text.splitlines()
  assert len([line for line in lines if line.startswith('ToMe')]) == 2
  assert f'Accuracy on {N} test images' in text
  assert results_lib.numbers_of(page)['pruning'] == numbers
  figure = report.pruning_figure(result())
  assert [axes.get_title(loc='left')[:10] for axes in figure.axes] == [
    'Off the sh',
    'Fine-tuned',
  ]
  # From the unpruned model down; that one was not trained with pruners.
  labels = [t.get_text() for t in figure.legends[0].get_texts()]
  assert labels[:3] == ['ToMe', 'DiffRate', 'random']
