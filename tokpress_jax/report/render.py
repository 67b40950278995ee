"""The page and the numbers of a report."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from tokpress_jax import viz
from tokpress_jax.io import images as images_lib
from tokpress_jax.report import training
from tokpress_jax.report.flow_steps import flow_steps_figure
from tokpress_jax.report.pruning import (
  PruningRow,
  pruning_figure,
  verdicts,
)
from tokpress_jax.report.results import Report, numbers_of
from tokpress_jax.report.steps import steps_figure
from tokpress_jax.report.tokenizing import TokenizerResult
from tokpress_jax.viz import sheets

METRICS = 'metrics.json'
PAGE = 'index.html'


def write_report(
  report: Report, out_dir: str | os.PathLike[str]
) -> tuple[pathlib.Path, str]:
  """Writes `index.html`, `metrics.json`, and curves as pictures.

  A tokenizer gets its test images by the number of tokens,
  `<run>_tokens.png`; a run of a multi-scale one that of `scale_curves`,
  `<run>.png`; what was measured at several numbers of steps `<run>_steps.png`;
  pruners of a classifier `pruning_curve.png`.

  Args:
    report: what was measured.
    out_dir: a directory; made if missing.

  Returns:
    The page's path, and the tables as text for a terminal.
  """
  out = pathlib.Path(out_dir)
  out.mkdir(parents=True, exist_ok=True)
  numbers = json.dumps(numbers_of(report), indent=2)
  (out / METRICS).write_text(numbers + '\n')
  for name, figure in _scale_curves(report, 'light'):
    (out / f'{name}.png').write_bytes(viz.figure_png(figure))
  for name, results in report.steps.items():
    picture = viz.figure_png(steps_figure(dict(results)))
    (out / f'{name}_steps.png').write_bytes(picture)
  for name, flows in report.flow_steps.items():
    picture = viz.figure_png(flow_steps_figure(dict(flows)))
    (out / f'{name}_steps.png').write_bytes(picture)
  if report.pruning is not None:
    picture = viz.figure_png(pruning_figure(report.pruning))
    (out / 'pruning_curve.png').write_bytes(picture)
  for name, result in report.tokenizers.items():
    (out / f'{name}_tokens.png').write_bytes(_by_tokens(result))
  sections, tables = _sections(report)
  info = report.images.info
  viz.write_page(
    out / PAGE,
    f'Fewer tokens: {info.name}',
    sections,
    lead=(
      f'{info.name}: {len(report.images.train)} training and '
      f'{len(report.images.test)} test images of {info.image_size} x '
      f'{info.image_size} pixels. Every number is on test images that no model '
      'was trained on, unless it says otherwise.'
    ),
  )
  text = '\n\n'.join(f'{t.text()}\n{t.caption}' for t in tables)
  return out / PAGE, text


def _sections(report: Report) -> tuple[list[viz.Section], list[viz.Table]]:
  sections, tables = [], []
  for section in (
    _tokenizers(report),
    _generators(report),
    _pruning(report),
    _training(report),
  ):
    if section is not None:
      sections.append(section)
      tables += [i for i in section.items if isinstance(i, viz.Table)]
  if report.command and sections:
    sections[-1] = dataclasses.replace(sections[-1], command=report.command)
  return sections, tables


def _tokenizers(report: Report) -> viz.Section | None:
  if not report.tokenizers:
    return None
  rows: list[tuple[Any, ...]] = []
  items, rates = [], {}
  for name, result in report.tokenizers.items():
    rates[name] = (list(result.bits), list(result.psnr))
    for n, bits, psnr, ssim in zip(
      result.tokens, result.bits, result.psnr, result.ssim, strict=True
    ):
      rows.append((name, n, f'{bits:.1f}', f'{psnr:.2f}', f'{ssim:.3f}'))
    coded = report.kmeans[name]
    rows.append(
      (
        f'k-means, {coded.patch[0]} x {coded.patch[1]} patches',
        '–',
        f'{coded.bits:.1f}',
        f'{coded.psnr:.2f}',
        '–',
      )
    )
    items.append(
      viz.Picture(
        png=_by_tokens(result),
        caption=f'{name}: test images from the first tokens to all of them.',
      )
    )
    if name in report.flow_steps:
      light, dark = viz.both_themes(
        flow_steps_figure, dict(report.flow_steps[name])
      )
      items.append(
        viz.Picture(
          png=light,
          dark_png=dark,
          caption=f'{name}: quality by the number of steps of its flow.',
        )
      )
  light, dark = viz.both_themes(viz.rate_distortion, rates)
  items.append(
    viz.Picture(
      png=light, dark_png=dark, caption='Quality against bits per image.'
    )
  )
  first = next(iter(report.tokenizers.values()))
  codebooks = '; '.join(
    f'{name} uses {result.usage:.0%} of its codebook at a perplexity of '
    f'{result.perplexity:.0f}'
    for name, result in report.tokenizers.items()
  )
  table = viz.Table(
    columns=('tokenizer', 'tokens', 'bits', 'PSNR (dB)', 'SSIM'),
    rows=rows,
    caption=(
      'Mean over test images; values in [0, 1], peak 1, native size; SSIM with '
      f'a window of {first.ssim_window}. Bits are tokens times log2 of the '
      'codebook. k-means patch coding is fitted to the training images, at the '
      f'same bits as all tokens. {codebooks}.'
    ),
  )
  return viz.Section(
    title='What fewer tokens cost',
    text=(
      'One trained tokenizer serves every budget: any legal prefix of its '
      'tokens decodes.'
    ),
    items=[*items, table, *_quality(report), *_scales(report)],
  )


def _by_tokens(result: TokenizerResult) -> bytes:
  """A picture of test images from ever more tokens."""
  sheet = sheets.reconstructions(result.shown, result.decoded, cell=48)
  return viz.png(sheet)


def _quality(report: Report) -> list[viz.Table]:
  """What a PSNR costs, if any tokenizer has lengths to choose from."""
  rows = [
    (
      name,
      f'{cost.target:.2f}',
      f'{cost.hits:.0%}',
      f'{cost.tokens:.1f}',
      cost.fixed,
      f'{cost.saved:.0%}',
      f'{cost.agrees:.1%}',
    )
    for name, result in report.tokenizers.items()
    for cost in result.quality
  ]
  if not rows:
    return []
  columns = (
    'tokenizer',
    'target (dB)',
    'reached by',
    'tokens',
    'fixed tokens',
    'saved',
    'shortest',
  )
  caption = (
    'Each test image takes the shortest prefix that reaches a PSNR: the median '
    'one at a quarter and at half of all tokens. Beside it the smallest number '
    'of tokens that, the same for all images, lets as many reach it. Shortest: '
    'how often bisection finds what trying all lengths does.'
  )
  return [viz.Table(columns=columns, rows=rows, caption=caption)]


def _scales(report: Report) -> list[viz.Table]:
  """The codes of each scale, if any tokenizer has scales."""
  rows = [
    (
      name,
      images,
      f'{row.grid[0]} x {row.grid[1]}',
      row.vectors,
      f'{row.perplexity:.1f}',
      f'{row.kmeans:.1f}',
      f'{row.ratio:.2f}',
    )
    for name, result in report.tokenizers.items()
    for images, found in result.scales.items()
    for row in found
  ]
  if not rows:
    return []
  columns = (
    'tokenizer',
    'images',
    'scale',
    'vectors',
    'perplexity',
    'k-means',
    'ratio',
  )
  caption = (
    'How evenly each scale uses its codes. k-means: the perplexity of k-means '
    'with as many codes for that scale alone, fitted to what it has to code of '
    'the training images (one code each where they are fewer).'
  )
  return [viz.Table(columns=columns, rows=rows, caption=caption)]


def _generators(report: Report) -> viz.Section | None:
  if not report.generators:
    return None
  info = report.images.info
  names = list(info.class_names) or [str(i) for i in range(info.num_classes)]
  items: list[Any] = []
  for name, result in report.generators.items():
    samples = images_lib.to_uint8(result.samples)
    items.append(
      viz.Picture(
        png=viz.png(
          sheets.samples_by_class(samples, result.labels, names, cell=40)
        ),
        caption=f'{name}: the first samples of each class, none selected.',
      )
    )
    stages = sheets.sheet(
      result.stages,
      row_labels=[f'{n} token{"s" * (n > 1)}' for n in result.stage_tokens],
      cell=48,
    )
    items.append(
      viz.Picture(
        png=viz.png(stages),
        caption=f'{name}: the same samples as their tokens arrive.',
      )
    )
    if name in report.steps:
      light, dark = viz.both_themes(steps_figure, dict(report.steps[name]))
      items.append(
        viz.Picture(
          png=light,
          dark_png=dark,
          caption=f'{name}: quality by the number of steps.',
        )
      )
  by_name = {
    name if n is None else f'{name}, {n} step{"s" * (n > 1)}': result
    for name, whole in report.generators.items()
    for n, result in [(None, whole), *report.steps.get(name, {}).items()]
  }
  rows = [
    (
      name,
      f'{r.class_agreement:.3f}',
      f'{r.diversity:.2f}',
      f'{r.precision:.2f}',
      f'{r.recall:.2f}',
      f'{r.frechet:.2f}',
      f'{r.nearest_train:.2f}',
    )
    for name, r in by_name.items()
  ]
  first = next(iter(report.generators.values()))
  rows.append(
    (
      'test images',
      f'{report.judge_accuracy:.3f}',
      '1.00',
      '–',
      '–',
      f'{first.frechet_floor:.2f}',
      f'{first.nearest_train_test:.2f}',
    )
  )
  items.append(
    viz.Table(
      columns=(
        'generator',
        'class agreement',
        'diversity',
        'precision',
        'recall',
        'Fréchet',
        'nearest train',
      ),
      rows=rows,
      caption=(
        f'{len(first.samples)} samples each. The judge is a classifier trained '
        'on the training images alone; its accuracy on test images is in the '
        'last row. Diversity: mean distance within a class over that of the '
        'test images. Precision, recall (3 neighbours) and the Fréchet '
        "distance are in the judge's features, against the test images; the "
        'last row has the training images there. Nearest train: mean distance '
        'to the nearest training image, in pixels of [0, 1]; far smaller than '
        'that of the test images would mean memorising.'
      ),
    )
  )
  return viz.Section(
    title='Samples',
    text=(
      'Each generator predicts the tokens of a tokenizer above, given a class.'
    ),
    items=items,
  )


def _pruning(report: Report) -> viz.Section | None:
  if report.pruning is None:
    return None
  pictures = [
    viz.Picture(
      png=images_lib.encode_png(strip),
      caption=(
        f'{name} at half of the FLOPs: each test image, and what is left of it '
        'after the last layer; merged patches have one colour and an outline.'
      ),
    )
    for name, strip in report.pruning.pictures.items()
  ]
  light, dark = viz.both_themes(pruning_figure, report.pruning)
  curve = viz.Picture(
    png=light,
    dark_png=dark,
    caption='Accuracy by FLOPs; bars are standard errors over test images.',
  )
  tuned = {
    'no': 'nothing',
    'rates': 'its rates',
    'weights': 'weights',
  }
  rows = [
    (
      r.pruner,
      tuned[r.trained],
      '–' if r.budget is None else f'{r.budget:g}',
      f'{r.flops:.3f}',
      f'{r.tokens:.1f}',
      f'{r.accuracy:.3f}',
      _gap(r),
    )
    for r in report.pruning.rows
  ]
  largest = max(r.error for r in report.pruning.rows)
  table = viz.Table(
    columns=(
      'pruner',
      'trained for it',
      'budget',
      'FLOPs',
      'tokens',
      'accuracy',
      'over random',
    ),
    rows=rows,
    caption=(
      'A small ViT with pruners after the attention of every layer; rows of '
      'one budget have the same FLOPs, over those of the unpruned model, by '
      'the formula of tokpress_jax.pruners.flops, and but for DiffRate the '
      'same tokens in each layer. Tokens: entering a layer, mean over layers. '
      f'Accuracy on {report.pruning.images} test images, standard error at '
      f'most {largest:.3f}; random is the mean of {report.pruning.seeds} '
      'draws. Over random: at the same FLOPs, with weights that were trained '
      'alike, and the standard error of the paired difference. The smaller '
      'image is shrunk by area, the position table with it. '
      f'{verdicts(report.pruning)}'
    ),
  )
  return viz.Section(
    title='Pruning inside a classifier',
    text='Tokens that the next layers can do without.',
    items=[curve, *pictures, table],
  )


def _gap(row: PruningRow) -> str:
  """What a pruner has over random pruning, as a cell."""
  if row.over_random is None:
    return '–'
  return f'{row.over_random:+.3f} ± {row.over_random_error:.3f}'


def _training(report: Report) -> viz.Section | None:
  pictures = []
  for name, curves in report.curves.items():
    if 'loss' not in curves:
      continue
    light, dark = viz.both_themes(viz.loss_curve, {name: curves['loss']})
    pictures.append(
      viz.Picture(
        png=light, dark_png=dark, caption=f'{name}: training loss by step.'
      )
    )
  for (name, light), (_, dark) in zip(
    _scale_curves(report, 'light'), _scale_curves(report, 'dark'), strict=True
  ):
    pictures.append(
      viz.Picture(
        png=viz.figure_png(light),
        dark_png=viz.figure_png(dark),
        caption=(
          f'{name}: error, quality and codes in use by step. Perplexity: of '
          'running averages over the training batches.'
        ),
      )
    )
  if not pictures:
    return None
  return viz.Section(title='Training', items=pictures)


def _scale_curves(report: Report, theme: viz.Theme) -> list[tuple[str, Any]]:
  """(name, figure) of each multi-scale tokenizer."""
  found = []
  for name, result in report.tokenizers.items():
    curves = dict(report.curves.get(name, {}))
    figure = training.scale_curves(curves, result.config, theme=theme)
    if figure is not None:
      found.append((name, figure))
  return found
