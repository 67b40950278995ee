"""A small transformer that reads a tower's tokens through a compressor.

Dimension letters: B batch, N tokens of the tower's grid, K new tokens, D
features of the tower, J features of the joined layers, F features of the
reader, V classes.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from tokpress_jax.errors import UserError
from tokpress_jax.models.reader_config import (
  FREE,
  CompressorConfig,
  ReaderConfig,
)
from tokpress_jax.nn import LayerNorm, LearnedPositions, Stack, sincos
from tokpress_jax.pruners import compressors, topk
from tokpress_jax.types import TEXT, VISION, Array, Signals, Tap, Tokens


@struct.dataclass
class Seen:
  """What a tower gives to compressors.

  Attributes:
    tokens: [B, N, D] of the layer that is read.
    levels: [B, N, J], all layers up to it.
    rng: [B] keys, for what draws.
    word: int [B], what is asked about; None if there are no words.
  """

  tokens: Tokens
  levels: Array
  rng: Array | None
  word: Array | None = None


@struct.dataclass
class Answer:
  """What a reader says.

  Attributes:
    logits: float32 [B, V].
    tokens: int32 [B], how many it read.
  """

  logits: Array
  tokens: Array


class Reader(nn.Module):
  """Tower, compressor, transformer and head.

  Attributes:
    config: its shape.
    dtype: of the matmuls.
  """

  config: ReaderConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.tower = c.tower.build(dtype=self.dtype)
    self.compressor = Compressor(
      c.compressor,
      grid=c.tower.grid,
      out=c.width,
      vocabulary=c.vocabulary,
      dtype=self.dtype,
    )
    self.norm_in = LayerNorm(dtype=self.dtype)
    self.positions = LearnedPositions(
      c.tower.grid**2, c.width, dtype=self.dtype
    )
    self.question = self.param(
      'question', nn.initializers.normal(0.02), (c.width,)
    )
    if c.words:
      self.words = nn.Embed(
        c.vocabulary,
        c.width,
        embedding_init=nn.initializers.normal(0.02),
        dtype=self.dtype,
      )
    self.stack = Stack(c.stack, dtype=self.dtype)
    self.norm_out = LayerNorm(dtype=self.dtype)
    self.head = nn.Dense(
      c.classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32
    )

  def __call__(self, images: Array, **options: Any) -> Answer:
    """Looks and reads: see `see` and `read`.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      **options: `rng` and `word` of `see`, the others of `read`.
    """
    of_see = {n: options.pop(n) for n in ('rng', 'word') if n in options}
    return self.read(self.see(images, **of_see), **options)

  def see(
    self, images: Array, *, rng: Array | None = None, word: Array | None = None
  ) -> Seen:
    """Runs the tower, once for any numbers of tokens.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      rng: a typed key, which 'random' needs.
      word: int [B] of `ReaderConfig.codes`, what each image is asked about.

    Raises:
      UserError: if a word is missing, or cannot be asked about.
    """
    c = self.config
    if (word is None) == bool(c.words):
      known = ', '.join(c.words) or 'none'
      raise UserError(
        f'this reader is asked about words: {known}; give word=config.codes(...'
        ') of each image if there are some, and none otherwise'
      )
    # What leaves a layer enters the next.
    taps = [Tap('before', i) for i in c.levels[1:]]
    tokens, signals = self.tower.observe(
      images, needs=frozenset(taps), layer=c.layer, rng=rng
    )
    levels = [*(signals.taps[t] for t in taps), tokens.features]
    return Seen(
      tokens=tokens,
      levels=jnp.concatenate(levels, axis=-1),
      rng=signals.rng,
      word=word,
    )

  def read(
    self,
    seen: Seen,
    *,
    count: int | None = None,
    prefix: Array | None = None,
    before: int = 0,
  ) -> Answer:
    """Compresses, and answers.

    Args:
      seen: of `see`.
      count: K, static; the most that it was trained at if None.
      prefix: bool [K], which of the new tokens are read; all if None.
      before: 'neighbours' are joined before this layer of the reader.

    Raises:
      UserError: if there are no such numbers of tokens.
    """
    c = self.config
    count = c.compressor.counts[0] if count is None else count
    x, valid = self.compressor(seen, count=count)
    if prefix is not None:
      valid = jnp.broadcast_to(prefix[None], x.shape[:2])
    read = jnp.sum(valid, axis=1, dtype=jnp.int32)
    x = self.norm_in(x) + self.positions()[None, : x.shape[1]]
    # It has no place of its own, so that slots which are not read (of a prefix,
    # say) change nothing.
    question = self.question.astype(x.dtype)[None, None]
    question = jnp.broadcast_to(question, (x.shape[0], 1, x.shape[2]))
    if seen.word is not None:
      question = question + self.words(seen.word)[:, None]
    x = jnp.concatenate([x, question], axis=1)
    valid = jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True)
    first = 0
    if c.compressor.method == 'neighbours':
      first = before
      x = self._layers(x, valid, 0, before)
      x, valid = join_neighbours(x, valid, count=count)
      read = jnp.sum(valid, axis=1, dtype=jnp.int32) - 1
    x = self._layers(x, valid, first, c.depth)
    answer = self.norm_out(x[:, -1]).astype(jnp.float32)
    return Answer(logits=self.head(answer), tokens=read)

  def _layers(self, x: Array, valid: Array, first: int, last: int) -> Array:
    """Some of the reader's layers."""
    if first == last:
      return x
    return self.stack(x, mask=valid[:, None, None], segment=(first, last))[0]


def join_neighbours(
  x: Array, valid: Array, *, count: int
) -> tuple[Array, Array]:
  """LLaVolta's pooling of a row that ends with a question.

  Args:
    x: [B, N + 1, F].
    valid: bool [B, N + 1].
    count: K.

  Returns:
    [B, K + 1, F] and bool [B, K + 1].
  """
  length = x.shape[1] - 1
  kind = jnp.where(jnp.arange(length + 1) < length, VISION, TEXT)
  row = Tokens.create(
    x, valid=valid, kind=jnp.broadcast_to(kind[None], x.shape[:2])
  )
  pooling = compressors.LLaVolta(stride=length // count, length=length)
  out, _ = pooling(row)
  return out.features, out.valid


class Compressor(nn.Module):
  """A compressor chosen by its config, with its projector.

  Attributes:
    config: which.
    grid: patches of the tower along a side.
    out: F.
    vocabulary: codes of the words that may be asked about; 0 for none.
    dtype: of the matmuls.
  """

  config: CompressorConfig
  grid: int
  out: int
  vocabulary: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, seen: Seen, *, count: int) -> tuple[Array, Array]:
    """Makes tokens.

    Args:
      seen: of the tower.
      count: K.

    Returns:
      [B, K, F] and which are valid, bool [B, K]. 'neighbours' are not joined
      yet: K is N.
    """
    method = self.config.method
    if method in FREE:
      return self._free(seen, count)
    if method == 'slime':
      return self._slime(seen, count)
    x = getattr(self, f'_{method}')(seen, count)
    return x, jnp.ones(x.shape[:2], bool)

  def _project(self, x: Array) -> Array:
    """LLaVA's projector."""
    widths = (self.out,) * 2
    return compressors.Projector(widths, dtype=self.dtype, name='projector')(x)

  def _size(self, x: Array) -> dict[str, Any]:
    """What all learned ones are told."""
    return {
      'grid': (self.grid,) * 2,
      'width': x.shape[-1],
      'heads': self.config.heads,
      'dtype': self.dtype,
    }

  def _text(self, seen: Seen, x: Array) -> Array:
    """What guides it, [B, D] of x: the word asked about, or a constant."""
    if seen.word is not None and self.config.text == 'question':
      words = nn.Embed(
        self.vocabulary,
        x.shape[-1],
        embedding_init=nn.initializers.normal(0.7),  # As long as the constant.
        dtype=self.dtype,
        name='words',
      )
      return words(seen.word)
    code = sincos(jnp.ones((1, 1)), x.shape[-1])
    return jnp.broadcast_to(code, (x.shape[0], x.shape[-1])).astype(x.dtype)

  def _free(self, seen: Seen, count: int) -> tuple[Array, Array]:
    tokens, method = seen.tokens, self.config.method
    if method in ('random', 'stride'):
      kinds = {'random': topk.Random, 'stride': topk.Stride}
      signals = Signals(rng=seen.rng)
      tokens, _ = kinds[method](budget=count)(tokens, signals)
    x = self._project(tokens.features)
    if method != 'pool':
      return x, tokens.valid
    grid = (self.grid,) * 2
    (x,) = compressors.nested_pool(x, grid=grid, scales=(count,))
    return x, jnp.ones(x.shape[:2], bool)

  def _mqt(self, seen: Seen, count: int) -> Array:
    x, side = seen.tokens.features, self.config.side
    module = compressors.MQT(
      side=side, out=self.out, name='mqt', **self._size(x)
    )
    return module(x, count=count)

  def _token_flex(self, seen: Seen, count: int) -> Array:
    sides = tuple(math.isqrt(n) for n in self.config.counts)
    module = compressors.TokenFLEX(
      sides=sides,
      weights=(1.0,) * len(sides),  # The task draws.
      grid=(self.grid,) * 2,
      width=seen.tokens.features.shape[-1],
      out=self.out,
      dtype=self.dtype,
      name='token_flex',
    )
    return module(seen.tokens.features, side=math.isqrt(count))

  def _token_packer(self, seen: Seen, count: int) -> Array:
    x = seen.tokens.features
    module = compressors.TokenPacker(
      stride=self.grid // math.isqrt(count),
      joined=seen.levels.shape[-1],
      out=self.out,
      name='token_packer',
      **self._size(x),
    )
    return module(x, seen.levels)

  def _quecc(self, seen: Seen, count: int) -> Array:
    x = seen.tokens.features
    text = self._text(seen, x)
    module = compressors.QueCC(
      stride=self.grid // math.isqrt(count),
      joined=seen.levels.shape[-1],
      text=text.shape[-1],
      name='quecc',
      **self._size(x),
    )
    return self._project(module(x, seen.levels, text))

  def _hicom(self, x: Array) -> dict[str, Any]:
    size = {**self._size(x), 'grid': (1, self.grid, self.grid)}
    # A constant text as the query would make all new tokens look for the same.
    text = x.shape[-1]
    return {'out': self.out, 'text': text, 'guide': 'coarse', **size}

  def _hicom_local(self, seen: Seen, count: int) -> Array:
    x, side = seen.tokens.features, math.isqrt(count)
    size = -(-self.grid // side)
    module = compressors.HIComLocal(
      sizes=(1, size, size), name='hicom_local', **self._hicom(x)
    )
    return module(x, self._text(seen, x))

  def _hicom_global(self, seen: Seen, count: int) -> Array:
    x = seen.tokens.features
    module = compressors.HIComGlobal(
      queries=count, name='hicom_global', **self._hicom(x)
    )
    return module(x, self._text(seen, x))

  def _slime(self, seen: Seen, count: int) -> tuple[Array, Array]:
    x = seen.tokens.features
    module = compressors.SliMEResampler(
      side=self.config.side, name='slime', **self._size(x)
    )
    y = self._project(module(x))
    text = self._text(seen, y)[:, None]
    tokens, _ = compressors.SliME(budget=count)(
      Tokens.create(y), Signals(text=text)
    )
    return tokens.features, tokens.valid
