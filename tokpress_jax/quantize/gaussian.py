"""A Gaussian bottleneck: continuous tokens, held near a standard normal.

Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114), appendix
B; with a small weight it is the bottleneck of latent diffusion (Rombach et al.,
arXiv:2112.10752) and of TiTok's and TA-TiTok's continuous tokenizers.

Dimensions: B images, D features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokpress_jax.errors import UserError
from tokpress_jax.quantize import base

Array = jax.Array

# The log of the variance is held between these (as in latent diffusion).
LOG_VARIANCE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousConfig(base.QuantizerConfig):
  """Base of bottlenecks whose tokens are vectors."""

  @property
  def num_codes(self) -> int:
    """There are none.

    Raises:
      UserError: always.
    """
    raise UserError(
      'this tokenizer is continuous: its tokens are vectors (embeddings), not '
      'codes, so they have no codebook and no size in bits. Take a tokenizer '
      'with a codebook (tokpress list weights).'
    )

  codebook_size = num_codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianConfig(ContinuousConfig):
  """Continuous tokens.

  Attributes:
    dim: D.
    kl_weight: of the divergence from a standard normal, a sum over an image's
      tokens and features.
  """

  dim: int = 16
  kl_weight: float = 1e-6

  def __post_init__(self):
    if self.dim < 1:
      raise ValueError(f'GaussianConfig needs dim >= 1; got {self.dim}.')

  @property
  def input_dim(self) -> int:
    """2 D: a mean and the log of a variance for each feature."""
    return 2 * self.dim

  def build(self, *, dtype: Any = jnp.float32) -> 'GaussianBottleneck':
    """The module; the arithmetic is float32 whatever the dtype."""
    del dtype
    return GaussianBottleneck(self)


def moments(z: Array) -> tuple[Array, Array]:
  """Splits what an encoder gives into mean and log of variance.

  Args:
    z: [..., 2 D], the means first.

  Returns:
    float32 [..., D] each; the log of the variance is clamped to
    `LOG_VARIANCE`.

  Raises:
    ValueError: if the features cannot be halved.
  """
  if z.ndim < 1 or z.shape[-1] % 2:
    raise ValueError(
      f'a Gaussian is [..., 2 D], means and logs of variances; got {z.shape}.'
    )
  mean, log_variance = jnp.split(z.astype(jnp.float32), 2, axis=-1)
  return mean, jnp.clip(log_variance, *LOG_VARIANCE)


def divergence(mean: Array, log_variance: Array) -> Array:
  """KL from a standard normal, summed over features (appendix B).

  Args:
    mean: [..., D].
    log_variance: [..., D].

  Returns:
    float32 [...], at least 0.
  """
  square = jnp.square(mean) + jnp.exp(log_variance)
  return 0.5 * jnp.sum(square - 1.0 - log_variance, axis=-1)


def gaussian(
  z: Array,
  *,
  mask: Array | None = None,
  rng: Array | None = None,
  kl_weight: float = 1e-6,
) -> base.Quantized:
  """Draws each token from its own Gaussian.

  losses = kl_weight KL, summed over an image's tokens, a mean over images.

  Args:
    z: [B, ..., 2 D], any float dtype; the arithmetic is float32.
    mask: bool [B, ...], False for padding; None for none.
    rng: a typed key to draw with; None takes the mean (the mode).
    kl_weight: of the loss.

  Returns:
    A `Quantized` without codes, embeddings [B, ..., D].

  Raises:
    ValueError: if the features cannot be halved.
  """
  mean, log_variance = moments(z)
  sample = mean
  if rng is not None:
    noise = jax.random.normal(rng, mean.shape, jnp.float32)
    sample = mean + jnp.exp(0.5 * log_variance) * noise
  kl = divergence(mean, log_variance)
  if mask is None:
    mask = jnp.ones(kl.shape, bool)
  axes = tuple(range(1, kl.ndim))
  each = jnp.sum(jnp.where(mask, kl, 0.0), axis=axes)  # [B]
  loss = base.masked_mean(each, jnp.any(mask, axis=axes))
  return base.Quantized(
    codes=None,
    embeddings=base.masked(sample, mask).astype(z.dtype),
    losses={'kl': kl_weight * loss},
  )


class GaussianBottleneck(nn.Module):
  """`gaussian` as a module; it has no parameters.

  Attributes:
    config: the bottleneck.
  """

  config: GaussianConfig

  def __call__(
    self, z: Array, *, mask: Array | None = None, rng: Array | None = None
  ) -> base.Quantized:
    """Draws from z [B, ..., 2 D]; see `gaussian`."""
    c = self.config
    reason = 'a mean and a log of variance for each of D'
    base.check_features(z, c.input_dim, reason)
    return gaussian(z, mask=mask, rng=rng, kl_weight=c.kl_weight)
