"""Training a tokenizer on the codes that another one gives: proxy codes.

Yu et al., "An Image is Worth 32 Tokens for Reconstruction and Generation"
(TiTok, arXiv 2406.07550), section 3.3, the first of two stages: the decoder
predicts, for each patch, the code that MaskGIT's VQGAN gives it, by cross
entropy. No loss looks at pixels, but the painter starts as that VQGAN's decoder
and stays so, which is why an evaluation can paint from the first step. The
second stage trains decoder and painter on images: `TokenizerTask`, with
`train.init_from` the first and `train.freeze '^(encoder|quantizer)/'`.

Dimension letters: B batch, h patches a side, N = h^2 patches, V codes of the
VQGAN.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from tokpress_jax import errors, losses
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers.titok import CodePrediction
from tokpress_jax.train.task import FROZEN, Batch, Program, Variables
from tokpress_jax.train.tasks.from_vqgan import FromVQGAN


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxyTask(FromVQGAN):
  """Cross entropy of a VQGAN's codes, and the bottleneck's losses."""

  groups: ClassVar[tuple[tuple[str, str], ...]] = (
    ('^painter/(codebook$|decoder/)', FROZEN),
    ('', 'main'),
  )

  def bind(self, info: Any) -> ProxyTask:
    """Checks that the model predicts codes, and takes the data's images."""
    super().bind(info)
    if getattr(self.model, 'vqgan', None) is None:
      raise errors.UserError(
        f'--task.model is a {type(self.model).__name__} without `vqgan`, and '
        'what is trained on proxy codes predicts codes of a VQGAN: take a '
        'TiTok with --task.model.vqgan, or a task that trains on images '
        '(tokenizer_task).'
      )
    return self

  def constants(self) -> Any:
    """The VQGAN's variables, without its decoder: that is the painter's."""
    variables = self.vqgan.variables
    params = {k: v for k, v in variables['params'].items() if k != 'decoder'}
    return {'proxy': {**variables, 'params': params}}

  def programs(self) -> tuple[Program, ...]:
    """One."""
    return (Program(name='tokenizer', loss=self._loss),)

  def _targets(self, variables: Variables, images: jax.Array) -> jax.Array:
    """The VQGAN's codes int32 [B, h, h], float32 inside whatever `precision`.

    Rounding would change codes.
    """
    encoded: Any = self.vqgan.module.apply(
      variables[FROZEN]['proxy'], images, method='encode'
    )
    grid = self.vqgan.module.config.grid
    return encoded.codes.reshape(-1, grid, grid)

  def _predict(
    self, variables: Variables, images: jax.Array, length: jax.Array, **options
  ) -> CodePrediction:
    module = self.model.build(dtype=self.dtype)
    own = self.own(variables)
    out = module.apply(own, images, length, method='predict', **options)
    return cast(CodePrediction, out)

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    images = images_lib.to_float(batch['image'])
    mask = batch.get('valid')
    codes = self._targets(variables, images)
    length, options = self._drawn(rng, images.shape[0])
    out = self._predict(variables, images, length, mask=mask, **options)
    counted = None
    if mask is not None:
      counted = jnp.broadcast_to(mask[:, None, None], codes.shape)
    loss = losses.cross_entropy(out.logits, codes, mask=counted)
    found = {
      'cross_entropy': loss,
      'accuracy': losses.accuracy(out.logits, codes, mask=counted),
    }
    bottleneck, updates = self._bottleneck(variables, out.quantized, length)
    return loss + out.quantized.loss, found | bottleneck, updates

  def _measure(
    self, variables: Variables, images: jax.Array, painted: jax.Array
  ) -> dict[str, jax.Array]:
    """Cross entropy (nats per patch) and accuracy of the proxy codes."""
    del painted
    codes = self._targets(variables, images)
    whole = jnp.full(images.shape[:1], self.model.num_tokens, jnp.int32)
    logits = self._predict(variables, images, whole).logits
    each = lambda loss: jax.vmap(loss)(logits, codes)
    return {
      'cross_entropy': each(losses.cross_entropy),
      'accuracy': each(losses.accuracy),
    }
