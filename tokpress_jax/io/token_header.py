"""What all records of a set of tokens have in common; see `io.tokens`."""

import dataclasses
import json
from typing import Any, Self

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib

FORMAT = 1
CODINGS = {'uint8': 8, 'uint16': 16, 'uint32': 32}


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
    num_codes: Q.
    codebook_size: values of one code.
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
  num_codes: int
  codebook_size: int
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
  def coding(self) -> str:
    """How codes are stored: the smallest unsigned integer."""
    return next(
      name
      for name, bits in CODINGS.items()
      if self.codebook_size <= 2**bits or bits == 32
    )

  @property
  def dtype(self) -> np.dtype:
    """`coding` as it lies in a file, little-endian."""
    return np.dtype(self.coding).newbyteorder('<')

  def to_json(self) -> bytes:
    """Returns the header as it stands in a file."""
    body = {
      'format': FORMAT,
      'coding': self.coding,
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
      version, coding = body.pop('format'), body.pop('coding')
      if version != FORMAT or coding not in CODINGS:
        raise UserError(
          f'{where} has format {version} with coding {coding!r}; this version '
          f'of tokpress_jax reads format {FORMAT} with {", ".join(CODINGS)}. '
          'Another version wrote it: use that one.'
        )
      tupled = lambda x: tuple(x) if isinstance(x, list) else x
      fields: Any = {name: tupled(value) for name, value in body.items()}
      header = cls(**fields)
      if header.coding != coding:
        raise ValueError(f'{header.codebook_size} codes in {coding}')
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
