"""The shape of a tower, a compressor behind it and a reader of what is left.

Dimension letters: N tokens of the tower's grid, K new tokens, D features of the
tower, F features of the reader, V classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io.words import WordCodec
from tokpress_jax.models.vit_config import ViTConfig
from tokpress_jax.nn import Activation, BlockConfig, StackConfig
from tokpress_jax.pruners import compressors

if TYPE_CHECKING:
  from tokpress_jax.models.reader import Reader

Method = Literal[
  'pool',
  'neighbours',
  'random',
  'stride',
  'mqt',
  'token_flex',
  'token_packer',
  'quecc',
  'hicom_local',
  'hicom_global',
  'slime',
]
# They have no parameters but the projector, so that any of them may stand in
# another's place.
FREE: tuple[Method, ...] = ('pool', 'neighbours', 'random', 'stride')
# The number of tokens is in the parameters' shapes, or learned.
_ONE_COUNT: tuple[Method, ...] = ('quecc', 'hicom_global', 'slime')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressorConfig:
  """Which compressor, and the numbers of tokens that it is trained at.

  Attributes:
    method: 'pool' (M3: means of windows, after the projector), 'neighbours'
      (LLaVolta: means along the row, inside the reader), 'random' and 'stride'
      (pruning, the baselines), or the name of a learned compressor in
      `pruners.compressors`.
    counts: K, most first. 'quecc', 'hicom_global' and 'slime' have one; it is
      the capacity of 'slime', which may keep fewer.
    heads: of the compressor's attention.
    text: what 'quecc', 'hicom_local', 'hicom_global' and 'slime' are guided by:
      the word that the reader is asked about, or a constant; a constant too
      where there are no words.
  """

  method: Method = 'pool'
  counts: tuple[int, ...] = (64, 16, 4, 1)
  heads: int = 4
  text: Literal['question', 'constant'] = 'question'

  def __post_init__(self):
    if self.method not in get_args(Method):
      raise UserError(
        f'there is no compressor {self.method!r}. '
        f'{did_you_mean(self.method, get_args(Method))}'
      )
    if self.text not in ('question', 'constant'):
      raise UserError(f"text is 'question' or 'constant', got {self.text!r}")
    if not self.counts or list(self.counts) != sorted(set(self.counts))[::-1]:
      raise UserError(
        f'counts={self.counts} are numbers of tokens, most first, such as '
        '64 16 4 1'
      )
    if self.method in _ONE_COUNT and len(self.counts) > 1:
      raise UserError(
        f'{self.method!r} is made for one number of tokens, and counts='
        f'{self.counts} names several; give one'
      )

  @property
  def side(self) -> int:
    """Of the smallest square that holds the largest count: learned queries."""
    return math.isqrt(self.counts[0] - 1) + 1

  def legal(self, grid: int) -> tuple[int, ...]:
    """The numbers of tokens that it can give, most first.

    Args:
      grid: the tower's patches along a side.
    """
    total = grid**2
    if self.method in _ONE_COUNT:
      most = total if self.method == 'hicom_global' else self.side**2
      found = {n for n in self.counts if n <= most}
      if self.method == 'quecc':
        found &= {(grid // s) ** 2 for s in range(1, grid + 1) if not grid % s}
    elif self.method in ('pool', 'token_packer'):
      found = {(grid // s) ** 2 for s in range(1, grid + 1) if not grid % s}
    elif self.method == 'neighbours':
      found = {total // s for s in range(1, total + 1) if not total % s}
    elif self.method == 'token_flex':
      found = {n**2 for n in range(1, grid + 1)}
    elif self.method == 'hicom_local':
      spans = compressors.spans
      found = {len(spans(grid, s)) ** 2 for s in range(1, grid + 1)}
    else:
      most = self.side**2 if self.method == 'mqt' else total
      found = set(range(1, most + 1))
    return tuple(sorted(found, reverse=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderConfig:
  """A frozen tower, a compressor, and a small transformer that answers.

  The reader stands in a language model's place: it sees the new tokens,
  numbered anew, and a learned question behind them, whose last state gives the
  answer. With words, the question is one about a word of an image's text.

  Attributes:
    tower: gives the tokens.
    layer: of the tower, whose output is compressed; -2 is what LLaVA reads of
      CLIP. 'token_packer' and 'quecc' look at all layers up to it.
    compressor: which, and at which numbers of tokens.
    width: F.
    depth: layers of the reader.
    heads: of its attention.
    mlp_ratio: hidden features of its MLPs over F.
    activation: of its MLPs.
    classes: V.
    words: that it may be asked about, in the order of their codes (`io.words`);
      none if there is one question only.
  """

  family: ClassVar[str] = 'reader'

  tower: ViTConfig = ViTConfig()
  layer: int = -2
  compressor: CompressorConfig = CompressorConfig(counts=(196, 49, 4, 1))
  width: int = 64
  depth: int = 2
  heads: int = 4
  mlp_ratio: float = 2.0
  activation: Activation = 'relu'
  classes: int = 8
  words: tuple[str, ...] = ()

  @property
  def image_size(self) -> int:
    """Of the tower."""
    return self.tower.image_size

  @property
  def channels(self) -> int:
    """Of the tower."""
    return self.tower.channels

  @property
  def legal(self) -> tuple[int, ...]:
    """The numbers of tokens that it can read, most first."""
    return self.compressor.legal(self.tower.grid)

  @property
  def levels(self) -> tuple[int, ...]:
    """Layers of the tower that 'token_packer' and 'quecc' look at."""
    return tuple(range(self.layer % self.tower.depth + 1))

  @property
  def stack(self) -> StackConfig:
    """The reader's layers."""
    block = BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation=self.activation,
    )
    return StackConfig(depth=self.depth, block=block)

  @property
  def vocabulary(self) -> int:
    """Codes of the words, and those around a text; 0 without words."""
    return self._codec.vocabulary if self.words else 0

  @property
  def _codec(self) -> WordCodec:
    """Of single words."""
    return WordCodec(words=self.words, length=3)

  def codes(self, words: Sequence[str]) -> np.ndarray:
    """What `Reader` takes as words, int32 [B].

    Raises:
      UserError: if one is not known.
    """
    return self._codec.encode(words)[:, 1]

  def check(self) -> None:
    """Refuses numbers of tokens that the compressor cannot give.

    Raises:
      UserError: says which, and what it can give.
    """
    chosen, legal = self.compressor, self.legal
    bad = [n for n in chosen.counts if n not in legal]
    if bad:
      text = legal if len(legal) < 20 else f'1 to {legal[0]}'
      raise UserError(
        f'{chosen.method!r} cannot make {bad} tokens of a grid of '
        f'{self.tower.grid} x {self.tower.grid}; it can make {text}: set '
        'counts to some of these'
      )

  def build(self, *, dtype: Any = jnp.float32) -> Reader:
    """Makes the module."""
    from tokpress_jax.models.reader import Reader

    return Reader(self, dtype=dtype)
