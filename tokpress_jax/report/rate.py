"""Rate and distortion of token files, beside JPEG and WebP.

Whole photographs are tiled, tokenized, written as token files and read back:
what is counted are bytes of files. The header of a token file, which all its
images share, is counted apart; of JPEG and WebP the files are counted as they
are, and JPEG's once more without the tables that it could share too. The plain
way to fewer bits than either reaches is a smaller picture: it is a baseline.

Dimension letters: H rows, W columns, C channels of an image.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tokpress_jax import metrics, types, viz
from tokpress_jax.data import encoder, streaming
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import tokens
from tokpress_jax.tokenizers import Fixed

if TYPE_CHECKING:
  from matplotlib.figure import Figure

JPEG_QUALITIES = (1, 3, 5, 8, 12, 20, 30, 45, 60, 80)
WEBP_QUALITIES = (0, 2, 5, 10, 20, 35, 50, 70, 85)
_SMALL = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """One setting of one coder, a mean over images.

  Attributes:
    coder: as 'tokens, adaptive' or 'JPEG'.
    setting: tokens of a tile, or the quality.
    bits: per pixel.
    psnr: dB.
    ssim: structural similarity.
  """

  coder: str
  setting: int
  bits: float
  psnr: float
  ssim: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
  """What was measured.

  Attributes:
    points: of each coder in the order of their settings.
    header: bytes that the images of a token file share.
    images: name -> (H, W).
  """

  points: tuple[Point, ...]
  header: int
  images: Mapping[str, tuple[int, int]]

  def of(self, coder: str) -> list[Point]:
    """The points of one coder."""
    return [p for p in self.points if p.coder == coder]

  @property
  def coders(self) -> list[str]:
    """Their names, in order."""
    return list(dict.fromkeys(p.coder for p in self.points))

  def bits_at(self, coder: str, psnr: float) -> float | None:
    """Bits per pixel at a PSNR, between two points; None outside of them."""
    rising = sorted(self.of(coder), key=lambda p: p.psnr)
    if not rising or not rising[0].psnr <= psnr <= rising[-1].psnr:
      return None
    return float(
      np.interp(psnr, [p.psnr for p in rising], [p.bits for p in rising])
    )


def measure_rates(
  tokenizer: types.Loaded,
  images: Mapping[str, np.ndarray],
  *,
  lengths: Sequence[int],
  codings: Sequence[str] = ('packed', 'adaptive'),
  batch: int = 64,
) -> Rates:
  """Encodes photographs at several rates.

  Args:
    tokenizer: with codes.
    images: uint8 [H, W, C] by name.
    lengths: tokens of each tile, legal ones.
    codings: of `io.token_codings`.
    batch: tiles at once.

  Raises:
    UserError: the tokenizer has no codes.
  """
  config = tokenizer.module.config
  if config.continuous:
    raise UserError('a continuous tokenizer has no codes to count')
  points: list[Point] = []
  header = encoder.header_of(
    tokenizer, tokens=config.num_tokens, fit='tile', records=len(images)
  )
  shared = 0
  records = {
    n: list(_encode(tokenizer, images, n, batch)) for n in sorted(set(lengths))
  }
  pictures = {
    n: _decode(tokenizer, found, batch) for n, found in records.items()
  }
  for coding in codings:
    for n, found in records.items():
      own = dataclasses.replace(header, coding=coding, tokens=n)
      sizes, shared = _sizes(own, found)
      points.append(_mean(f'tokens, {coding}', n, images, sizes, pictures[n]))
  bare: list[Point] = []
  for name, kind, qualities, part in (
    ('JPEG', 'JPEG', JPEG_QUALITIES, 1),
    ('WebP', 'WebP', WEBP_QUALITIES, 1),
    (f'WebP of 1/{_SMALL} the side', 'WebP', WEBP_QUALITIES, _SMALL),
  ):
    for quality in qualities:
      files = [_file(x, kind, quality, part) for x in images.values()]
      sizes = [len(data) for data, _ in files]
      decoded = [again for _, again in files]
      points.append(_mean(name, quality, images, sizes, decoded))
      if kind == 'JPEG':
        less = [len(data) - _tables(data) for data, _ in files]
        bare.append(
          dataclasses.replace(
            points[-1],
            coder='JPEG without tables',
            bits=_bits(images, less),
          )
        )
    if kind == 'JPEG':
      points += bare
  return Rates(
    points=tuple(points),
    header=shared,
    images={name: x.shape[:2] for name, x in images.items()},
  )


def _encode(
  tokenizer: types.Loaded,
  images: Mapping[str, np.ndarray],
  length: int,
  batch: int,
) -> Iterator[tokens.Record]:
  size = tokenizer.module.config.image_size
  encode = encoder.Encoder(tokenizer, Fixed(tokens=length), batch)
  views = []
  for index, (name, pixels) in enumerate(images.items()):
    squares, placement = images_lib.fit_image(pixels, size, policy='tile')
    views.append(
      encoder.View(
        squares=squares,
        placement=placement,
        index=index,
        label=-1,
        view=0,
        name=name,
      )
    )
  yield from encode(views)


def _decode(
  tokenizer: types.Loaded, records: Sequence[tokens.Record], batch: int
) -> list[np.ndarray]:

  named = ['length', *(['positions'] if records[0].slots is not None else [])]

  @jax.jit
  def decode(model: Any, codes: Any, *more: Any) -> Any:
    return model.decode_codes(codes, **dict(zip(named, more, strict=True)))

  pictures = []
  for record in records:
    given = [record.codes, record.lengths]
    if record.slots is not None:
      given.append(record.slots[..., None])
    squares = streaming.in_batches(
      lambda *x: decode(tokenizer, *x), given, batch
    )
    pixels = images_lib.to_uint8(squares)
    pictures.append(images_lib.unfit_image(pixels, record.placement))
  return pictures


def _sizes(
  header: tokens.Header, records: Sequence[tokens.Record]
) -> tuple[list[int], int]:
  """Bytes of each record, and of what they share, in a file of them all."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'x.tok'
    tokens.write(path, header, records)
    reader = tokens.Reader([path])
    for ours, theirs in zip(records, reader, strict=True):
      np.testing.assert_array_equal(ours.codes, theirs.codes)
    sizes = [reader.size_of(i) for i in range(len(reader))]
    return sizes, path.stat().st_size - sum(sizes)


def _bits(images: Mapping[str, np.ndarray], sizes: Sequence[int]) -> float:
  """Mean bits per pixel of files of so many bytes."""
  rates = [
    8 * size / (x.shape[0] * x.shape[1])
    for x, size in zip(images.values(), sizes, strict=True)
  ]
  return float(np.mean(rates))


def _mean(
  coder: str,
  setting: int,
  images: Mapping[str, np.ndarray],
  sizes: Sequence[int],
  decoded: Sequence[np.ndarray],
) -> Point:
  psnr, ssim = [], []
  for x, y in zip(images.values(), decoded, strict=True):
    unit = lambda pixels: jnp.asarray(pixels, jnp.float32)[None] / 255
    psnr.append(float(metrics.psnr(unit(y), unit(x))[0]))
    ssim.append(float(metrics.ssim(unit(y), unit(x))[0]))
  mean = lambda values: float(np.mean(values))
  return Point(
    coder=coder,
    setting=setting,
    bits=_bits(images, sizes),
    psnr=mean(psnr),
    ssim=mean(ssim),
  )


def _file(
  pixels: np.ndarray, kind: str, quality: int, part: int
) -> tuple[bytes, np.ndarray]:
  """A file, as small as the encoder makes it, and the image that it gives.

  Args:
    pixels: uint8 [H, W, C].
    kind: of the file.
    quality: of the encoder.
    part: the image is stored at 1 / part of each side.
  """
  image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
  size = image.size
  if part > 1:
    smaller = (max(1, size[0] // part), max(1, size[1] // part))
    image = image.resize(smaller, Image.Resampling.LANCZOS)
  options = {'optimize': True} if kind == 'JPEG' else {'method': 6}
  buffer = io.BytesIO()
  image.save(buffer, kind, quality=quality, **options)
  data = buffer.getvalue()
  again = Image.open(io.BytesIO(data)).convert(image.mode)
  if part > 1:
    again = again.resize(size, Image.Resampling.BICUBIC)
  return data, np.asarray(again).reshape(pixels.shape)


def _tables(data: bytes) -> int:
  """Bytes of a JPEG file before its scan: tables and the frame's header."""
  place = 2
  while place + 4 <= len(data):
    marker = data[place + 1]
    if marker == 0xDA:  # Start of scan.
      return place
    place += 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
  return 0


def tables(found: Rates) -> tuple[viz.Table, ...]:
  """The numbers, and bits per pixel at the qualities of the tokens."""
  count = len(found.images)
  first = next(iter(found.coders))
  others = [c for c in found.coders if c != first]
  shown = lambda value: None if value is None else f'{value:.4f}'
  return (
    viz.Table(
      columns=['coder', 'setting', 'bits/pixel', 'PSNR (dB)', 'SSIM'],
      rows=[
        [p.coder, p.setting, f'{p.bits:.4f}', f'{p.psnr:.2f}', f'{p.ssim:.3f}']
        for p in found.points
      ],
      caption=(
        f'Means over {count} photographs ({", ".join(found.images)}). Token '
        f'files share {found.header} bytes, which are not counted.'
      ),
    ),
    viz.Table(
      columns=['PSNR (dB)', first, *others],
      rows=[
        [
          f'{p.psnr:.2f}',
          f'{p.bits:.4f}',
          *(shown(found.bits_at(c, p.psnr)) for c in others),
        ]
        for p in found.of(first)
      ],
      caption='Bits per pixel at the same PSNR; a dash where a coder has none.',
    ),
  )


def rate_figure(found: Rates, *, theme: viz.Theme = 'light') -> Figure:
  """PSNR and SSIM by bits per pixel."""
  figure, (left, right) = viz.blank(2, size=(9.6, 3.6), theme=theme)
  for axes, name, label in (
    (left, 'psnr', 'PSNR (dB)'),
    (right, 'ssim', 'SSIM'),
  ):
    for coder, color in zip(found.coders, viz.LINES[theme], strict=False):
      own = found.of(coder)
      axes.plot(
        [p.bits for p in own],
        [getattr(p, name) for p in own],
        marker='o',
        ms=4,
        lw=1.6,
        color=color,
        label=coder,
      )
    axes.set_xscale('log')
    axes.set_xlabel('bits per pixel')
    axes.set_ylabel(label)
    viz.dress(axes, theme)
  left.legend(frameon=False, labelcolor=viz.INK[theme], fontsize=8)
  return figure
