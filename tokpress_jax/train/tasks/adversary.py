"""The adversary of a tokenizer's training: its settings and its two sides.

Dimension letters: B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokpress_jax import losses
from tokpress_jax.train.task import FROZEN, Metrics, Variables

Array = jax.Array

# Where its variables lie among the tokenizer's.
PARAMS = 'discriminator'  # in the collection `params`
LECAM = 'lecam'  # a collection


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
  """A discriminator, and how much the decoder minds it.

  Attributes:
    weight: of the decoder's adversarial loss; 0 trains without a discriminator.
    start: first step at which both sides play.
    game: see `losses.discriminator_loss`.
    scaling: 'adaptive' multiplies the weight by VQGAN's ratio of gradients at
      the decoder's last layer (`losses.adaptive_weight`), taken anew for each
      microbatch; 'fixed' does not, and then microbatches add up exactly.
    maximum: of that ratio.
    lecam: weight of LeCAM's regularisation of the discriminator.
    lecam_decay: of its moving averages.
    network: the discriminator.
  """

  weight: float = 0.0
  start: int = 0
  game: losses.Game = 'hinge'
  scaling: Literal['adaptive', 'fixed'] = 'adaptive'
  maximum: float = 1e4
  lecam: float = 0.0
  lecam_decay: float = 0.999
  network: losses.PatchDiscriminatorConfig | losses.BlurDiscriminatorConfig = (
    losses.PatchDiscriminatorConfig()
  )

  def __post_init__(self):
    if self.weight < 0 or self.start < 0 or self.lecam < 0:
      raise ValueError(
        'an adversary has weight, start and lecam of 0 or more; got '
        f'{self.weight}, {self.start} and {self.lecam}'
      )

  @property
  def plays(self) -> bool:
    """Whether there is a discriminator."""
    return self.weight > 0

  def add_variables(
    self, variables: Variables, rng: Array, image_shape: tuple[int, ...]
  ) -> Variables:
    """Adds the discriminator's parameters and averages to a tokenizer's.

    Args:
      variables: the tokenizer's.
      rng: a typed key.
      image_shape: (1, H, W, C).
    """
    fresh = self.network.build().init(rng, jnp.zeros(image_shape))
    params = {**variables['params'], PARAMS: fresh['params']}
    variables = {**variables, 'params': params}
    if self.lecam:
      variables[LECAM] = dataclasses.asdict(losses.Lecam.create())
    return variables

  def judge(
    self, variables: Variables, images: Array, mask: Array | None, dtype: Any
  ) -> Array:
    """The logits of images [B, H, W, C]."""
    params = {'params': variables['params'][PARAMS]}
    module = self.network.build(dtype=dtype)
    return module.apply(params, images, mask=mask)  # type: ignore[return-value]

  def fool(
    self,
    variables: Variables,
    painted: Array,
    *,
    mask: Array | None,
    step: Array,
    dtype: Any,
  ) -> tuple[Array, Array]:
    """The decoder's loss and its gradient; zeros before `start`.

    Args:
      variables: with the discriminator's.
      painted: reconstructions [B, H, W, C].
      mask: bool [B], the images that count.
      step: int32 [].
      dtype: inside the convolutions.

    Returns:
      float32 [] and [B, H, W, C].
    """

    def loss(x: Array) -> Array:
      logits = self.judge(variables, x, mask, dtype)
      return losses.generator_loss(logits, game=self.game, mask=mask)

    play = jax.value_and_grad(loss)
    painted = jax.lax.stop_gradient(painted)
    if not self.start:
      return play(painted)
    wait = lambda x: (jnp.zeros((), jnp.float32), jnp.zeros_like(x))
    return jax.lax.cond(step >= self.start, play, wait, painted)

  def tell_apart(
    self,
    variables: Variables,
    images: Array,
    painted: Array,
    *,
    mask: Array | None,
    dtype: Any,
  ) -> tuple[Array, Metrics, Any]:
    """The discriminator's loss.

    Args:
      variables: with the discriminator's.
      images: [B, H, W, C].
      painted: their reconstructions.
      mask: bool [B], the images that count.
      dtype: inside the convolutions.

    Returns:
      Loss, metrics, and the sums that `commit` takes.
    """
    real = self.judge(variables, images, mask, dtype)
    fake = self.judge(variables, painted, mask, dtype)
    loss = losses.discriminator_loss(real, fake, game=self.game, mask=mask)
    sums = losses.logit_sums(real, fake, mask=mask)
    count = jnp.maximum(sums.count, 1.0)
    found = {'real': sums.real / count, 'fake': sums.fake / count}
    if not self.lecam:
      return loss, found, {}
    averages = losses.Lecam(**variables[LECAM])
    found['lecam'] = averages.regularizer(real, fake, mask=mask)
    return loss + self.lecam * found['lecam'], found, {LECAM: sums}

  def commit(self, variables: Variables, sums: losses.LogitSums) -> Variables:
    """Moves the averages of the logits."""
    averages = losses.Lecam(**variables[LECAM])
    averages = averages.update(sums, decay=self.lecam_decay)
    return {**variables, LECAM: dataclasses.asdict(averages)}


def without(variables: Variables) -> dict[str, Any]:
  """A tokenizer's own variables: no discriminator, nothing frozen."""
  params = {k: v for k, v in variables['params'].items() if k != PARAMS}
  rest = {k: v for k, v in variables.items() if k not in (LECAM, FROZEN)}
  return {**rest, 'params': params}
