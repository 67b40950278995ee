"""`tokpress encode MODEL`: image files, or a split of a data set, to tokens."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import tqdm
import tyro

from tokpress_jax import data
from tokpress_jax.cli import common
from tokpress_jax.data import encoder
from tokpress_jax.data.config import OnError
from tokpress_jax.data.views import Views
from tokpress_jax.errors import UserError
from tokpress_jax.generators import coding
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import token_header, token_sets, tokens
from tokpress_jax.tokenizers import Fixed, Halting, Quality, legal_length

# Records per file of a set, unless --shards says how many files there are.
_PER_FILE = 16384


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Encode image files, or a data set, as tokens; see `tokpress_jax.io.tokens`.

  `tokpress encode MODEL photo.jpg folder/ --out photos.tok` writes one file,
  which `tokpress decode` turns into images again.

  `tokpress encode MODEL --data NAME --split train --out DIR` writes a cache,
  DIR/train-00000-of-00079.tok and so on, from which a generator trains:
  `--data.name tokens --data.data-dir DIR`. Interrupted, the same command goes
  on with the files that are missing.

  Attributes:
    model: A tokenizer: model directory, work directory or hub name.
    images: Image files, and folders of them; none with --data.
    out: The token file, `tokens.tok` by default, or a directory for it; with
      --data the directory of the cache, `tokens` by default.
    tokens: Tokens per image; all by default. Between two legal lengths the
      lower one is used, and said.
    psnr: Instead, as few tokens for each image as give it so many dB.
    loss: Instead, of a tokenizer that halts (KARL): as few tokens as it thinks
      are needed for so small a loss.
    coding: How codes are stored: plain (fastest to read), packed (log2 of the
      codebook's size each), adaptive (by the frequencies of those before; the
      smallest without a generator), generator (by --generator).
    generator: A generator of this tokenizer, whose probabilities code; decode
      needs it too.
    fit: How images become square: crop, pad, resize or tile.
    batch_size: Images at once, over all devices.
    data: A data set, as --data.name of `tokpress train`.
    split: A split of it.
    data_dir: Where data sets lie; of `folder`, the images.
    image_key: The TFDS feature that holds the image.
    label_key: The TFDS feature that holds the class.
    flip: Encode the mirror of every view too.
    crops: Random crops of each image, instead of the central square. They
      depend on --seed and the image's number only.
    crop_min: Smallest side of a crop, as a fraction of the shorter side.
    crop_max: Largest side of a crop.
    seed: Of the crops.
    shards: Files of the cache; one per 16,384 encoded images by default.
    part: This process's number and how many there are: `--part 3 16` writes
      files 3, 19, ... By default all; on each host of a TPU slice its own.
    on_error: What an unreadable image does: `raise` stops, `skip` leaves it
      out, and says so.
  """

  model: tyro.conf.Positional[str]
  images: tyro.conf.Positional[tuple[str, ...]] = ()
  out: str | None = None
  tokens: int | None = None
  psnr: float | None = None
  loss: float | None = None
  coding: Literal[token_header.CODINGS] = 'plain'  # type: ignore[valid-type]
  generator: str | None = None
  fit: images_lib.Policy = 'crop'
  batch_size: int = 64
  data: str | None = None
  split: str = 'train'
  data_dir: str | None = None
  image_key: str = 'image'
  label_key: str = 'label'
  flip: bool = False
  crops: int = 0
  crop_min: float = 0.8
  crop_max: float = 1.0
  seed: int = 0
  shards: int | None = None
  part: tuple[int, int] | None = None
  on_error: OnError = 'raise'


def main(argv: Sequence[str]) -> None:
  """Writes the files and prints their size."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress encode')
  _check(flags)
  out = flags.out or ('tokens' if flags.data else f'tokens{tokens.SUFFIX}')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config
  policy, length = _policy(flags, config)
  if config.continuous:
    raise UserError(
      f'{flags.model} has continuous tokens, of which a token file holds none; '
      'take a tokenizer with a codebook.'
    )
  coder = None
  if flags.generator is not None:
    coder = common.load(flags.generator, 'generator')
  views = Views(
    size=config.image_size,
    fit=flags.fit,
    crops=flags.crops,
    crop_min=flags.crop_min,
    crop_max=flags.crop_max,
    flip=flags.flip,
    seed=flags.seed,
  )
  source = _open(flags, config)
  header = encoder.header_of(
    model,
    tokens=length,
    coding=flags.coding,
    coder='' if coder is None else coding.coder_of(coder),
    lengths=_lengths(flags),
    fit=flags.fit,
    source=source.info.name,
    split=source.info.split,
    records=len(source),
    flip=flags.flip,
    crops=flags.crops,
    # Of no meaning without crops, and then not to be compared.
    crop_min=flags.crop_min if flags.crops else 1.0,
    crop_max=flags.crop_max if flags.crops else 1.0,
    seed=flags.seed if flags.crops else 0,
    num_classes=source.info.num_classes,
    class_names=source.info.class_names,
  )
  plan = _plan(flags, out, header, len(views))
  most = max((len(part.records) for part in plan), default=1) * len(views)
  size = (
    flags.batch_size if flags.fit == 'tile' else min(flags.batch_size, most)
  )
  encode = encoder.Encoder(model, policy, size)
  coded = coding.opener(coder)(header)
  tally: collections.Counter[str] = collections.Counter()
  total = sum(len(part.records) for part in plan)
  with tqdm.tqdm(total=total, unit='image', disable=None) as bar:

    def watched(records: Iterable[tokens.Record]) -> Iterator[tokens.Record]:
      for record in records:
        new = record.view == 0
        bar.update(new)
        tally['images'] += new
        tally['squares'] += len(record.codes)
        tally['tokens'] += int(record.lengths.sum())
        yield record

    for part in plan:
      seen = encoder.read_views(
        source, part.records, views, on_error=flags.on_error
      )
      tokens.write(
        part.path,
        dataclasses.replace(header, shard=part.shard),
        watched(encode(seen)),
        coding=coded,
      )
      tally['bytes'] += part.path.stat().st_size
  each = tally['tokens'] / max(tally['squares'], 1)
  print(
    f'{tally["images"]} images, {tally["squares"]} x {each:.4g} tokens of '
    f'{config.bits_per_token:.4g} bits; {tally["bytes"]} bytes '
    f'({flags.coding}): {out}'
  )
  if flags.data is not None:
    ((count, there),) = token_sets.list_sets(out)[header.split].items()
    print(
      f'{len(plan)} files written; of the {count} files of the split '
      f'{header.split!r} {len(there)} are there'
    )


@dataclasses.dataclass(frozen=True)
class _Part:
  """One file that is to be written: where, its number, and of what."""

  path: pathlib.Path
  shard: tuple[int, int]
  records: range


def _policy(flags: Flags, config: Any) -> tuple[Any, int]:
  """How many tokens each square gets, and the most of them."""
  whole = config.num_tokens
  if flags.psnr is not None:
    return Quality(target=flags.psnr), whole
  if flags.loss is not None:
    common.check_halts(config, flags.model)
    return Halting(target=flags.loss), whole
  length = whole if flags.tokens is None else flags.tokens
  length = legal_length(length, config.boundaries)
  return Fixed(tokens=length), length


def _lengths(flags: Flags) -> str:
  """What chose the lengths, for the header."""
  named = {'psnr': flags.psnr, 'loss': flags.loss}
  return ','.join(f'{k}={v:g}' for k, v in named.items() if v is not None)


def _check(flags: Flags) -> None:
  """Raises `UserError` if the options contradict each other."""
  if flags.data is None:
    only = ('data_dir', 'shards', 'part')
    given = [name for name in only if getattr(flags, name) is not None]
    if given:
      shown = ', '.join(f'--{name.replace("_", "-")}' for name in given)
      raise UserError(f'{shown} without --data: name the data set.')
  elif flags.images:
    raise UserError(
      f'Give image files ({flags.images[0]}) or --data {flags.data}, not both.'
    )
  elif flags.data == 'tokens':
    raise UserError('The data set `tokens` holds no images to encode.')
  part, parts = flags.part or (0, 1)
  if not 0 <= part < parts:
    raise UserError(
      f'--part {part} {parts}: expected a number from 0 and, above it, how '
      'many parts there are.'
    )
  given = [
    x for x in ('tokens', 'psnr', 'loss') if getattr(flags, x) is not None
  ]
  if len(given) > 1:
    raise UserError(f'--{" and --".join(given)}: give one of them.')
  if (flags.coding == 'generator') != (flags.generator is not None):
    raise UserError(
      '--coding generator and --generator MODEL go together: the model gives '
      'the probabilities.'
    )
  if flags.batch_size < 1 or (flags.shards is not None and flags.shards < 1):
    raise UserError(
      f'--batch-size {flags.batch_size}, --shards {flags.shards}: expected 1 '
      'or more.'
    )


def _open(flags: Flags, config: Any) -> data.Dataset:
  """Opens what is to be encoded."""
  if flags.data is None:
    return encoder.Files(common.find_images(flags.images), config)
  return data.open_dataset(
    data.DataConfig(
      name=flags.data,
      split=flags.split,
      data_dir=flags.data_dir,
      image_size=config.image_size,
      channels=config.channels,
      fit=flags.fit,
      image_key=flags.image_key,
      label_key=flags.label_key,
      on_error=flags.on_error,
    )
  )


def _plan(
  flags: Flags, out: str, header: tokens.Header, views: int
) -> list[_Part]:
  """Which files this process has to write.

  Raises:
    UserError: The directory holds tokens of the split that are others.
  """
  if flags.data is None:
    path = pathlib.Path(out)
    if out.endswith('/') or path.is_dir():
      path = token_sets.shard_path(out, 'images', 0, 1)
    return [_Part(path, (0, 1), range(header.records))]
  count = flags.shards or math.ceil(header.records * views / _PER_FILE)
  count = min(count, header.records)
  others = token_sets.list_sets(out).get(header.split, {})
  if set(others) - {count}:
    raise UserError(
      f'{out} holds tokens of the split {header.split!r} in '
      f'{min(set(others) - {count})} files, these would be {count}. Give '
      'another --out, or --shards as it was.'
    )
  number, parts = flags.part or (jax.process_index(), jax.process_count())
  plan = []
  for shard in range(number, count, parts):
    path = token_sets.shard_path(out, header.split, shard, count)
    first, last = (header.records * i // count for i in (shard, shard + 1))
    if path.exists():
      wrong = tokens.Reader([path]).header.differences(header)
      if wrong:
        raise UserError(
          f'{path} holds other tokens than this command would write (there, '
          f'here): {"; ".join(wrong)}. Give another --out, or remove it.'
        )
      continue
    plan.append(_Part(path, (shard, count), range(first, last)))
  return plan
