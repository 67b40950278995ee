"""Tokenizers without parameters, whose numbers a test can say by heart."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from tokpress_jax import quantize, types
from tokpress_jax.tokenizers import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(base.TokenizerConfig):
  """A pixel of one channel is a patch; every length is legal."""

  module: ClassVar[type[base.Tokenizer]]

  channels: int = 1
  patch: int = 1
  tokens: int

  @property
  def boundaries(self):
    return tuple(range(1, self.tokens + 1))

  def build(self, *, dtype=jnp.float32):
    return self.module(self, dtype=dtype)

  def load(self):
    spec = types.Spec(name='toy', family='tokenizer', config=self)
    return types.Loaded(self.build(), {}, spec)


class SlotToy(base.Tokenizer):
  """Code n of an image of k tokens is k; a pixel is the mean slot, in 8ths."""

  def reader(self, images, rng=None):
    def read(length):
      shape = (len(images), self.num_tokens, 1)
      codes = jnp.broadcast_to(length[:, None, None], shape)
      return quantize.Quantized(embeddings=codes, codes=codes, losses={})

    return read

  def render(self, codes, length, *, positions, rng=None, sampler=None):
    seen = jnp.arange(codes.shape[1])[None] < length[:, None]
    mean = jnp.sum(positions * seen, 1) / length / 8
    if rng is not None:
      noise = jax.vmap(jax.random.uniform)(rng)
      mean = mean + self.config.random * noise * (sampler or 1)
    side = self.config.image_size
    return jnp.broadcast_to(
      mean[:, None, None, None], (len(codes), side, side, 1)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotConfig(ToyConfig):
  """Codes that say their length; pixels that say slots and noise."""

  module = SlotToy

  image_size: int = 2
  tokens: int = 4
  quantizer: quantize.FSQConfig = quantize.FSQConfig(levels=(5,))
  random: float = 0.0

  nested = False
  selects = True

  @property
  def draws(self) -> bool:
    return self.random > 0


class PixelToy(base.Tokenizer):
  """Code n is pixel n in 255ths; pixels from the length on are black."""

  def reader(self, images, rng=None):
    flat = images.reshape(len(images), -1, 1)[:, : self.num_tokens]
    codes = jnp.round((flat + 1) * 127.5).astype(jnp.int32)
    return lambda length: quantize.Quantized(
      embeddings=codes, codes=codes, losses={}
    )

  def render(self, codes, length):
    side, slots = self.config.image_size, self.num_tokens
    seen = jnp.arange(slots)[None, :, None] < length[:, None, None]
    flat = jnp.where(seen, codes / 127.5 - 1, -1.0)
    rest = ((0, 0), (0, side**2 - slots), (0, 0))
    flat = jnp.pad(flat, rest, constant_values=-1)
    return flat.reshape(len(codes), side, side, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelConfig(ToyConfig):
  """The first pixels themselves."""

  module = PixelToy

  image_size: int = 4
  tokens: int = 8
  quantizer: quantize.FSQConfig = quantize.FSQConfig(levels=(256,))
