"""Training a tokenizer that halts: try a length, then ask for what it gave.

Duggal et al., "Single-pass adaptive image tokenization for minimum program
search" (KARL, 2025, arXiv 2507.07995), section 3. A step encodes each image
twice. First with T latents, T drawn at random, which reconstruct it with a loss
eps. Then with all N, the encoder being told eps: the last N - T must halt, the
first T must not, and what does not halt reconstructs the image again.

Which loss is asked for in the first pass is drawn too, among bins of which
those that are reached already become rare.

Where it departs from the official code: T is drawn for each image, not for each
batch, and is at most N (`full` is its share of T >= N).

Dimension letters: B batch, H rows, W columns, h patches a side, N latents, K
bins.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax

from tokpress_jax import errors, losses, metrics
from tokpress_jax.io import images as images_lib
from tokpress_jax.quantize.base import masked_mean, together
from tokpress_jax.tokenizers import Halting, KARLConfig, sample_lengths
from tokpress_jax.tokenizers.karl import Trial
from tokpress_jax.train.task import Batch, Metrics, Program, Variables
from tokpress_jax.train.tasks.from_vqgan import AroundVQGAN

# The collection that holds the bins' chances.
_ASKED = 'asked'


@dataclasses.dataclass(frozen=True, kw_only=True)
class KARLTask(AroundVQGAN):
  """Reconstruction in two passes, and the halting of what is surplus.

  With `model.vqgan` the reconstruction is that of the VQGAN's codes (cross
  entropy, and the squared error of the mixed codes); else that of the pixels.

  Attributes:
    model: the tokenizer.
    stride: T is a multiple of it.
    full: chance that T is N.
    loss: of pixels in [-1, 1], see `TokenizerTask.loss`.
    loss_weight: of the reconstruction, codes or pixels.
    halting_weight: of the cross entropies of halting.
    threshold: of the second pass, see `Halting`.
    loosest: the first pass asks for bins up to this loss.
    decay: of the chance of the bins that a step reaches.
    shown: targets of `Halting` that an evaluation measures.
  """

  model: KARLConfig
  stride: int = 16
  full: float = 0.35
  loss: Literal['l2', 'l1', 'decibel'] = 'l1'
  loss_weight: float = 1.0
  halting_weight: float = 1.0
  threshold: float = 0.75
  loosest: float = 0.04
  decay: float = 0.99
  shown: tuple[float, ...] = (0.05,)

  def bind(self, info: Any) -> KARLTask:
    """Checks that the model takes the data's images, and the lengths."""
    super().bind(info)
    if not isinstance(self.model, KARLConfig):
      raise errors.UserError(
        f'--task.model is a {type(self.model).__name__}, which does not halt; '
        'take a KARLConfig, or tokenizer_task.'
      )
    if not 1 <= self.stride <= self.model.tokens:
      raise errors.UserError(
        f'--task.stride {self.stride} gives no length from 1 to '
        f'{self.model.tokens} tokens; set it to one of these.'
      )
    if self.loosest < self.model.bins[0]:
      raise errors.UserError(
        f'--task.loosest {self.loosest} is below all bins of the model; set it '
        f'to {self.model.bins[0]} or more.'
      )
    return self

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the tokenizer and the chances of the bins."""
    asked = jnp.asarray(self.model.bins) <= self.loosest
    chance = asked / jnp.sum(asked)
    variables = super().init(rng)
    return {**variables, _ASKED: {'chance': chance.astype(jnp.float32)}}

  def own(self, variables: Variables) -> Variables:
    """The tokenizer's variables."""
    return {k: v for k, v in super().own(variables).items() if k != _ASKED}

  def programs(self) -> tuple[Program, ...]:
    """One."""
    return (Program(name='tokenizer', loss=self._loss),)

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    c = self.model
    images = images_lib.to_float(batch['image'])
    mask = batch.get('valid')
    many = images.shape[0]
    draw_length, draw_bin = jax.random.split(rng)
    legal = (*range(self.stride, c.tokens, self.stride), c.tokens)
    length = sample_lengths(draw_length, many, legal, full=self.full)
    chance = variables[_ASKED]['chance']
    asked = jax.random.categorical(draw_bin, jnp.log(chance), shape=(many,))

    target = None if c.vqgan is None else self._codes(variables, images)
    first = self._try(variables, images, length, bins=asked, mask=mask)
    eps = jax.lax.stop_gradient(absolute_error(first.images, images))
    whole = jnp.full((many,), c.tokens, jnp.int32)
    second = self._try(
      variables,
      images,
      whole,
      bins=c.bins_of(eps, many),
      threshold=self.threshold,
      mask=mask,
    )
    total = jnp.zeros(())
    found: Metrics = {}
    for name, trial in (('first', first), ('second', second)):
      alike = self._likeness(variables, trial, images, target, mask)
      total += self.loss_weight * sum(alike.values())
      found |= {f'{name}_{k}': v for k, v in alike.items()}
    slots = jnp.arange(c.tokens)[None]
    used = slots < length[:, None]
    halting = {
      'first_stay': bce(first.halting, 0, used, mask),
      'second_stay': bce(second.halting, 0, used, mask),
      'second_halt': bce(second.halting, 1, ~used, mask),
    }
    total += self.halting_weight * sum(halting.values())
    quantized = together(first.quantized, second.quantized)
    bottleneck, updates = self._bottleneck(variables, quantized, length)
    kept = jnp.sum(second.kept, axis=1)
    found['kept'] = masked_mean(kept, mask)
    off = jnp.abs(kept - length)
    found['kept_off'] = masked_mean(off, mask)
    found['eps'] = masked_mean(eps, mask)
    reached = eps[:, None] <= jnp.asarray(c.bins)[None]
    if mask is not None:
      reached = reached & mask[:, None]
    updates = {**updates, _ASKED: jnp.sum(reached, axis=0, dtype=jnp.float32)}
    return total + quantized.loss, found | halting | bottleneck, updates

  def _try(
    self, variables: Variables, images: jax.Array, *args: Any, **options: Any
  ) -> Trial:
    module = self.model.build(dtype=self.dtype)
    out = module.apply(
      self.own(variables), images, *args, method='try_out', **options
    )
    return cast(Trial, out)

  def _likeness(
    self,
    variables: Variables,
    trial: Trial,
    images: jax.Array,
    codes: jax.Array | None,
    mask: Any,
  ) -> Metrics:
    """The losses of a reconstruction."""
    if codes is None or trial.logits is None:
      error = getattr(losses, self.loss)
      return {self.loss: error(trial.images, images, mask=mask)}
    return self._code_losses(variables, trial.logits, codes, mask)

  def commit(
    self, variables: Variables, updates: Any, rng: jax.Array, step: jax.Array
  ) -> Variables:
    """Moves the codebook, and makes the bins rare that were reached."""
    variables = super().commit(variables, updates, rng, step)
    chance = variables[_ASKED]['chance']
    chance = chance * jnp.where(updates[_ASKED] > 0, self.decay, 1.0)
    return {**variables, _ASKED: {'chance': chance / jnp.sum(chance)}}

  def _measure(
    self, variables: Variables, images: jax.Array, painted: jax.Array
  ) -> dict[str, jax.Array]:
    """Tokens, PSNR and loss of what `Halting` keeps at each of `shown`."""
    del painted
    module, own = self.model.build(dtype=self.dtype), self.own(variables)
    unit = lambda x: (x + 1) / 2
    found = {}
    for target in self.shown:
      policy = Halting(target=target, threshold=self.threshold)
      row: Any = module.apply(own, images, policy=policy, method='encode')
      again: Any = module.apply(own, row, method='decode')
      name = f'halting_{target:g}'
      found[f'{name}_tokens'] = row.length.astype(jnp.float32)
      found[f'{name}_psnr'] = metrics.psnr(unit(again), unit(images))
      found[f'{name}_l1'] = absolute_error(again, images)
    return found


def absolute_error(x: jax.Array, y: jax.Array) -> jax.Array:
  """Mean |x - y| [B] of images [B, H, W, C] in [-1, 1], as of [0, 1]."""
  return jnp.mean(jnp.abs(jnp.clip(x, -1, 1) - y), axis=(1, 2, 3)) / 2


def bce(
  logits: jax.Array, label: int, slots: jax.Array, mask: Any
) -> jax.Array:
  """Cross entropy of halting or not, a mean over some slots of each image.

  Args:
    logits: [B, N].
    label: 1 to halt, 0 to stay.
    slots: bool [B, N], those that count; an image may have none.
    mask: bool [B], or None for all images.

  Returns:
    float32 [], a mean over images.
  """
  each = optax.sigmoid_binary_cross_entropy(logits, jnp.asarray(label, float))
  total = jnp.sum(jnp.where(slots, each, 0.0), axis=1)
  return masked_mean(total / jnp.maximum(jnp.sum(slots, axis=1), 1), mask)
