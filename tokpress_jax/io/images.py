"""Images of real life, at the edge of the library.

H, W are an image's height and width, C its channels (1 grey, 3 RGB), S the
side of the square a model sees, T the number of tiles.

Inside the library an image is float32 `[H, W, C]` in [-1, 1]; at the edge it
is uint8. `load_image` takes a path, encoded bytes, a file object, a PIL image
or an array and always gives uint8 `[H, W, C]`:

* the EXIF orientation is applied;
* transparency is composited over white;
* palette, CMYK, YCbCr, Lab and HSV images become RGB, bilevel ones grey;
* 16-bit grey is scaled to 8 bits (65,535 becomes 255); PIL itself reads
  16-bit RGB by its high bytes;
* of an animation the first frame is taken.

`fit_image` then makes it square by an explicit policy, and `unfit_image` puts
what a model made of it back to the original size:

| policy | what a model sees                        | `unfit_image` gives     |
|--------|------------------------------------------|-------------------------|
| crop   | the central square                       | that square, full size  |
| pad    | all, proportions kept, on a grey square  | all, original size      |
| resize | all, stretched to a square               | all, original size      |
| tile   | T squares at full resolution             | all, pixel for pixel    |
"""

import dataclasses
import io
import math
import os
import struct
import zlib
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from tokpress_jax import errors

Policy = Literal['crop', 'pad', 'resize', 'tile']
POLICIES: tuple[str, ...] = get_args(Policy)
PAD_VALUE = 127  # the mid-grey around a padded image, about 0 in [-1, 1]

# What PIL is known to raise on damaged or foreign files.
_DECODE_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  TypeError,
  IndexError,
  KeyError,
  EOFError,
  MemoryError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
)


class ImageError(errors.UserError):
  """An image that cannot be read; the message names it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
  """How an image was made square, so that it can be undone.

  Attributes:
    policy: The fit policy.
    original: (H, W) before the fit.
    size: S, the side of the square.
    box: (top, left, height, width). For `crop`, the part of the original that
      was kept; for `pad`, where the image lies in the square; otherwise all.
    grid: (rows, columns) of tiles; (1, 1) unless the policy is `tile`.
  """

  policy: Policy
  original: tuple[int, int]
  size: int
  box: tuple[int, int, int, int]
  grid: tuple[int, int] = (1, 1)


def to_float(image: Any) -> Any:
  """Maps uint8 pixels to float32 in [-1, 1]: x / 127.5 - 1.

  Args:
    image: NumPy or JAX uint8 array of any shape.

  Returns:
    An array of the same kind and shape, float32.

  Raises:
    TypeError: If the array is not uint8.
  """
  if image.dtype != np.uint8:
    raise TypeError(
      f'to_float expects uint8 pixels in 0..255, got {image.dtype}; an array '
      'that is already float needs no conversion.'
    )
  return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: Any) -> Any:
  """Maps floats in [-1, 1] to uint8, rounding; values outside are clipped.

  Args:
    image: NumPy or JAX float array of any shape.

  Returns:
    An array of the same kind and shape, uint8.

  Raises:
    TypeError: If the array is not floating point.
  """
  if image.dtype.kind not in 'fV':  # bfloat16 has kind V
    raise TypeError(
      f'to_uint8 expects floats in [-1, 1], got {image.dtype}; uint8 pixels '
      'need no conversion.'
    )
  scaled = image.astype(np.float32) * np.float32(127.5) + np.float32(127.5)
  return scaled.round().clip(0, 255).astype(np.uint8)


def load_image(
  source: Any,
  *,
  channels: Literal[1, 3] | None = None,
  name: str | None = None,
) -> np.ndarray:
  """Reads any image into uint8 `[H, W, C]`.

  Args:
    source: A path, encoded bytes, a binary file object, a PIL image, or an
      array `[H, W]` or `[H, W, 1|2|3|4]` of uint8, uint16 or bool (two or four
      channels: the last one is transparency).
    channels: 1 for grey (ITU-R 601 luma), 3 for RGB, None for the image's own.
    name: What an error calls the image; by default the path.

  Returns:
    uint8 pixels, C being 1 or 3.

  Raises:
    ImageError: If it does not exist, is no image, or is damaged; the message
      names it.
  """
  if name is None:
    is_path = isinstance(source, str | os.PathLike)
    name = os.fspath(source) if is_path else f'the given {_kind(source)}'
  if hasattr(source, '__array__') and not isinstance(source, Image.Image):
    return _from_array(np.asarray(source), channels, name)
  if isinstance(source, bytes | bytearray | memoryview):
    source = io.BytesIO(source)
  try:
    if isinstance(source, Image.Image):
      return _from_pil(source, channels, name)
    with Image.open(source) as image:
      return _from_pil(image, channels, name)
  except Image.UnidentifiedImageError:
    raise ImageError(
      f'{name} is not an image, or is damaged from its start on '
      f'({_first_bytes(source)}). Remove it, or save it as PNG or JPEG.'
    ) from None
  except _DECODE_ERRORS as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise ImageError(f'{name} cannot be opened: {error.strerror}.') from error
    raise ImageError(
      f'{name} cannot be decoded: {error or type(error).__name__}. The file '
      'is probably truncated or damaged; fetch it again or remove it.'
    ) from error


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes uint8 `[H, W, 1|3]` pixels as PNG bytes."""
  buffer = io.BytesIO()
  _to_pil(pixels).save(buffer, 'png', compress_level=1)
  return buffer.getvalue()


def fit_image(
  pixels: np.ndarray, size: int, *, policy: Policy = 'crop'
) -> tuple[np.ndarray, Placement]:
  """Makes an image square by an explicit policy.

  Args:
    pixels: uint8 `[H, W, C]`, at least 1 x 1.
    size: S, the side of the square.
    policy: `crop`, `pad`, `resize` or `tile`; see the module's docstring.

  Returns:
    uint8 `[T, S, S, C]` (T = 1 unless tiled), and how to undo it.

  Raises:
    ValueError: If the policy is unknown or the image has no pixels.
  """
  height, width = pixels.shape[:2]
  if min(height, width, size) < 1:
    raise ValueError(
      f'fit_image needs at least one pixel on each side, got an image of '
      f'{height} x {width} and size {size}.'
    )
  whole = (0, 0, height, width)
  if policy == 'crop':
    side = min(height, width)
    box = ((height - side) // 2, (width - side) // 2, side, side)
    square = resize(cut(pixels, box), (size, size))
    return square[None], Placement(
      policy=policy, original=(height, width), size=size, box=box
    )
  if policy == 'resize':
    return resize(pixels, (size, size))[None], Placement(
      policy=policy, original=(height, width), size=size, box=whole
    )
  if policy == 'pad':
    scale = size / max(height, width)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    box = ((size - inner[0]) // 2, (size - inner[1]) // 2, *inner)
    square = np.full((size, size, pixels.shape[2]), PAD_VALUE, np.uint8)
    cut(square, box)[...] = resize(pixels, inner)
    return square[None], Placement(
      policy=policy, original=(height, width), size=size, box=box
    )
  if policy == 'tile':
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    missing = ((0, rows * size - height), (0, columns * size - width), (0, 0))
    tiles = cut_tiles(np.pad(pixels, missing, mode='edge'), size)
    return tiles, Placement(
      policy=policy,
      original=(height, width),
      size=size,
      box=whole,
      grid=(rows, columns),
    )
  raise ValueError(
    f'Unknown fit policy {policy!r}: give one of {", ".join(POLICIES)}.'
  )


def unfit_image(squares: np.ndarray, placement: Placement) -> np.ndarray:
  """Undoes `fit_image` on what a model made of its squares.

  Args:
    squares: uint8 or float32 `[T, S, S, C]`.
    placement: What `fit_image` returned with the squares.

  Returns:
    An array of the same dtype at the original size; for `crop`, the central
    square at the size it had in the original.

  Raises:
    ValueError: If the squares do not have the placement's shape.
  """
  squares = np.asarray(squares)
  rows, columns = placement.grid
  size = placement.size
  expected = (rows * columns, size, size)
  if squares.ndim != 4 or squares.shape[:3] != expected:
    raise ValueError(
      f'unfit_image expects squares of shape {(*expected, "C")}, '
      f'got {squares.shape}.'
    )
  height, width = placement.original
  if placement.policy == 'tile':
    grid = squares.reshape(rows, columns, size, size, -1).swapaxes(1, 2)
    return grid.reshape(rows * size, columns * size, -1)[:height, :width]
  if placement.policy == 'crop':
    return resize(squares[0], placement.box[2:])
  if placement.policy == 'pad':
    return resize(cut(squares[0], placement.box), placement.original)
  return resize(squares[0], placement.original)


def cut(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
  """The view of `pixels` inside a (top, left, height, width) box."""
  top, left, height, width = box
  return pixels[top : top + height, left : left + width]


def cut_tiles(x: np.ndarray, side: int) -> np.ndarray:
  """Cuts [R side, Q side, ...] to [R Q, side, side, ...], in raster order."""
  rows, columns = (n // side for n in x.shape[:2])
  x = x.reshape(rows, side, columns, side, *x.shape[2:]).swapaxes(1, 2)
  return x.reshape(rows * columns, side, side, *x.shape[4:])


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Bicubic resampling with antialiasing (PIL's), uint8 or float32.

  Args:
    pixels: `[H, W, C]`.
    shape: The new (H, W).

  Returns:
    `[H, W, C]` of the new size and the same dtype.
  """
  if pixels.shape[:2] == tuple(shape):
    return pixels
  size = (shape[1], shape[0])
  if pixels.dtype == np.uint8:
    image = _to_pil(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(*shape, -1)
  planes = [
    Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(
      size, Image.Resampling.BICUBIC
    )
    for plane in np.moveaxis(pixels, -1, 0)
  ]
  return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _from_pil(
  image: Image.Image, channels: int | None, name: str
) -> np.ndarray:
  image.load()
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I') or image.mode == 'F':
    return _from_array(np.asarray(image), channels, name)
  if image.has_transparency_data:
    mode = 'L' if image.mode in ('1', 'L', 'LA', 'La') else 'RGB'
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image).convert(mode)
  own = 1 if image.mode in ('1', 'L') else 3
  image = image.convert('L' if (channels or own) == 1 else 'RGB')
  return np.asarray(image).reshape(image.height, image.width, -1)


def _from_array(
  array: np.ndarray, channels: int | None, name: str
) -> np.ndarray:
  if array.dtype.kind == 'f':
    raise ImageError(
      f'{name} holds {array.dtype}, whose range is ambiguous. Give uint8 '
      '(to_uint8 converts floats in [-1, 1]).'
    )
  if array.ndim not in (2, 3) or 0 in array.shape:
    raise ImageError(
      f'{name} has shape {array.shape}; expected [H, W] or [H, W, C].'
    )
  depth = array.shape[2] if array.ndim == 3 else 1
  if not 1 <= depth <= 4:
    raise ImageError(
      f'{name} has {depth} channels (shape {array.shape}); expected 1 '
      '(grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), channels last.'
    )
  if array.dtype == np.bool_:
    array = array.astype(np.uint8) * np.uint8(255)
  elif array.dtype != np.uint8:
    if array.dtype.kind not in 'iu' or array.min() < 0 or array.max() > 65535:
      raise ImageError(
        f'{name} holds {array.dtype} from {array.min()} to {array.max()}; '
        'expected uint8 (0..255) or uint16 (0..65535).'
      )
    if array.dtype.itemsize == 1:
      array = array.astype(np.uint8)
    else:
      array = np.rint(array / 257).astype(np.uint8)
  array = array.reshape(*array.shape[:2], depth)
  if depth in (1, 3) and channels in (None, depth):
    return array
  squeezed = np.ascontiguousarray(array[..., 0] if depth == 1 else array)
  return _from_pil(Image.fromarray(squeezed), channels, name)


def _to_pil(pixels: np.ndarray) -> Image.Image:
  if pixels.shape[2] == 1:
    pixels = pixels[..., 0]
  return Image.fromarray(np.ascontiguousarray(pixels))


def _kind(source: Any) -> str:
  if isinstance(source, bytes | bytearray | memoryview):
    return 'bytes'
  return type(source).__name__


def _first_bytes(source: str | os.PathLike[str] | BinaryIO) -> str:
  """Shows how a foreign file begins, which usually says what it is."""
  try:
    if isinstance(source, str | os.PathLike):
      with open(source, 'rb') as file:
        head = file.read(16)
    else:
      source.seek(0)
      head = source.read(16)
  except (OSError, AttributeError):
    return 'its first bytes cannot be read'
  return f'it begins with {head!r}' if head else 'it is empty'
