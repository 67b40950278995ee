"""Training a tokenizer: reconstruction through a random prefix of the tokens.

With a perceptual loss and an adversary this is VQGAN's training (Esser et al.,
arXiv 2012.09841), of any tokenizer.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, S
scales.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp

from tokpress_jax import errors, losses
from tokpress_jax.io import images as images_lib
from tokpress_jax.quantize import base as quantize_base
from tokpress_jax.tokenizers import PyramidConfig, Reconstruction
from tokpress_jax.train import tree
from tokpress_jax.train.task import (
  FROZEN,
  Batch,
  Metrics,
  Program,
  Variables,
)
from tokpress_jax.train.tasks import adversary as adversary_lib
from tokpress_jax.train.tasks.tokenizer import Tokenizing


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTask(Tokenizing):
  """Reconstruction, looks, an adversary and the bottleneck's losses.

  Of a multi-scale tokenizer, `lengths` and `full` are the random drop of fine
  scales, after which any number of scales decodes; `skip` drops any scales, so
  that a model may be used with fewer scales than it was trained with.

  The decoder alone is trained by `train.freeze '^(encoder|quantizer)/'`.

  Attributes:
    loss: 'l2', 'l1', or 'decibel' (see `losses.decibel`), of images in [-1, 1].
    loss_weight: of the reconstruction, beside the bottleneck's own losses.
    skip: chance that an image leaves out a scale which is not its finest;
      multi-scale tokenizers only.
    perceptual_weight: of LPIPS between image and reconstruction; 0 needs no
      file.
    perceptual_file: its weights, see `losses.load_lpips`.
    convnext_weight: of the distance of ConvNeXt-S's logits; 0 needs no file.
    convnext_file: its weights, see `losses.load_convnext`.
    adversary: the discriminator and its game; the default has none.
  """

  groups: ClassVar[tuple[tuple[str, str], ...]] = (
    (rf'^{adversary_lib.PARAMS}/', adversary_lib.PARAMS),
    ('', 'main'),
  )

  loss: Literal['l2', 'l1', 'decibel'] = 'l2'
  loss_weight: float = 1.0
  skip: float = 0.0
  perceptual_weight: float = 0.0
  perceptual_file: str = ''
  convnext_weight: float = 0.0
  convnext_file: str = ''
  adversary: adversary_lib.AdversaryConfig = adversary_lib.AdversaryConfig()

  def bind(self, info: Any) -> TokenizerTask:
    """Checks that the model takes the data's images, and the losses too."""
    super().bind(info)
    size = self.model.image_size
    if self.skip and not isinstance(self.model, PyramidConfig):
      raise errors.UserError(
        f'--task.skip {self.skip} is of tokenizers with scales; '
        f'{type(self.model).__name__} has none. Set it to 0.'
      )
    if self.perceptual_weight and (
      size < 16 or self.model.channels not in (1, 3)
    ):
      raise errors.UserError(
        f'LPIPS takes images of 16 pixels or more with 1 or 3 channels, not '
        f'{size} pixels with {self.model.channels}; set '
        '--task.perceptual-weight 0.'
      )
    if self.convnext_weight and self.model.channels not in (1, 3):
      raise errors.UserError(
        f'ConvNeXt takes images with 1 or 3 channels, not {self.model.channels}'
        '; set --task.convnext-weight 0.'
      )
    if self.adversary.plays:
      self.adversary.network.check(size)
    return self

  def constants(self) -> Any:
    """The weights of the perceptual networks that are used."""
    found = {}
    if self.perceptual_weight:
      found['perceptual'] = losses.load_lpips(self.perceptual_file)
    if self.convnext_weight:
      found['convnext'] = losses.load_convnext(self.convnext_file)
    return found

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the tokenizer, and the discriminator if there is one."""
    variables = super().init(rng)
    if not self.adversary.plays:
      return variables
    rng = jax.random.fold_in(rng, 1)
    return self.adversary.add_variables(variables, rng, self._shape)

  def own(self, variables: Variables) -> Variables:
    """The tokenizer's variables: no discriminator, nothing frozen."""
    return adversary_lib.without(variables)

  def programs(self) -> tuple[Program, ...]:
    """The tokenizer; then the discriminator, if there is one."""
    tokenizer = Program(name='tokenizer', loss=self._loss)
    if not self.adversary.plays:
      return (tokenizer,)
    discriminator = Program(
      name='discriminator',
      loss=self._discriminate,
      group=adversary_lib.PARAMS,
      active_from=self.adversary.start,
    )
    return (tokenizer, discriminator)

  def _reconstruct(
    self, variables: Variables, images: jax.Array, mask: Any, rng: Any
  ) -> tuple[Reconstruction, jax.Array]:
    """The training pass and the lengths [B] it was drawn with."""
    batch = images.shape[0]
    length, options = self._drawn(rng, batch)
    if self.skip:
      shape = (batch, len(cast(PyramidConfig, self.model).scales))
      options['skipped'] = jax.random.bernoulli(
        jax.random.fold_in(rng, 1), self.skip, shape
      )
    out = self.model.build(dtype=self.dtype).apply(
      self.own(variables),
      images,
      length,
      mask=mask,
      method='reconstruct',
      **options,
    )
    return cast(Reconstruction, out), length

  def _likeness(
    self, variables: Variables, painted: jax.Array, images: jax.Array, mask: Any
  ) -> tuple[jax.Array, Metrics]:
    """Reconstruction and perceptual loss, weighted; and their metrics."""
    error = getattr(losses, self.loss)(painted, images, mask=mask)
    total = self.loss_weight * error
    found = {'mse': losses.l2(painted, images, mask=mask)}
    weights = {
      'perceptual': self.perceptual_weight,
      'convnext': self.convnext_weight,
    }
    for name, distance in self._distances(variables, painted, images).items():
      found[name] = quantize_base.masked_mean(distance, mask)
      total += weights[name] * found[name]
    return total, found

  def _distances(
    self, variables: Variables, x: jax.Array, y: jax.Array
  ) -> dict[str, jax.Array]:
    """The perceptual distances [B] that are used."""
    networks = {'perceptual': losses.LPIPS, 'convnext': losses.ConvNeXt}
    return {
      name: networks[name](dtype=self.dtype).apply(weights, x, y)
      for name, weights in variables.get(FROZEN, {}).items()
    }

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    images = images_lib.to_float(batch['image'])
    mask = batch.get('valid')
    likeness = lambda x: self._likeness(variables, x, images, mask)
    if self.adversary.plays:
      out, length, total, found = self._play(
        variables, images, mask, rng, step, likeness
      )
    else:
      out, length = self._reconstruct(variables, images, mask, rng)
      total, found = likeness(out.images)
    total += out.quantized.loss
    bottleneck, updates = self._bottleneck(variables, out.quantized, length)
    return total, found | bottleneck, updates

  def _play(
    self,
    variables: Variables,
    images: jax.Array,
    mask: Any,
    rng: Any,
    step: Any,
    likeness: Any,
  ) -> tuple[Reconstruction, jax.Array, jax.Array, Metrics]:
    """The training pass against the adversary."""
    game = self.adversary
    path = self.model.build().last_layer
    if game.scaling == 'adaptive' and not path:
      raise errors.UserError(
        f'{type(self.model).__name__} names no last layer at which gradients '
        'could be compared; set --task.adversary.scaling fixed.'
      )

    def paint(kernel: jax.Array) -> Any:
      params = _with_kernel(variables['params'], path, kernel)
      out, length = self._reconstruct(
        {**variables, 'params': params}, images, mask, rng
      )
      return out.images, (out, length)

    fool = lambda x: game.fool(
      variables, x, mask=mask, step=step, dtype=self.dtype
    )
    if game.scaling == 'fixed':
      out, length = self._reconstruct(variables, images, mask, rng)
      painted = out.images
      total, found = likeness(painted)
      value, slope = fool(painted)
      scale = jnp.ones(())
    else:
      # Each loss is differentiated once, with respect to the images. The last
      # kernel's gradients follow from these through its layer alone, and the
      # rest of the network gets their sum in one backward pass.
      painted, pull, (out, length) = jax.vjp(
        paint, _kernel(variables['params'], path), has_aux=True
      )
      (alike, found), alike_slope = jax.value_and_grad(likeness, has_aux=True)(
        jax.lax.stop_gradient(painted)
      )
      value, slope = fool(painted)
      scale = losses.adaptive_weight(
        *pull(alike_slope), *pull(slope), maximum=game.maximum
      )
      total = losses.with_gradient(alike, painted, alike_slope)
    scale = jnp.where(step >= game.start, game.weight * scale, 0.0)
    total += scale * losses.with_gradient(value, painted, slope)
    found |= {'adversarial': value, 'adversarial_weight': scale}
    return out, length, total, found

  def _discriminate(
    self, variables: Variables, batch: Batch, rng: Any, step: Any
  ):
    del step
    images = images_lib.to_float(batch['image'])
    mask = batch.get('valid')
    out, _ = self._reconstruct(variables, images, mask, rng)
    return self.adversary.tell_apart(
      variables,
      images,
      jax.lax.stop_gradient(out.images),
      mask=mask,
      dtype=self.dtype,
    )

  def commit(
    self, variables: Variables, updates: Any, rng: jax.Array, step: jax.Array
  ) -> Variables:
    """Moves the codebook's averages, revives dead codes; moves LeCAM's."""
    if adversary_lib.LECAM in updates:
      return self.adversary.commit(variables, updates[adversary_lib.LECAM])
    return super().commit(variables, updates, rng, step)

  def _measure(
    self, variables: Variables, images: jax.Array, painted: jax.Array
  ) -> dict[str, jax.Array]:
    """The perceptual distances that it is trained with."""
    return self._distances(variables, painted, images)


def _kernel(params: Any, path: tuple[str, ...]) -> jax.Array:
  for name in path:
    params = params[name]
  return params['kernel']


def _with_kernel(params: Any, path: tuple[str, ...], kernel: jax.Array) -> Any:
  over: Any = {'kernel': kernel}
  for name in reversed(path):
    over = {name: over}
  return tree.merge(params, over)
