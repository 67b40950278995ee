"""Learning how many tokens each layer of a classifier keeps (DiffRate).

Section 3.3 of arXiv:2305.17997: the classifier stays as it is; the rates follow
its loss and the distance of the expected FLOPs from a target. The run exports
the classifier with the learned numbers as its plan.

Dimension letters: B batch, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from tokpress_jax import losses, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.models.vit_config import ViTConfig
from tokpress_jax.pruners import plans
from tokpress_jax.pruners.inside_vit import learned_rates
from tokpress_jax.train.task import FROZEN, Batch, Program, Task, Variables
from tokpress_jax.train.tasks.classify import load_classifier
from tokpress_jax.train.tasks.tokenizer import check_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffRateTask(Task):
  """Cross entropy, and `weight` times the square of the distance in FLOPs.

  Attributes:
    model: the classifier's config, which is taken from it.
    classifier: a ViT with a class token: a run, a model directory or a name.
    flops: the target, as a share of the FLOPs with all tokens.
    weight: of (share - target)^2. The official code has 5 (GFLOPs - target)^2:
      for DeiT-S, of 4.6 GFLOPs, that is 106.
    free_steps: for so many steps the FLOPs do not count, so that rates under
      which the classifier fails are left first (the official code's warm-up:
      the first epoch).
    granularity: gap between two candidate numbers of tokens (1 in the paper, 4
      by default in its code).
    smoothing: of the labels.
  """

  sharding_rules: ClassVar[Any] = ()

  model: ViTConfig = ViTConfig()
  classifier: str = ''
  flops: float = 0.5
  weight: float = 100.0
  free_steps: int = 0
  granularity: int = 1
  smoothing: float = 0.0

  def bind(self, info: Any) -> DiffRateTask:
    """Loads the classifier and checks it against the data and the target."""
    if not self.classifier:
      raise UserError(
        'rates are learned for a trained classifier; give its directory: '
        '--task.classifier runs/x (a run or an exported model)'
      )
    loaded = _load(self.classifier)
    config = loaded.module.config
    check_images(config, info)
    if not config.class_token or config.classes != info.num_classes:
      raise UserError(
        f'{self.classifier} has class_token={config.class_token} and '
        f'{config.classes} classes; expected a class token, whose attention '
        f"ranks the others, and the data's {info.num_classes} classes"
      )
    least = _least(config)
    if not least <= self.flops < 1:
      raise UserError(
        f'task.flops is {self.flops}; with the first layer whole and a token '
        f'beside the class token in the others, this model keeps '
        f'{least:.3f}, so give a share from there to 1'
      )
    bound = dataclasses.replace(self, model=config)
    # The loaded classifier is no field: configs hold plain values only.
    object.__setattr__(bound, '_loaded', loaded)
    return bound

  @property
  def loaded(self) -> types.Loaded:
    """The classifier; after `bind`."""
    return getattr(self, '_loaded', None) or _load(self.classifier)

  @property
  def rates(self) -> learned_rates.LearnedRates:
    """The module that is trained."""
    config = self.model
    return learned_rates.LearnedRates(
      depth=config.depth,
      tokens=config.grid**2,
      granularity=self.granularity,
      num_protected=config.num_special,
    )

  def constants(self) -> Any:
    """The classifier's variables."""
    return self.loaded.variables

  def init(self, rng: jax.Array) -> Variables:
    """Even rates."""
    return self.rates.init(rng)

  def programs(self) -> tuple[Program, ...]:
    """One program: the rates."""
    return (Program(name='rates', loss=self._loss),)

  def _masked(self, variables: Variables, images: jax.Array) -> Any:
    """Logits, and the share of FLOPs that is expected."""
    config, rates = self.model, self.rates
    own = {'params': variables['params']}
    size = {'width': config.width, 'hidden': config.shape.hidden}
    step = lambda state, row, layer: rates.apply(
      own, state, row, layer=layer, method='step'
    )
    module = config.build(dtype=self.dtype)
    logits = module.apply(variables[FROZEN], images, step, method='masked')
    kept = cast(jax.Array, rates.apply(own))
    flops = learned_rates.expected_flops(kept, tokens=config.num_tokens, **size)
    whole = learned_rates.expected_flops(
      jnp.full_like(kept, config.num_tokens), tokens=config.num_tokens, **size
    )
    return logits, flops / whole

  def _loss(self, variables: Variables, batch: Batch, rng: Any, step: Any):
    del rng
    images = images_lib.to_float(batch['image'])
    logits, share = self._masked(variables, images)
    labels, mask = batch['label'], batch.get('valid')
    entropy = losses.cross_entropy(
      logits, labels, mask=mask, smoothing=self.smoothing
    )
    weight = jnp.where(step < self.free_steps, 0.0, self.weight)
    loss = entropy + weight * (share - self.flops) ** 2
    found = {
      'cross_entropy': entropy,
      'flops': share,
      'accuracy': losses.accuracy(logits, labels, mask=mask),
    }
    return loss, found, {}

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Accuracy under the masks, and the share of FLOPs."""
    del rng
    images = images_lib.to_float(batch['image'])
    logits, share = self._masked(variables, images)
    weight = batch['valid'].astype(jnp.float32)
    right = jnp.argmax(logits, axis=-1) == batch['label']
    total = jnp.sum(weight)
    return {
      'accuracy': (jnp.sum(right * weight), total),
      'flops': (share * total, total),
    }

  def export(self, variables: Variables) -> types.Loaded:
    """The classifier, with the learned numbers as its plan."""
    own = {'params': variables['params']}
    prune, merge = cast(Any, self.rates.apply(own, method='counts'))
    loaded = self.loaded
    plan = plans.PlanConfig(
      method='diffrate', prune_kept=prune, merge_kept=merge
    )
    config = dataclasses.replace(self.model, plan=plan)
    return types.Loaded(
      module=config.build(),
      variables=loaded.variables,
      spec=types.Spec(name='', family='model', config=config),
    )


def _load(name: str) -> types.Loaded:
  return load_classifier(name, reader='DiffRate', field='--task.classifier')


def _least(config: ViTConfig) -> float:
  """The smallest share of FLOPs: all of the first layer, then one token."""
  whole, few = config.num_tokens, config.num_special + 1
  counts = [(whole, whole), (whole, few)] + [(few, few)] * (config.depth - 2)
  return config.shape.share(counts)
