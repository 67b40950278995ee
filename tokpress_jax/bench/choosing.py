"""What pruners leave of a trained tower's images, as rows of a bench.

Dimension letters: N tokens, P features.
"""

from __future__ import annotations

import dataclasses
import fractions
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tokpress_jax import data, models, registry, report, types, viz, workdir
from tokpress_jax.bench import harness
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import load as load_lib
from tokpress_jax.io import outputs
from tokpress_jax.models import observing
from tokpress_jax.report import choosing


def left_of(
  model: str,
  methods: Sequence[str] | None,
  *,
  everything: Sequence[str],
  text_model: str | None = None,
  dataset: str | None = None,
  shares: float | str | Sequence[float | str] = choosing.SHARES,
  layer: int = -2,
  train_images: int = 4096,
  test_images: int = 2048,
  picture: str | None = None,
) -> list[harness.Row]:
  """Measures what methods leave of images; see `report.measure_choosing`.

  Args:
    model: a ViT or a CLIP: a work directory, whose data are read, or what
      `load` takes.
    methods: names of pruners; None for `everything`.
    everything: those that are measured then, but for those that read a text
      where there is none.
    text_model: the text tower that belongs to a ViT; a CLIP has its own.
    dataset: another data set; needed where `model` is no work directory.
    shares: of the patches, such as 0.25 or 2/9.
    layer: whose output is read.
    train_images: for the linear probe.
    test_images: that are measured.
    picture: a PNG to draw the differences to random pruning in, which is then
      one of the methods.

  Returns:
    A row for each method and share. `probe_over_random` and
    `image_at_1_over_random` are differences to random pruning of as many
    tokens: where they are negative, a method does not beat it.

  Raises:
    UserError: if there are no texts for a method that reads one, or a text
      tower does not fit, or the images are of no data set.
  """
  known = [entry.name for entry in registry.entries('pruner')]
  if wrong := sorted(set(methods or ()) - set(known)):
    raise UserError(
      f'--model measures pruners without weights of their own, and '
      f'{", ".join(wrong)} is none. {did_you_mean(wrong[0], everything)}'
    )
  if picture is not None:
    if pathlib.Path(picture).suffix.lower() != '.png':
      raise UserError(f'the picture is a .png file, got {picture}')
    outputs.check_file(picture, '--picture')
  loaded = load_lib.load(model)
  text = None
  if isinstance(loaded.module.config, models.CLIPConfig):
    config = loaded.module.config
    loaded, text = models.clip_towers(loaded)
  else:
    config = None
    if text_model is not None:
      text = load_lib.load(text_model)
  images = report.image_set(
    _data_of(model, dataset, loaded.module.config),
    max_train=train_images,
    max_test=test_images,
  )
  texts = _texts_of(loaded, text, config, images)
  chosen = everything if methods is None else methods
  reads = [n for n in chosen if registry.resolve(n)().needs & observing.GIVEN]
  if texts is None and reads:
    if methods is not None:
      raise UserError(
        f'{", ".join(reads)} read a text, and there is none: measure a CLIP, '
        'or a tower with its --text-model on a data set with texts'
      )
    chosen = [n for n in chosen if n not in reads]
  if picture is not None:
    chosen = list(dict.fromkeys((*chosen, 'random')))
  given = (shares,) if isinstance(shares, int | float | str) else shares
  rows = report.measure_choosing(
    loaded,
    images,
    chosen,
    shares=[_share(x) for x in given],
    layer=layer,
    texts=texts,
  )
  if picture is not None:
    figure = report.choosing_figure(rows, images=len(images.test))
    pathlib.Path(picture).write_bytes(viz.figure_png(figure))
  random = {row.tokens: row for row in rows if row.method == 'random'}
  return [_row(row, random.get(row.tokens)) for row in rows]


def _row(
  row: report.ChoosingRow, random: report.ChoosingRow | None
) -> harness.Row:
  """As a line of the table."""
  found: harness.Row = {
    'name': f'{row.method}/{row.tokens}',
    'kept': row.kept,
    'coverage': row.coverage,
    'diversity': row.diversity,
    'error': row.error,
    'probe': row.probe,
  }
  if random is not None:
    found['probe_over_random'] = row.probe - random.probe
  if row.recalls is not None:
    found |= dataclasses.asdict(row.recalls)
    if random is not None and random.recalls is not None:
      gain = row.recalls.image_at_1 - random.recalls.image_at_1
      found['image_at_1_over_random'] = gain
  return found


def _share(given: float | str) -> float:
  """A share of the patches, of what is typed."""
  try:
    share = float(fractions.Fraction(str(given)))
  except (ValueError, ZeroDivisionError):
    share = 0.0
  if not 0 < share <= 1:
    raise UserError(
      f'shares are of the patches, such as 0.25 or 2/9; got {given}'
    )
  return share


def _data_of(
  model: str, dataset: str | None, config: models.ViTConfig
) -> data.DataConfig:
  """The images: of the run, or of a data set at the tower's own size."""
  if dataset is not None:
    return data.DataConfig(
      name=dataset,
      image_size=config.image_size,
      channels=1 if config.channels == 1 else 3,
    )
  if not workdir.is_workdir(pathlib.Path(os.fspath(model))):
    raise UserError(
      f'{model} is no work directory, whose images could be measured; name a '
      'data set, such as --dataset scenes'
    )
  return workdir.read_config(model).data


def _texts_of(
  image: types.Loaded,
  text: types.Loaded | None,
  config: models.CLIPConfig | None,
  images: report.ImageSet,
) -> report.Texts | None:
  """The embedded texts of a data set, if it has some and something reads."""
  codec = images.info.codec
  train, test = images.train_texts, images.test_texts
  if text is None or codec is None or train is None or test is None:
    return None
  read: Any = models.clip_codes
  if config is not None:
    read = config.codes
  if config is None or config.words != codec.words:
    train, test = (read(codec.decode(codes)) for codes in (train, test))
  found = report.embed_texts(text, train, test)
  tower = image.module.config
  features = tower.features or tower.width
  if found.test.shape[1] != features:
    raise UserError(
      f'the image tower gives {features} features and the text tower '
      f'{found.test.shape[1]}: they do not belong together'
    )
  return found
