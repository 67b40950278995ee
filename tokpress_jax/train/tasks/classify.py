"""Training an image classifier, with or without pruners inside.

Dimension letters: B batch, V classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from tokpress_jax import losses, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.models.vit import ViTConfig, ViTOutput
from tokpress_jax.train.task import Batch, Program, Task, Variables
from tokpress_jax.train.tasks.tokenizer import Tokenizing, check_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierTask(Task):
  """Cross entropy of a ViT's logits.

  Attributes:
    model: the classifier; its number of classes is the data's.
    smoothing: of the labels.
  """

  sharding_rules: ClassVar[Any] = Tokenizing.sharding_rules

  model: ViTConfig = ViTConfig()
  smoothing: float = 0.1

  def bind(self, info: Any) -> ClassifierTask:
    """Checks the images and takes the number of classes."""
    check_images(self.model, info)
    if not info.num_classes:
      raise UserError(
        f'the data set {info.name!r} has no classes to learn; choose one with '
        'labels, such as --data.name digits'
      )
    model = dataclasses.replace(self.model, classes=info.num_classes)
    return dataclasses.replace(self, model=model)

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the classifier."""
    c = self.model
    shape = (1, c.image_size, c.image_size, c.channels)
    return c.build(dtype=self.dtype).init(rng, jnp.zeros(shape))

  def programs(self) -> tuple[Program, ...]:
    """One program: the whole classifier."""
    return (Program(name='classifier', loss=self._loss),)

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del step
    images = images_lib.to_float(batch['image'])
    module = self.model.build(dtype=self.dtype)
    rngs = {'dropout': rng}
    out = cast(
      ViTOutput,
      module.apply(variables, images, deterministic=False, rngs=rngs),
    )
    labels, mask = batch['label'], batch.get('valid')
    loss = losses.cross_entropy(
      out.logits, labels, mask=mask, smoothing=self.smoothing
    )
    found = {'accuracy': losses.accuracy(out.logits, labels, mask=mask)}
    return loss, found, {}

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Accuracy without any pruner."""
    del rng
    images = images_lib.to_float(batch['image'])
    module = self.model.build(dtype=self.dtype)
    out = cast(ViTOutput, module.apply(variables, images))
    weight = batch['valid'].astype(jnp.float32)
    right = jnp.argmax(out.logits, axis=-1) == batch['label']
    return {'accuracy': (jnp.sum(right * weight), jnp.sum(weight))}

  def export(self, variables: Variables) -> types.Loaded:
    """The classifier."""
    return types.Loaded(
      module=self.model.build(),
      variables=variables,
      spec=types.Spec(name='', family='model', config=self.model),
    )
