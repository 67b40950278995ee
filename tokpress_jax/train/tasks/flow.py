"""Training a tokenizer whose decoder is a rectified flow (FlexTok).

Bachmann et al., "FlexTok" (arXiv 2502.13967), section 3 and appendix: the
squared error of the flow's velocity, through a random prefix of the tokens, of
which some images get none at all, so that drawing can be guided. There is no
loss of pixels and no adversary. An autoencoder, if there is one, stays as it
was loaded.

Dimension letters: B batch, H rows, W columns, C channels of the map that flows.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from tokpress_jax import errors, flow
from tokpress_jax.io import images as images_lib
from tokpress_jax.quantize import base as quantize_base
from tokpress_jax.tokenizers import AutoencoderKLConfig, FlexTokConfig
from tokpress_jax.tokenizers.flextok import FlowPrediction
from tokpress_jax.train.task import FROZEN, Batch, Program, Variables
from tokpress_jax.train.tasks.tokenizer import Tokenizing, load_tokenizer

# Times at which an evaluation looks at the velocity.
_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowTokenizerTask(Tokenizing):
  """Squared error of the velocity, and the bottleneck's losses.

  Attributes:
    vae: the autoencoder in whose latents the flow is, of a model with one: a
      released name, a model directory or a run. The sizes of `model.vae` must
      be its own.
    times: how training times are drawn, see `flow.draw_times`.
    time_mean: of logit-normal times; above 0 there is more noise, and the
      tokens are more needed.
    time_deviation: of logit-normal times.
    drop: chance that an image's tokens are not read at all.
  """

  groups: ClassVar[tuple[tuple[str, str], ...]] = (
    ('^vae/', FROZEN),
    ('', 'main'),
  )

  vae: str = ''
  times: flow.Times = 'logit_normal'
  time_mean: float = 0.0
  time_deviation: float = 1.0
  drop: float = 0.1

  def bind(self, info: Any) -> FlowTokenizerTask:
    """Checks that the model flows, and takes the data's images."""
    super().bind(info)
    if not isinstance(self.model, FlexTokConfig):
      raise errors.UserError(
        f'--task.model is a {type(self.model).__name__}, whose decoder is no '
        'flow: take a FlexTok (flextok), or a task that trains on images '
        '(tokenizer_task).'
      )
    if bool(self.vae) != (self.model.vae is not None):
      raise errors.UserError(
        f'--task.vae {self.vae!r} is the autoencoder of a model with one, and '
        f'--task.model.vae is {self.model.vae}: set both, or neither.'
      )
    return self

  @property
  def _flextok(self) -> FlexTokConfig:
    return cast(FlexTokConfig, self.model)

  def start(self) -> Any:
    """The autoencoder's weights."""
    if not self.vae:
      return {}
    loaded = load_tokenizer(
      self.vae, reader='a flow in latents', field='--task.vae'
    )
    theirs = loaded.module.config
    if not isinstance(theirs, AutoencoderKLConfig):
      raise errors.UserError(
        f'{self.vae} is a {type(theirs).__name__}, and a flow in latents needs '
        'an AutoencoderKLConfig; give another --task.vae.'
      )
    same = dataclasses.replace(theirs, image_size=self.model.image_size)
    if same != self._flextok.vae:
      raise errors.UserError(
        f'{self.vae} is {same}, and --task.model.vae is {self._flextok.vae}; '
        'set the second to the first, or give another --task.vae.'
      )
    return {'params': {'vae': loaded.variables['params']}}

  def programs(self) -> tuple[Program, ...]:
    """One."""
    return (Program(name='tokenizer', loss=self._loss),)

  def _predict(
    self, variables: Variables, images: jax.Array, length: Any, **options: Any
  ) -> FlowPrediction:
    module = self.model.build(dtype=self.dtype)
    own = self.own(variables)
    out = module.apply(own, images, length, method='predict', **options)
    return cast(FlowPrediction, out)

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    images = images_lib.to_float(batch['image'])
    mask = batch.get('valid')
    count = images.shape[0]
    length, _ = self._drawn(rng, count)
    time_rng, noise_rng, drop_rng = (
      jax.random.fold_in(rng, i) for i in (3, 4, 5)
    )
    t = flow.draw_times(
      time_rng,
      (count,),
      times=self.times,
      mean=self.time_mean,
      deviation=self.time_deviation,
    )
    shape = (count, *self._flextok.map_shape)
    out = self._predict(
      variables,
      images,
      length,
      t=t,
      noise=jax.random.normal(noise_rng, shape),
      without=jax.random.bernoulli(drop_rng, self.drop, (count,)),
      mask=mask,
    )
    error = quantize_base.masked_mean(out.losses, mask)
    bottleneck, updates = self._bottleneck(variables, out.quantized, length)
    found = {'velocity': error, **bottleneck}
    return error + out.quantized.loss, found, updates

  def _measure(
    self, variables: Variables, images: jax.Array, painted: jax.Array
  ) -> dict[str, jax.Array]:
    """Error of the velocity with all tokens and with none, a mean of times."""
    del painted
    count = images.shape[0]
    shape = (count, *self._flextok.map_shape)
    # The same for each image, so that padding changes nothing.
    noise = jax.random.normal(jax.random.key(0), shape[1:])
    noise = jnp.broadcast_to(noise[None], shape)
    whole = jnp.full((count,), self.model.num_tokens, jnp.int32)

    def at(without: bool) -> jax.Array:
      errors_of = lambda t: (
        self._predict(
          variables,
          images,
          whole,
          t=jnp.full((count,), t),
          noise=noise,
          without=jnp.full((count,), without),
        ).losses
      )
      return jnp.mean(jax.lax.map(errors_of, jnp.asarray(_TIMES)), axis=0)

    return {'velocity': at(False), 'velocity_without': at(True)}
