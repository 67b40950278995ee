"""Training an image classifier, with or without pruners inside.

Its model's `plan` says which: `--task.model.plan.method tome
--task.model.plan.r 8`, and `--train.init-from RUN` to fine-tune a classifier
that was trained without.

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
from tokpress_jax.models.vit import ViTOutput
from tokpress_jax.models.vit_config import ViTConfig
from tokpress_jax.train.task import Batch, Program, Task, Variables
from tokpress_jax.train.tasks.tokenizer import Tokenizing, check_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierTask(Task):
  """Cross entropy of a ViT's logits.

  Attributes:
    model: the classifier; its number of classes is the data's. It trains and is
      evaluated with the pruners of its plan.
    smoothing: of the labels.
    plan_from: a run or model whose plan takes the place of the model's, such as
      one of `DiffRateTask`.
  """

  sharding_rules: ClassVar[Any] = Tokenizing.sharding_rules

  model: ViTConfig = ViTConfig()
  smoothing: float = 0.1
  plan_from: str = ''

  def bind(self, info: Any) -> ClassifierTask:
    """Checks the images and takes the number of classes."""
    check_images(self.model, info)
    if not info.num_classes:
      raise UserError(
        f'the data set {info.name!r} has no classes to learn; choose one with '
        'labels, such as --data.name digits'
      )
    model = dataclasses.replace(self.model, classes=info.num_classes)
    if self.plan_from:
      found = load_classifier(
        self.plan_from, reader='plan_from', field='--task.plan-from'
      )
      model = dataclasses.replace(model, plan=found.module.config.plan)
    model.layers(model.pairs)  # refuses a plan now, not in the first step
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
    out = cast(
      ViTOutput,
      module.apply(
        variables,
        images,
        rng=jax.random.fold_in(rng, 1),  # for pruners that draw
        deterministic=False,
        rngs={'dropout': rng},
      ),
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
    """Accuracy, with the plan's pruners."""
    images = images_lib.to_float(batch['image'])
    module = self.model.build(dtype=self.dtype)
    out = cast(ViTOutput, module.apply(variables, images, rng=rng))
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


def load_classifier(name: str, *, reader: str, field: str) -> types.Loaded:
  """Loads the ViT that a config names, or says how to get it.

  Args:
    name: what `load` takes.
    reader: what needs it, for messages.
    field: that names it.

  Raises:
    UserError: if there is none, or it is none.
  """
  from tokpress_jax.io import load as load_lib

  try:
    loaded = load_lib.load(name)
  except UserError as error:
    raise UserError(
      f'{reader} has no ViT yet: {str(error).rstrip(".")}. Train it '
      f"first (the config's docstring says which), or name another: {field} DIR"
    ) from error
  if not isinstance(loaded.module.config, ViTConfig):
    raise UserError(
      f'{name} is a {type(loaded.module).__name__}, and {reader} takes a ViT; '
      f'give another {field}'
    )
  return loaded
