"""The two sides of a game between a decoder and a discriminator.

Esser et al., "Taming Transformers" (VQGAN, arXiv 2012.09841), section 3.1 and
eq. 7; Tseng et al., "Regularizing Generative Adversarial Networks under
Limited Data" (LeCAM, arXiv 2104.03310), section 3.

Dimension letters: B batch; any axes may follow (patches of an image).
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax.quantize import base

Array = jax.Array

Game = Literal['hinge', 'vanilla', 'non_saturating']


def discriminator_loss(
  real: Array, fake: Array, *, game: Game = 'hinge', mask: Array | None = None
) -> Array:
  """What the discriminator lowers.

  'hinge': mean of relu(1 - real) and relu(1 + fake); 'vanilla' and
  'non_saturating': mean of -log sigmoid(real) and -log(1 - sigmoid(fake)). Both
  with VQGAN's factor 1/2.

  Args:
    real: logits of images, [B, ...].
    fake: logits of reconstructions, [B, ...].
    game: the kind of game.
    mask: bool [B], the images that count; None for all.

  Returns:
    float32 [].
  """
  _check_game(game)
  real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
  lose = (lambda x: jax.nn.relu(1 + x)) if game == 'hinge' else jax.nn.softplus
  return 0.5 * (_mean(lose(-real), mask) + _mean(lose(fake), mask))


def generator_loss(
  fake: Array, *, game: Game = 'hinge', mask: Array | None = None
) -> Array:
  """What the decoder lowers.

  'hinge' and 'vanilla': the mean of -fake, as in VQGAN; 'non_saturating': of
  -log sigmoid(fake) (Goodfellow et al., arXiv 1406.2661, section 3).

  Args:
    fake: logits of reconstructions, [B, ...].
    game: the kind of game.
    mask: bool [B], the images that count; None for all.

  Returns:
    float32 [].
  """
  _check_game(game)
  fake = fake.astype(jnp.float32)
  lost = jax.nn.softplus(-fake) if game == 'non_saturating' else -fake
  return _mean(lost, mask)


def adaptive_weight(
  reconstruction: Array,
  adversarial: Array,
  *,
  eps: float = 1e-4,
  maximum: float = 1e4,
) -> Array:
  """The weight at which both losses pull the last layer alike.

  VQGAN eq. 7: |gradient of the reconstruction's loss| over |gradient of the
  adversarial loss| + eps, both at the decoder's last kernel.

  Args:
    reconstruction: the first gradient, of any shape.
    adversarial: the second, of the same shape.
    eps: the paper has 1e-6, its code 1e-4.
    maximum: of the weight.

  Returns:
    float32 [], without a gradient.
  """
  norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))
  weight = norm(reconstruction) / (norm(adversarial) + eps)
  return jax.lax.stop_gradient(jnp.clip(weight, 0.0, maximum))


def with_gradient(value: Array, x: Array, gradient: Array) -> Array:
  """A scalar of a given value whose gradient with respect to x is given.

  So that a loss of images, whose gradient has been needed for `adaptive_weight`
  already, is not differentiated a second time.

  Args:
    value: float32 [].
    x: any array.
    gradient: of x's shape.

  Returns:
    `value` to the last bit.
  """
  fixed = jax.lax.stop_gradient
  slope = fixed(gradient).astype(x.dtype)
  return fixed(value) + jnp.sum((x - fixed(x)) * slope)


@struct.dataclass
class LogitSums:
  """Sums over the images of a batch; add two of them leaf by leaf.

  Attributes:
    real: float32 [], the sum over images of an image's mean logit.
    fake: the same of the reconstructions.
    count: float32 [], how many images.
  """

  real: Array
  fake: Array
  count: Array


def logit_sums(
  real: Array, fake: Array, *, mask: Array | None = None
) -> LogitSums:
  """The sums that `Lecam.update` takes; see `discriminator_loss`."""
  if mask is None:
    mask = jnp.ones(real.shape[:1], bool)
  total = lambda x: jnp.sum(jnp.where(mask, _per_image(x), 0.0))
  sums = LogitSums(
    real=total(real), fake=total(fake), count=jnp.sum(mask, dtype=jnp.float32)
  )
  return jax.lax.stop_gradient(sums)


@struct.dataclass
class Lecam:
  """Moving averages of the discriminator's logits.

  Attributes:
    real: float32 [], decayed sum of the mean logits of images.
    fake: the same of the reconstructions.
    weight: float32 [], decayed sum of ones, so that real / weight is a mean
      from the first batch on.
  """

  real: Array
  fake: Array
  weight: Array

  @classmethod
  def create(cls) -> Lecam:
    """No average yet."""
    zero = jnp.zeros((), jnp.float32)
    return cls(real=zero, fake=zero, weight=zero)

  def update(self, sums: LogitSums, *, decay: float) -> Lecam:
    """Takes a batch in; one without images changes nothing.

    Args:
      sums: over the global batch.
      decay: of the averages.
    """
    count = jnp.maximum(sums.count, 1.0)
    move = lambda old, new: jnp.where(
      sums.count > 0, decay * old + (1 - decay) * new, old
    )
    return Lecam(
      real=move(self.real, sums.real / count),
      fake=move(self.fake, sums.fake / count),
      weight=move(self.weight, jnp.ones_like(count)),
    )

  def regularizer(
    self, real: Array, fake: Array, *, mask: Array | None = None
  ) -> Array:
    """Keeps logits from running away from the other side's average.

    The means of relu(real - average of fake)^2 and of relu(average of real -
    fake)^2, as LeCAM's official code has it: the paper's squares have no relu.

    Args:
      real: logits of images, [B, ...].
      fake: logits of reconstructions, [B, ...].
      mask: bool [B], the images that count; None for all.

    Returns:
      float32 []; 0 before the first update.
    """
    seen = self.weight > 0
    weight = jnp.where(seen, self.weight, 1.0)
    real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
    above = jax.nn.relu(real - self.fake / weight)
    below = jax.nn.relu(self.real / weight - fake)
    total = _mean(jnp.square(above), mask) + _mean(jnp.square(below), mask)
    return jnp.where(seen, total, 0.0)


def _check_game(game: str) -> None:
  if game not in get_args(Game):
    raise ValueError(f'game={game!r} is not one of {get_args(Game)}.')


def _per_image(x: Array) -> Array:
  """The mean over all axes but the first, float32 [B]."""
  return jnp.mean(x.astype(jnp.float32), axis=tuple(range(1, x.ndim)))


def _mean(x: Array, mask: Array | None) -> Array:
  return base.masked_mean(_per_image(x), mask)
