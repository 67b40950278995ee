"""Training a recurrent tokenizer: every round predicts the VQGAN's codes.

Duggal et al., "Adaptive length image tokenization via recurrent allocation"
(ALIT, 2024, arXiv 2411.02393), the first of two stages, latent distillation. A
step runs all rounds; the loss of each is the cross entropy of the VQGAN's codes
and the squared error of the mixed codes, and the gradient goes back through all
rounds before. Image tokens that a round explains are masked for the next, as
drawn by the step's key. The VQGAN stays as it was loaded. The second stage, on
pixels with an adversary, is not here.

Dimension letters: B batch, R rounds, h patches a side.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp

from tokpress_jax import errors, losses
from tokpress_jax.io import images as images_lib
from tokpress_jax.quantize.base import masked_mean, together
from tokpress_jax.tokenizers import ALITConfig
from tokpress_jax.tokenizers.alit import Round
from tokpress_jax.train.task import Batch, Metrics, Program, Variables
from tokpress_jax.train.tasks.from_vqgan import AroundVQGAN


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALITTask(AroundVQGAN):
  """The codes of a frozen VQGAN after every round.

  Metrics of a round carry its length: `cross_entropy_32` is of the first 32
  tokens, `masked_32` the share of image tokens that they explain.

  Attributes:
    model: the tokenizer.
    lengths: all rounds are trained in every step.
    weights: of the cross entropies of the first rounds; later ones have 1.
    code_weight: of the squared error of the mixed codes, in each round.
  """

  model: ALITConfig
  lengths: Literal['none'] = 'none'
  weights: tuple[float, ...] = (2.5, 2.0, 1.5, 1.25)
  code_weight: float = 1.0

  def bind(self, info: Any) -> ALITTask:
    """Checks that the model has rounds and takes the data's images."""
    super().bind(info)
    if not isinstance(self.model, ALITConfig):
      raise errors.UserError(
        f'--task.model is a {type(self.model).__name__}, which has no rounds; '
        'take an ALITConfig, or tokenizer_task.'
      )
    if len(self.weights) > self.model.rounds:
      raise errors.UserError(
        f'--task.weights {self.weights} are of {len(self.weights)} rounds, and '
        f'the model has {self.model.rounds}; give as many or fewer.'
      )
    return self

  def programs(self) -> tuple[Program, ...]:
    """One."""
    return (Program(name='tokenizer', loss=self._loss),)

  def _rounds(
    self,
    variables: Variables,
    images: jax.Array,
    codes: jax.Array,
    *,
    rng: jax.Array | None = None,
    mask: jax.Array | None = None,
  ) -> list[Round]:
    def run(module):
      uniform = module.draws(rng, images.shape[0])
      return module.run(images, uniform, codes=codes, mask=mask)

    module = self.model.build(dtype=self.dtype)
    return cast(list[Round], module.apply(self.own(variables), method=run))

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    c = self.model
    images = images_lib.to_float(batch['image'])
    mask = batch.get('valid')
    codes = self._codes(variables, images)
    rounds = self._rounds(variables, images, codes, rng=rng, mask=mask)
    weights = (*self.weights, *(1.0,) * (c.rounds - len(self.weights)))
    total = jnp.zeros(())
    found: Metrics = {}
    for n, weight, out in zip(c.boundaries, weights, rounds, strict=True):
      alike = self._code_losses(variables, out.logits, codes, mask)
      total += weight * alike['cross_entropy']
      total += self.code_weight * alike['code']
      found |= {f'{name}_{n}': x for name, x in alike.items()}
      masked = jnp.mean(out.masked, axis=1, dtype=jnp.float32)
      found[f'masked_{n}'] = masked_mean(masked, mask)
    quantized = together(*(out.quantized for out in rounds))
    length = jnp.full(images.shape[:1], c.num_tokens, jnp.int32)
    bottleneck, updates = self._bottleneck(variables, quantized, length)
    return total + quantized.loss, found | bottleneck, updates

  def _measure(
    self, variables: Variables, images: jax.Array, painted: jax.Array
  ) -> dict[str, jax.Array]:
    """Cross entropy (nats per patch) and accuracy of the codes, each round."""
    del painted
    codes = self._codes(variables, images)
    rounds = self._rounds(variables, images, codes)
    found = {}
    for n, out in zip(self.model.boundaries, rounds, strict=True):
      each = lambda loss, logits=out.logits: jax.vmap(loss)(logits, codes)
      found[f'cross_entropy_{n}'] = each(losses.cross_entropy)
      found[f'accuracy_{n}'] = each(losses.accuracy)
    return found
