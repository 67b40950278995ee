"""Training a tokenizer: reconstruction through a random prefix of the tokens.

Dimension letters: B batch, H rows, W columns, C channels, N token slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp

from tokpress_jax import errors, losses, metrics, quantize, types
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers import (
  Reconstruction,
  TokenizerConfig,
  sample_lengths,
)
from tokpress_jax.train.task import Batch, Program, Task, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTask(Task):
  """Reconstruction and the bottleneck's losses, under nested dropout.

  Attributes:
    model: the tokenizer.
    loss: 'l2', 'l1', or 'decibel' (see `losses.decibel`).
    loss_weight: of the reconstruction, beside the bottleneck's own losses.
    lengths: how training lengths are drawn, see `sample_lengths`.
    full: chance that an image keeps all its tokens.
  """

  sharding_rules: ClassVar[tuple[tuple[str, tuple[Any, ...]], ...]] = (
    (r'/layers/attn/qkv/kernel$', (None, 'fsdp', 'model')),
    (r'/layers/attn/proj/kernel$', (None, 'model', 'fsdp')),
    (r'/layers/mlp/(fc1|gate)/kernel$', (None, 'fsdp', 'model')),
    (r'/layers/mlp/fc2/kernel$', (None, 'model', 'fsdp')),
  )

  model: TokenizerConfig
  loss: Literal['l2', 'l1', 'decibel'] = 'l2'
  loss_weight: float = 1.0
  lengths: Literal['none', 'uniform', 'powers'] = 'uniform'
  full: float = 0.25

  def bind(self, info: Any) -> TokenizerTask:
    """Checks that the model takes the data's images."""
    check_images(self.model, info)
    return self

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the tokenizer."""
    c = self.model
    shape = (1, c.image_size, c.image_size, c.channels)
    return self.model.build(dtype=self.dtype).init(rng, jnp.zeros(shape))

  def programs(self) -> tuple[Program, ...]:
    """One program: the whole tokenizer."""
    return (Program(name='tokenizer', loss=self._loss),)

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    images = images_lib.to_float(batch['image'])
    length = sample_lengths(
      rng,
      images.shape[0],
      self.model.boundaries,
      sampler=self.lengths,
      full=self.full,
    )
    mask = batch.get('valid')
    module = self.model.build(dtype=self.dtype)
    out = cast(
      Reconstruction,
      module.apply(variables, images, length, mask=mask, method='reconstruct'),
    )
    error = getattr(losses, self.loss)(out.images, images, mask=mask)
    total = self.loss_weight * error + out.quantized.loss
    found = {
      'mse': losses.l2(out.images, images, mask=mask),
      'mean_length': jnp.mean(length.astype(jnp.float32)),
      **out.quantized.losses,
    }
    stats = out.quantized.stats
    if stats is None:
      return total, found, {}
    found['code_usage'] = jnp.mean(quantize.usage(stats.count))
    found['code_perplexity'] = jnp.mean(quantize.perplexity(stats.count))
    return total, found, {'stats': stats}

  def commit(
    self, variables: Variables, updates: Any, rng: jax.Array, step: jax.Array
  ) -> Variables:
    """Moves the codebook's averages and revives dead codes."""
    del step
    return self.model.quantizer.update(
      variables, updates['stats'], rng=rng, path=('quantizer',)
    )

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """PSNR (dB, peak 1) at 1, 2, 4, ... and all tokens, and bits per pixel."""
    del rng
    c = self.model
    module = c.build(dtype=self.dtype)
    images = images_lib.to_float(batch['image'])
    weight = batch['valid'].astype(jnp.float32)
    encoded = module.apply(variables, images, method='encode')
    codes = cast(types.Encoded, encoded).codes
    unit = lambda x: (x + 1) / 2
    found = {}
    for n in shown_lengths(c.boundaries):
      again = module.apply(variables, codes, length=n, method='decode_codes')
      psnr = metrics.psnr(unit(again), unit(images))
      found[f'psnr_{n}'] = (jnp.sum(psnr * weight), jnp.sum(weight))
    found['psnr'] = found[f'psnr_{c.num_tokens}']
    bits = c.num_tokens * c.bits_per_token / c.image_size**2
    found['bits_per_pixel'] = (bits * jnp.sum(weight), jnp.sum(weight))
    return found

  def export(self, variables: Variables) -> types.Loaded:
    """The tokenizer alone."""
    return types.Loaded(
      module=self.model.build(),
      variables=variables,
      spec=types.Spec(name='', family='tokenizer', config=self.model),
    )


def shown_lengths(boundaries: tuple[int, ...]) -> tuple[int, ...]:
  """The legal lengths at which quality is reported: 1, 2, 4, ..., all.

  Args:
    boundaries: the legal lengths, rising.

  Returns:
    All of them if they are 12 or fewer; else powers of two rounded down to
    legal lengths, and the last.
  """
  if len(boundaries) <= 12:
    return boundaries
  powers = [2**i for i in range(boundaries[-1].bit_length())]
  below = {max((b for b in boundaries if b <= p), default=0) for p in powers}
  return tuple(sorted((below - {0}) | {boundaries[-1]}))


def check_images(model: Any, info: Any) -> None:
  """Refuses data whose images a model cannot take.

  Args:
    model: a config with `image_size` and `channels`.
    info: the data's `DatasetInfo`.

  Raises:
    UserError: says both shapes and what to set.
  """
  if info.tokens is not None:
    raise errors.UserError(
      f'{info.directory} holds tokens, on which only generators train; give '
      'images: another --data.name'
    )
  expected = (model.image_size, model.channels)
  given = (info.image_size, info.channels)
  if given != expected:
    size = f'side {given[0]}' if given[0] else 'no common size'
    raise errors.UserError(
      f'the model takes images of side {expected[0]} with {expected[1]} '
      f'channels, the data set {info.name!r} gives images of {size} with '
      f'{given[1]} channels. Set --data.image-size {expected[0]} '
      f'--data.channels {expected[1]}, or --task.model.image-size and '
      '--task.model.channels to what the data has.'
    )
