"""Training a CLIP on images and their texts.

Dimension letters: B batch, M codes of a text.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp

from tokpress_jax import losses, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.models.clip import CLIPConfig
from tokpress_jax.train.task import Batch, Program, Task, Variables
from tokpress_jax.train.tasks.tokenizer import Tokenizing, check_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveTask(Task):
  """CLIP's loss, or SigLIP's, over the whole batch of all devices.

  Rows with the same text are no negatives of each other. With accumulation,
  only those of one microbatch are compared.

  Attributes:
    model: the two towers; words, vocabulary and length of texts are the data's.
    loss: CLIP's 'softmax' or SigLIP's 'sigmoid', for which the model has a
      bias.
  """

  sharding_rules: ClassVar[Any] = Tokenizing.sharding_rules

  model: CLIPConfig = CLIPConfig()
  loss: Literal['softmax', 'sigmoid'] = 'softmax'

  def bind(self, info: Any) -> ContrastiveTask:
    """Checks the images and takes the words."""
    check_images(self.model.image, info)
    if info.codec is None:
      raise UserError(
        f'the data set {info.name!r} has no texts; choose one that has, such '
        'as --data.name scenes'
      )
    if self.loss == 'sigmoid' and self.model.bias is None:
      raise UserError(
        "loss='sigmoid' needs a bias, without which a batch's many wrong pairs "
        'outweigh the right ones; set model.bias=-10'
      )
    text = dataclasses.replace(
      self.model.text,
      vocabulary=info.codec.vocabulary,
      length=info.codec.length,
    )
    model = dataclasses.replace(self.model, text=text, words=info.codec.words)
    image = model.image
    image.layers(image.pairs)  # refuses a plan now, not in the first step
    return dataclasses.replace(self, model=model)

  def init(self, rng: jax.Array) -> Variables:
    """Initialises both towers."""
    c = self.model
    side = c.image.image_size
    pixels = jnp.zeros((1, side, side, c.image.channels))
    codes = jnp.zeros((1, c.text.length), jnp.int32)
    return c.build(dtype=self.dtype).init(rng, pixels, codes)

  def programs(self) -> tuple[Program, ...]:
    """One program: both towers."""
    return (Program(name='clip', loss=self._loss),)

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    logits = self._logits(
      variables,
      batch,
      rng=jax.random.fold_in(rng, 1),  # for pruners that draw
      deterministic=False,
      rngs={'dropout': rng},
    )
    measure = {
      'softmax': losses.clip_loss,
      'sigmoid': losses.siglip_loss,
    }[self.loss]
    mask, same = batch.get('valid'), losses.same_rows(batch['text'])
    found = {
      name: jnp.mean(right, where=mask)
      for name, right in _recalls(logits, same, mask).items()
    }
    return measure(logits, mask=mask, same=same), found, {}

  def _logits(
    self, variables: Variables, batch: Batch, **options: Any
  ) -> jax.Array:
    """Logits of all images and texts of a batch, [B, B]."""
    module = self.model.build(dtype=self.dtype)
    images = images_lib.to_float(batch['image'])
    found = module.apply(variables, images, batch['text'], **options)
    return cast(jax.Array, found)

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Recall at 1 among a batch, from images to texts and back.

    Of the whole split: `tokpress bench compressors --model RUN`.
    """
    logits = self._logits(variables, batch, rng=rng)
    same = losses.same_rows(batch['text'])
    weight = batch['valid'].astype(jnp.float32)
    return {
      name: (jnp.sum(right * weight), jnp.sum(weight))
      for name, right in _recalls(logits, same, batch['valid']).items()
    }

  def export(self, variables: Variables) -> types.Loaded:
    """The two towers."""
    return types.Loaded(
      module=self.model.build(),
      variables=variables,
      spec=types.Spec(name='', family='model', config=self.model),
    )


def _recalls(
  logits: jax.Array, same: jax.Array, mask: jax.Array | None
) -> dict[str, jax.Array]:
  """Whether the nearest is right, float32 [B], both ways."""
  found = {}
  for name, x in (('image_to_text', logits), ('text_to_image', logits.T)):
    if mask is not None:
      x = jnp.where(mask[None], x, -jnp.inf)
    nearest = jnp.argmax(x, axis=1)
    right = jnp.take_along_axis(same, nearest[:, None], axis=1)[:, 0]
    found[name] = right.astype(jnp.float32)
  return found
