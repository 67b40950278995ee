"""Vector quantisation, with gradient or moving-average codebooks.

van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE,
arXiv:1711.00937): eq. 1-3 and appendix A.1 (the moving average). The cosine
form is that of Yu et al., "Vector-quantized Image Modeling with Improved
VQGAN" (arXiv:2110.04627): tokens and codes lie on the unit sphere.

Dimensions: D features, V codes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokpress_jax.quantize import base
from tokpress_jax.quantize import codebook as codebook_lib

Array = jax.Array

_DISTANCES = ('l2', 'cosine')
_LEARNING = ('gradient', 'ema')


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQConfig(base.QuantizerConfig):
  """A codebook and how it learns.

  Attributes:
    codebook_size: V.
    dim: D.
    distance: 'l2', or 'cosine' (tokens and codes of unit length).
    learning: 'gradient' (the codebook is a parameter) or 'ema' (a moving
      average of the tokens that chose each code, in collection `codebook`).
    commitment: weight of |z - sg(e)|^2.
    codebook_weight: weight of |sg(z) - e|^2; 'gradient' only.
    decay: of the moving averages, the usage included.
    revive_below: a code whose usage falls below this multiple of the uniform
      usage 1/V is replaced by half of a busy code; 0 never replaces.
    init_scale: standard deviation of a fresh 'l2' code's features; None for
      1/sqrt(D).
  """

  codebook_size: int = 4096
  dim: int = 8
  distance: str = 'l2'
  learning: str = 'gradient'
  commitment: float = 0.25
  codebook_weight: float = 1.0
  decay: float = 0.99
  revive_below: float = 0.0
  init_scale: float | None = None

  def __post_init__(self):
    check_choice('distance', self.distance, _DISTANCES)
    check_choice('learning', self.learning, _LEARNING)
    if self.codebook_size < 1 or self.dim < 1:
      raise ValueError(
        'VQConfig needs codebook_size >= 1 and dim >= 1; got '
        f'{self.codebook_size} and {self.dim}.'
      )

  @property
  def num_codes(self) -> int:
    """Q, codes per token."""
    return 1

  @property
  def learns_from_stats(self) -> bool:
    """Whether `update` does anything."""
    return self.learning == 'ema' or self.revive_below > 0

  def build(self, *, dtype: Any = jnp.float32) -> 'VectorQuantizer':
    """The module; distances are float32 whatever the dtype."""
    del dtype
    return VectorQuantizer(self)

  def update(self, variables, stats, *, rng, path=()):
    """See `QuantizerConfig.update` and `update_codebook`."""
    if not self.learns_from_stats:
      return variables
    state = codebook_lib.get_state(variables, path)
    new = codebook_lib.update_codebook(state, stats, self, rng=rng)
    return codebook_lib.set_state(variables, new, path)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless a value is one of the choices."""
  if value not in choices:
    raise ValueError(f'{name}={value!r} is not one of {choices}.')


def nearest(z: Array, codebook: Array, *, distance: str = 'l2') -> Array:
  """The index of the nearest code; the lowest index wins a tie.

  Args:
    z: [..., D]; unit length for 'cosine'.
    codebook: [V, D]; unit length for 'cosine'.
    distance: 'l2' or 'cosine'.

  Returns:
    int32 [...].
  """
  z = z.astype(jnp.float32)
  codebook = codebook.astype(jnp.float32)
  # On TPU a float32 matmul is a few bfloat16 passes unless told otherwise,
  # which changes codes.
  score = jnp.einsum(
    '...d,vd->...v', z, codebook, precision=jax.lax.Precision.HIGHEST
  )
  if distance == 'l2':  # |z - e|^2 = |z|^2 - 2 (z.e - |e|^2 / 2).
    half = 0.5 * jnp.sum(jnp.square(codebook), axis=-1)
    score = score - half.reshape((1,) * (score.ndim - 1) + (-1,))
  return jnp.argmax(score, axis=-1).astype(jnp.int32)


def vq(
  z: Array,
  codebook: Array,
  *,
  distance: str = 'l2',
  mask: Array | None = None,
  commitment: float = 0.25,
  codebook_weight: float = 1.0,
) -> base.Quantized:
  """Replaces each vector by its nearest code.

  losses = commitment |z - sg(e)|^2 + codebook_weight |sg(z) - e|^2, means
  over tokens and features (VQ-VAE eq. 3; the reconstruction term is the
  caller's).

  Args:
    z: [..., D], any float dtype; the arithmetic is float32.
    codebook: [V, D].
    distance: 'l2', or 'cosine': both sides are scaled to unit length first.
    mask: bool [...], False for padding; None for none.
    commitment: weight of the encoder's term.
    codebook_weight: weight of the codebook's term, 0 for an EMA codebook.

  Returns:
    A `Quantized` with codes [..., 1].

  Raises:
    ValueError: if a shape does not fit.
  """
  if codebook.ndim != 2:
    raise ValueError(f'A codebook is [V, D]; got {codebook.shape}.')
  base.check_features(z, codebook.shape[1], f'as the codebook {codebook.shape}')
  check_choice('distance', distance, _DISTANCES)
  z = jnp.asarray(z)
  dtype, z = z.dtype, z.astype(jnp.float32)
  codebook = jnp.asarray(codebook, jnp.float32)
  if distance == 'cosine':
    z, codebook = base.normalize(z), base.normalize(codebook)
  fixed = jax.lax.stop_gradient
  codes = nearest(fixed(z), fixed(codebook), distance=distance)
  codes = codes if mask is None else jnp.where(mask, codes, 0)
  chosen = jnp.take(codebook, codes, axis=0)  # [..., D]
  losses = {'commitment': commitment * _mse(z, fixed(chosen), mask)}
  if codebook_weight:
    losses['codebook'] = codebook_weight * _mse(fixed(z), chosen, mask)
  return base.Quantized(
    codes=codes[..., None],
    embeddings=base.masked(base.straight_through(z, chosen), mask).astype(
      dtype
    ),
    losses=losses,
    stats=base.code_stats(z, codes, codebook.shape[0], mask),
  )


def _mse(a: Array, b: Array, mask: Array | None) -> Array:
  return base.masked_mean(jnp.mean(jnp.square(a - b), axis=-1), mask)


class VectorQuantizer(nn.Module):
  """`vq` with its codebook.

  Attributes:
    config: the codebook and how it learns.
  """

  config: VQConfig

  def setup(self):
    """Declares the codebook."""
    self.codebook = codebook_lib.declare(self, self.config)

  def __call__(self, z: Array, *, mask: Array | None = None) -> base.Quantized:
    """Quantises z [..., D]; see `vq`."""
    c = self.config
    return vq(
      z,
      self.codebook,
      distance=c.distance,
      mask=mask,
      commitment=c.commitment,
      codebook_weight=c.codebook_weight * (c.learning == 'gradient'),
    )

  def lookup(self, codes: Array) -> Array:
    """The vectors of codes int32 [..., 1]: float32 [..., D]."""
    codebook = self.codebook.astype(jnp.float32)
    if self.config.distance == 'cosine':
      codebook = base.normalize(codebook)
    return jnp.take(codebook, codes[..., 0], axis=0)

  def mix(self, weights: Array) -> Array:
    """Mixtures of the codes by weights [..., V]: float32 [..., D]."""
    codebook = self.codebook.astype(jnp.float32)
    if self.config.distance == 'cosine':
      codebook = base.normalize(codebook)
    return jnp.einsum(
      '...v,vd->...d', weights, codebook, precision=jax.lax.Precision.HIGHEST
    )
