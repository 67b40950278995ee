"""From features to a distribution over codes, or over vectors.

Dimension letters: B batch, T tokens, D features, V codebook entries, C channels
of a vector, W features inside a head, L layers.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.nn import norms, positions, products, stack

Array = jax.Array


class CategoricalHead(nn.Module):
  """Norm, modulated by a condition if there is one, and float32 logits.

  Attributes:
    codebook_size: V.
    width: D.
    norm: 'layer' or 'rms'.
    eps: of the norm.
    dtype: of the modulation; the logits are float32.
  """

  codebook_size: int
  width: int
  norm: str = 'layer'
  eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, cond: Array | None = None) -> Array:
    """Predicts codes.

    Args:
      x: [B, T, D].
      cond: [B, D] or, per position, [B, T, D], or None; decides whether the
        norm is affine (None) or modulated (adaLN: SiLU, then a linear layer to
        scale and shift).

    Returns:
      float32 [B, T, V].
    """
    y = norms.make_norm(
      self.norm,
      eps=self.eps,
      affine=cond is None,
      dtype=jnp.float32,
      name='norm',
    )(x)
    if cond is not None:
      if cond.ndim == 2:
        cond = cond[:, None]
      half = nn.initializers.truncated_normal(0.5 * (3 * self.width) ** -0.5)
      ada = products.Dense(
        2 * self.width, dtype=self.dtype, kernel_init=half, name='ada'
      )(nn.silu(cond))
      scale, shift = jnp.split(ada.astype(jnp.float32), 2, axis=-1)
      y = norms.modulate(y, scale, shift)
    small = nn.initializers.truncated_normal(0.02 * (3 * self.width) ** -0.5)
    logits = products.Dense(
      self.codebook_size, dtype=jnp.float32, kernel_init=small, name='logits'
    )
    return logits(y)


class DiffusionHead(nn.Module):
  """What noise is in a vector, by its time and the features of its token.

  MAR's head (Li et al., "Autoregressive Image Generation without Vector
  Quantization", arXiv 2406.11838, section 3.3): an MLP whose residual layers
  are modulated by time and features together. `diffusion.py` has its loss and
  its sampling. It is in three parts, so that sampling embeds times and features
  once and calls `denoise` alone in its loop.

  Attributes:
    channels: C.
    width: W.
    depth: L.
    dtype: of the matmuls; the output is float32.
  """

  channels: int
  width: int
  depth: int
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    small = nn.initializers.normal(0.02)
    self.time1 = _dense(self.width, self.dtype, small)
    self.time2 = _dense(self.width, self.dtype, small)
    self.features = _dense(self.width, self.dtype)
    self.input = _dense(self.width, self.dtype)
    if not self.has_variable('params', 'layers'):
      self.param('layers', self._init_layers)
    self.norm = norms.ModulatedNorm(self.width, dtype=self.dtype)
    self.output = _dense(self.outputs, jnp.float32, nn.initializers.zeros)

  @property
  def outputs(self) -> int:
    """Numbers that it predicts for each vector."""
    return 2 * self.channels

  def _init_layers(self, rng: Array) -> Any:
    x = jnp.zeros((1, self.width), self.dtype)
    block = ResidualMlp(self.width, dtype=self.dtype, parent=None)
    one = lambda key: block.init(key, x, x)['params']
    return jax.vmap(one)(jax.random.split(rng, self.depth))

  def embed_time(self, time: Array | np.ndarray) -> Array:
    """Embeds timesteps [...], 0 to 999, as [..., W]."""
    codes = positions.time_codes(time).astype(self.dtype)
    return self.time2(nn.silu(self.time1(codes)))

  def embed_features(self, features: Array) -> Array:
    """Embeds features [..., D] of tokens as [..., W]."""
    return self.features(features.astype(self.dtype))

  def denoise(self, noised: Array, cond: Array) -> Array:
    """Predicts noise and the place of the variance.

    Args:
      noised: [..., C].
      cond: [..., W], the sum of the embedded time and features.

    Returns:
      float32 [..., 2 C]; see `diffusion.predicted`.
    """
    block = ResidualMlp(self.width, dtype=self.dtype, parent=None)
    run = lambda x, params: block.apply({'params': params}, x, cond)
    x = self.input(noised.astype(self.dtype))
    x = stack.over_layers(run, x, self.get_variable('params', 'layers'))
    return self.output(self.norm(x, cond).astype(jnp.float32))

  def __call__(self, noised: Array, time: Array, features: Array) -> Array:
    """The three parts in one.

    Args:
      noised: [..., C].
      time: int [...].
      features: [..., D].

    Returns:
      float32 [..., 2 C].
    """
    cond = self.embed_time(time) + self.embed_features(features)
    return self.denoise(noised, cond)


class FlowHead(DiffusionHead):
  """Which way a noised vector moves, by its time and its token's features.

  `DiffusionHead` with a velocity [..., C] for its output and times from 0
  (clean) to 1 (noise); `tokpress_jax.flow` has its loss and its sampling. The
  heads of FlowAR (arXiv 2412.15205), xAR (2502.20388) and NextStep (2508.10711)
  are of this kind.
  """

  @property
  def outputs(self) -> int:
    """C."""
    return self.channels

  def embed_time(self, time: Array | np.ndarray) -> Array:
    """Embeds times [...], 0 to 1, as [..., W]."""
    codes = positions.time_codes(time, scale=1000.0).astype(self.dtype)
    return self.time2(nn.silu(self.time1(codes)))


class ResidualMlp(nn.Module):
  """A residual layer of `DiffusionHead`.

  Its modulation is shift, scale, gate, and starts at zero.
  """

  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, cond: Array) -> Array:
    """Maps x [..., W] under a condition [..., W] to [..., W]."""
    ada = _dense(3 * self.width, self.dtype, nn.initializers.zeros, name='ada')
    shift, scale, gate = jnp.split(ada(nn.silu(cond)), 3, axis=-1)
    y = norms.LayerNorm(dtype=self.dtype, name='norm')(x)
    y = norms.modulate(y, scale, shift)
    y = nn.silu(_dense(self.width, self.dtype, name='fc1')(y))
    return x + gate * _dense(self.width, self.dtype, name='fc2')(y)


def _dense(
  features: int,
  dtype: Any,
  init: Any = nn.initializers.xavier_uniform(),
  name: str | None = None,
) -> nn.Dense:
  return products.Dense(features, dtype=dtype, kernel_init=init, name=name)
