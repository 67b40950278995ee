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

from tokpress_jax import errors, losses, metrics, quantize, types
from tokpress_jax.io import images as images_lib
from tokpress_jax.quantize import base as quantize_base
from tokpress_jax.tokenizers import (
  PyramidConfig,
  Reconstruction,
  TokenizerConfig,
  sample_lengths,
)
from tokpress_jax.train import tree
from tokpress_jax.train.task import (
  FROZEN,
  Batch,
  Metrics,
  Program,
  Task,
  Variables,
)
from tokpress_jax.train.tasks import adversary as adversary_lib

_QUANTIZER = ('quantizer',)  # its path in every tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTask(Task):
  """Reconstruction, looks, an adversary and the bottleneck's losses.

  Of a multi-scale tokenizer, `lengths` and `full` are the random drop of fine
  scales, after which any number of scales decodes; `skip` drops any scales, so
  that a model may be used with fewer scales than it was trained with.

  Attributes:
    model: the tokenizer.
    loss: 'l2', 'l1', or 'decibel' (see `losses.decibel`).
    loss_weight: of the reconstruction, beside the bottleneck's own losses.
    lengths: how training lengths are drawn, see `sample_lengths`.
    full: chance that an image keeps all its tokens.
    skip: chance that an image leaves out a scale which is not its finest;
      multi-scale tokenizers only.
    perceptual_weight: of LPIPS between image and reconstruction; 0 needs no
      file.
    perceptual_file: its weights, see `losses.load_lpips`.
    adversary: the discriminator and its game; the default has none.
  """

  groups: ClassVar[tuple[tuple[str, str], ...]] = (
    (rf'^{adversary_lib.PARAMS}/', adversary_lib.PARAMS),
    ('', 'main'),
  )
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
  skip: float = 0.0
  perceptual_weight: float = 0.0
  perceptual_file: str = ''
  adversary: adversary_lib.AdversaryConfig = adversary_lib.AdversaryConfig()

  def bind(self, info: Any) -> TokenizerTask:
    """Checks that the model takes the data's images, and the losses too."""
    check_images(self.model, info)
    if self.model.condition_shape is not None:
      raise errors.UserError(
        f'the decoder of {type(self.model).__name__} reads a text, and no data '
        'set here has texts. Set --task.model.text-tokens 0.'
      )
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
    smallest = self.adversary.network.smallest
    if self.adversary.plays and size < smallest:
      raise errors.UserError(
        f'the discriminator takes images of {smallest} pixels or more, not '
        f'{size}; lower --task.adversary.network.layers, or set '
        '--task.adversary.weight 0.'
      )
    return self

  def constants(self) -> Any:
    """The weights of LPIPS, if it is used."""
    if not self.perceptual_weight:
      return {}
    return {'perceptual': losses.load_lpips(self.perceptual_file)}

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the tokenizer, and the discriminator if there is one."""
    c = self.model
    shape = (1, c.image_size, c.image_size, c.channels)
    variables = self.model.build(dtype=self.dtype).init(rng, jnp.zeros(shape))
    if not self.adversary.plays:
      return variables
    rng = jax.random.fold_in(rng, 1)
    return self.adversary.add_variables(variables, rng, shape)

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
    length = sample_lengths(
      rng,
      batch,
      self.model.boundaries,
      sampler=self.lengths,
      full=self.full,
    )
    options: dict[str, Any] = {}
    if self.model.continuous:
      options['rng'] = jax.random.fold_in(rng, 2)
    if self.skip:
      shape = (batch, len(cast(PyramidConfig, self.model).scales))
      options['skipped'] = jax.random.bernoulli(
        jax.random.fold_in(rng, 1), self.skip, shape
      )
    out = self.model.build(dtype=self.dtype).apply(
      adversary_lib.without(variables),
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
    if self.perceptual_weight:
      distance = self._distance(variables, painted, images)
      distance = quantize_base.masked_mean(distance, mask)
      total += self.perceptual_weight * distance
      found['perceptual'] = distance
    return total, found

  def _distance(
    self, variables: Variables, x: jax.Array, y: jax.Array
  ) -> jax.Array:
    """LPIPS [B]."""
    weights = variables[FROZEN]['perceptual']
    return losses.LPIPS(dtype=self.dtype).apply(weights, x, y)  # type: ignore[return-value]

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
    found |= {
      'mean_length': jnp.mean(length.astype(jnp.float32)),
      **out.quantized.losses,
    }
    stats = out.quantized.stats
    if stats is None:
      return total, found, {}
    found['code_usage'] = jnp.mean(quantize.usage(stats.count))
    found['code_perplexity'] = jnp.mean(quantize.perplexity(stats.count))
    if isinstance(self.model, PyramidConfig):
      found |= self._scale_usage(variables)
    return total, found, {'stats': stats}

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

  def _scale_usage(self, variables: Variables) -> Metrics:
    """Codes in use and perplexity of each scale, 1 the coarsest, of late."""
    recent = self.model.quantizer.usage(variables, path=_QUANTIZER)  # [S, V]
    perplexity = quantize.perplexity(recent)
    # Of a code that is no longer chosen a hundredth may be left.
    used = quantize.usage(jnp.maximum(recent * recent.shape[1] - 0.01, 0.0))
    found = {f'usage_{k + 1}': x for k, x in enumerate(used)}
    return found | {f'perplexity_{k + 1}': x for k, x in enumerate(perplexity)}

  def commit(
    self, variables: Variables, updates: Any, rng: jax.Array, step: jax.Array
  ) -> Variables:
    """Moves the codebook's averages, revives dead codes; moves LeCAM's."""
    del step
    if adversary_lib.LECAM in updates:
      return self.adversary.commit(variables, updates[adversary_lib.LECAM])
    if 'stats' not in updates:
      return variables
    return self.model.quantizer.update(
      variables, updates['stats'], rng=rng, path=_QUANTIZER
    )

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """PSNR (dB, peak 1) at 1, 2, 4, ... and all tokens; bits per pixel.

    And LPIPS of all tokens, if it is trained with. Continuous tokens have no
    size in bits.
    """
    del rng
    c = self.model
    module = c.build(dtype=self.dtype)
    own = adversary_lib.without(variables)
    images = images_lib.to_float(batch['image'])
    weight = batch['valid'].astype(jnp.float32)
    encoded = cast(types.Encoded, module.apply(own, images, method='encode'))
    unit = lambda x: (x + 1) / 2
    found = {}
    for n in shown_lengths(c.boundaries):
      again: Any = module.apply(own, encoded.first(n), method='decode')
      psnr = metrics.psnr(unit(again), unit(images))
      found[f'psnr_{n}'] = (jnp.sum(psnr * weight), jnp.sum(weight))
    found['psnr'] = found[f'psnr_{c.num_tokens}']
    if self.perceptual_weight:  # Of all tokens: the last that was decoded.
      distance = self._distance(variables, again, images)
      found['perceptual'] = (jnp.sum(distance * weight), jnp.sum(weight))
    if not c.continuous:
      bits = c.num_tokens * c.bits_per_token / c.image_size**2
      found['bits_per_pixel'] = (bits * jnp.sum(weight), jnp.sum(weight))
    return found

  def export(self, variables: Variables) -> types.Loaded:
    """The tokenizer alone: no discriminator, no perceptual network."""
    return types.Loaded(
      module=self.model.build(),
      variables=adversary_lib.without(variables),
      spec=types.Spec(name='', family='tokenizer', config=self.model),
    )


def _kernel(params: Any, path: tuple[str, ...]) -> jax.Array:
  for name in path:
    params = params[name]
  return params['kernel']


def _with_kernel(params: Any, path: tuple[str, ...], kernel: jax.Array) -> Any:
  over: Any = {'kernel': kernel}
  for name in reversed(path):
    over = {name: over}
  return tree.merge(params, over)


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
