"""What all records of a set of tokens have in common; see `io.tokens`."""

import dataclasses
import json
import math
from typing import Any, Self

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib

FORMAT = 2
CODINGS = ('plain', 'packed', 'adaptive', 'generator')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What all records of a set have in common.

  Attributes:
    fingerprint: of the tokenizer's variables.
    tokenizer: what the tokenizer is called.
    image_size: side of the squares that it saw, in pixels.
    channels: of those.
    boundaries: its legal lengths, rising; the last is N.
    tokens: how many of them each square was given, at most.
    lengths: what chose fewer of them for each square, as 'psnr=30', or empty.
    num_codes: Q.
    codebook_size: values of one code.
    digits: values of each digit of a code, the lowest first: an FSQ's levels;
      () for codes without.
    selects: whether records say which slots their tokens were encoded in.
    coding: how codes are stored, see `io.token_codings`.
    coder: fingerprint of the generator whose probabilities code them.
    fit: how images became square.
    source: the data set, or 'files'.
    split: of the data set.
    records: images in the source.
    flip: whether every second view is the mirror of the one before.
    crops: random crops of each image; 0 is the fit alone.
    crop_min: smallest side of a crop, as a fraction of the image's shorter.
    crop_max: largest side.
    seed: of the crops.
    num_classes: of the labels; 0 for none.
    class_names: one per class, or empty.
    shard: (number, count) of this file.
  """

  fingerprint: str
  tokenizer: str = ''
  image_size: int
  channels: int
  boundaries: tuple[int, ...]
  tokens: int
  lengths: str = ''
  num_codes: int
  codebook_size: int
  digits: tuple[int, ...] = ()
  selects: bool = False
  coding: str = 'plain'
  coder: str = ''
  fit: images_lib.Policy = 'crop'
  source: str = 'files'
  split: str = ''
  records: int = 0
  flip: bool = False
  crops: int = 0
  crop_min: float = 1.0
  crop_max: float = 1.0
  seed: int = 0
  num_classes: int = 0
  class_names: tuple[str, ...] = ()
  shard: tuple[int, int] = (0, 1)

  @property
  def num_tokens(self) -> int:
    """N, the token slots of a square."""
    return self.boundaries[-1]

  @property
  def radices(self) -> tuple[int, ...]:
    """Values of each digit of a code, the lowest first."""
    return self.digits or (self.codebook_size,)

  @property
  def dtype(self) -> np.dtype:
    """The smallest unsigned integer that holds a code, little-endian."""
    bits = next(b for b in (8, 16, 32) if self.codebook_size <= 2**b or b == 32)
    return np.dtype(f'<u{bits // 8}')

  def to_json(self) -> bytes:
    """Returns the header as it stands in a file."""
    body = {
      'format': FORMAT,
      **dataclasses.asdict(self),
    }
    return json.dumps(body).encode()

  @classmethod
  def from_json(cls, where: str, text: bytes) -> Self:
    """Inverse of `to_json`.

    Raises:
      UserError: It is of another version, or none; the message names `where`.
    """
    try:
      body = json.loads(text)
      version = body.pop('format')
      if version != FORMAT:
        raise UserError(
          f'{where} has format {version}; this version of tokpress_jax reads '
          f'format {FORMAT}. Another version wrote it: use that one.'
        )
      tupled = lambda x: tuple(x) if isinstance(x, list) else x
      fields: Any = {name: tupled(value) for name, value in body.items()}
      header = cls(**fields)
      if header.coding not in CODINGS:
        raise ValueError(f'coding {header.coding!r}')
      if math.prod(header.radices) != header.codebook_size:
        raise ValueError(
          f'digits {header.digits} of {header.codebook_size} codes'
        )
      return header
    except UserError:
      raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      raise UserError(f'{where} has a header that is none: {error}.') from error

  def differences(self, other: Self) -> list[str]:
    """Returns 'field: ours, theirs' of what makes two sets different."""
    return [
      f'{f.name}: {getattr(self, f.name)}, {getattr(other, f.name)}'
      for f in dataclasses.fields(self)
      if f.name != 'shard' and getattr(self, f.name) != getattr(other, f.name)
    ]

  def check_tokenizer(self, where: str, config: Any, fingerprint: str) -> None:
    """Raises `UserError` unless these are codes of a given tokenizer.

    Args:
      where: what holds these tokens, for the message.
      config: the tokenizer's.
      fingerprint: of its variables, see `io.safetensors`.
    """
    if self.fingerprint != fingerprint:
      raise UserError(
        f'{where} was encoded by another tokenizer (fingerprint '
        f'{self.fingerprint}{self.tokenizer and f", {self.tokenizer}"}; the '
        f'one given has {fingerprint}). Give the tokenizer that encoded it.'
      )
    ours = (config.boundaries, config.codebook_size, config.quantizer.num_codes)
    theirs = (self.boundaries, self.codebook_size, self.num_codes)
    if ours != theirs:  # The same weights read at other scales, say.
      raise UserError(
        f'{where} has (legal lengths, codebook size, codes per token) {theirs}'
        f', the tokenizer given {ours}. Give the tokenizer that encoded it.'
      )
