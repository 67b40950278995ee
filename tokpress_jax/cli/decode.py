"""`tokpress decode MODEL FILE.tok --out FOLDER`."""

import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import tyro

from tokpress_jax.cli import common, texts
from tokpress_jax.data import streaming
from tokpress_jax.errors import UserError
from tokpress_jax.generators import coding
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import safetensors, token_sets, tokens
from tokpress_jax.tokenizers import legal_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(texts.TextFlags):
  """Decode token files to PNG images of their original sizes.

  Attributes:
    model: The tokenizer that encoded them.
    files: Token files of one set, see `tokpress_jax.io.tokens`, or a directory
      of them.
    out: Folder for the images.
    generator: The generator that coded them (`encode --coding generator`).
    recode: Also write the tokens to this file, coded adaptively, so that it
      reads without the generator.
    tokens: Use only so many tokens of each image.
    batch_size: Images at once.
  """

  model: tyro.conf.Positional[str]
  files: tyro.conf.Positional[tuple[str, ...]]
  out: str = 'decoded'
  tokens: int | None = None
  generator: str | None = None
  recode: str | None = None
  batch_size: int = 64


def main(argv: Sequence[str]) -> None:
  """Writes the images."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress decode')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config
  if not flags.files:
    raise UserError('Name at least one token file.')
  coder = None
  if flags.generator is not None:
    coder = common.load(flags.generator, 'generator')
  files = [path for name in flags.files for path in token_sets.files_of(name)]
  found = tokens.Reader(files, coding=coding.opener(coder))
  found.header.check_tokenizer(
    str(files[0]), config, safetensors.fingerprint(model.variables)
  )
  if flags.recode is not None:
    header = dataclasses.replace(
      found.header, coding='adaptive', coder='', shard=(0, 1)
    )
    tokens.write(flags.recode, header, found)
  limit = config.num_tokens
  if flags.tokens is not None:
    limit = legal_length(flags.tokens, config.boundaries)
  texts_read = flags.for_decoder(config, len(found))
  waiting: collections.deque[tokens.Record] = collections.deque()

  def rows() -> Iterator[tuple[np.ndarray, ...]]:
    for number, record in enumerate(found):
      waiting.append(record)
      text = () if texts_read is None else (texts_read[number],)
      for row, length in enumerate(record.lengths):
        more = () if record.slots is None else (record.slots[row, :, None],)
        yield record.codes[row], np.minimum(length, limit), *more, *text

  named: tuple[str, ...] = ('length',)
  named += ('positions',) if found.header.selects else ()
  named += () if texts_read is None else ('condition',)
  decode = jax.jit(
    lambda model, codes, *more: model.decode_codes(
      codes, **dict(zip(named, more, strict=True))
    )
  )
  size = flags.batch_size
  if found.header.fit != 'tile':
    size = min(size, len(found))
  squares = streaming.stream(functools.partial(decode, model), rows(), size)
  out, names = pathlib.Path(flags.out), _Names()
  for first in squares:
    record = waiting.popleft()
    rest = itertools.islice(squares, len(record.codes) - 1)
    pixels = images_lib.to_uint8(np.stack([first, *rest]))
    name = names.give(record.name or f'{record.index:08}')
    common.write_png(
      out / name, images_lib.unfit_image(pixels, record.placement)
    )
  print(f'{len(found)} images in {out}')


class _Names:
  """PNG names, numbered where several images have one name."""

  def __init__(self) -> None:
    self._taken: dict[str, int] = {}

  def give(self, name: str) -> str:
    stem = pathlib.Path(name).stem
    self._taken[stem] = self._taken.get(stem, 0) + 1
    number = self._taken[stem]
    return f'{stem}.png' if number == 1 else f'{stem}_{number}.png'
