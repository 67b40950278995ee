"""Token files: what writing and reading them costs beside the tokenizer.

`seconds` are of squares in memory to a file, and of a file to images;
`peer_seconds` of the same batches through the tokenizer alone, so that `ratio`
is the share of its throughput that is left. Both alternate.
"""

from __future__ import annotations

import functools
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from tokpress_jax.bench import harness
from tokpress_jax.data import encoder as encoding
from tokpress_jax.data import streaming
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import load as load_lib
from tokpress_jax.io import tokens
from tokpress_jax.tokenizers import Fixed

CODINGS = ('plain', 'packed', 'adaptive')


def run(
  *,
  model: str,
  images: int = 1024,
  batch: int = 64,
  repeats: int = 3,
) -> list[harness.Row]:
  """Times encoding to files and decoding from them.

  Args:
    model: a tokenizer, as `load` takes it.
    images: how many squares, of noise.
    batch: squares at once.
    repeats: timed calls of each.

  Returns:
    For each coding a row for encoding and one for decoding, with the bytes of
    the file.

  Raises:
    UserError: it is no tokenizer with codes.
  """
  loaded = load_lib.load(model)
  if loaded.spec.family != 'tokenizer' or loaded.module.config.continuous:
    raise UserError(f'{model} is no tokenizer with codes')
  config = loaded.module.config
  side, size = config.image_size, (images, batch)
  rng = np.random.default_rng(0)
  squares = rng.integers(0, 256, (images, side, side, config.channels))
  squares = squares.astype(np.uint8)
  place = images_lib.fit_image(squares[0], side)[1]
  views = [
    encoding.View(
      squares=x[None], placement=place, index=i, label=-1, view=0, name=''
    )
    for i, x in enumerate(squares)
  ]
  encoder = encoding.Encoder(loaded, Fixed(), batch)
  encode = jax.jit(lambda m, x: m.encode(images_lib.to_float(x)).codes)
  decode = jax.jit(lambda m, codes: m.decode_codes(codes))
  records = list(encoder(views))
  codes = np.concatenate([r.codes for r in records])

  def alone(function: Any, rows: np.ndarray) -> list[Any]:
    return list(
      streaming.stream(
        lambda x: function(loaded, x), ((x,) for x in rows), batch
      )
    )

  found = []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'x.tok'
    for coding in CODINGS:
      header = encoding.header_of(
        loaded, tokens=config.num_tokens, coding=coding
      )
      write = functools.partial(_write, path, header, views, encoder)

      def read() -> list[Any]:
        rows = ((r.codes[0],) for r in tokens.Reader([path]))
        return list(streaming.stream(lambda x: decode(loaded, x), rows, batch))

      for name, ours, peer in (
        ('encode', write, lambda: alone(encode, squares)),
        ('decode', read, lambda: alone(decode, codes)),
      ):
        seconds, peer_seconds = harness.time_calls(ours, peer, repeats=repeats)
        row: harness.Row = {'name': f'{name}, {coding}'}
        row |= harness.versus('tokenizer alone', seconds, peer_seconds)
        row |= {'images': size[0], 'batch': size[1]}
        row['bytes_per_image'] = path.stat().st_size / images
        found.append(row)
  return found


def _write(path: pathlib.Path, header: tokens.Header, views: Any, encoder: Any):
  return tokens.write(path, header, encoder(views))
