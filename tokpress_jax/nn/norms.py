"""Norms whose statistics are float32 whatever the input, and modulation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def l2_normalize(x: Array, *, axis: int = -1, eps: float = 1e-12) -> Array:
  """Scales x to unit length along `axis`; float32 inside, dtype kept.

  Args:
    x: any array.
    axis: the axis of the vectors.
    eps: the smallest length that is divided by (as in
      `torch.nn.functional.normalize`).

  Returns:
    x / max(|x|, eps). Its gradient at 0 is finite.
  """
  x32 = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x32), axis=axis, keepdims=True)
  return (x32 * jax.lax.rsqrt(jnp.maximum(square, eps**2))).astype(x.dtype)


class LayerNorm(nn.Module):
  """Layer norm over the last axis; statistics in float32.

  Attributes:
    eps: added to the variance.
    affine: whether it has `scale` and `bias`.
    dtype: of the output.
  """

  eps: float = 1e-6
  affine: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises x [..., D]."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + self.eps)
    if self.affine:
      shape = x.shape[-1:]
      scale = self.param('scale', nn.initializers.ones, shape)
      bias = self.param('bias', nn.initializers.zeros, shape)
      y = y * _wide(scale, y.ndim) + _wide(bias, y.ndim)
    return y.astype(self.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last axis; statistics in float32.

  Attributes:
    eps: added to the mean square.
    affine: whether it has `scale`.
    dtype: of the output.
  """

  eps: float = 1e-6
  affine: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises x [..., D]."""
    x = x.astype(jnp.float32)
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    y = x * jax.lax.rsqrt(square + self.eps)
    if self.affine:
      scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
      y = y * _wide(scale, y.ndim)
    return y.astype(self.dtype)


class GroupNorm(nn.Module):
  """Group norm over the places and the channels of a group.

  Wu & He, "Group Normalization" (arXiv 1803.08494); statistics in float32.

  Attributes:
    groups: consecutive channels are split into so many.
    eps: added to the variance.
    dtype: of the output.
  """

  groups: int = 32
  eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises x [B, ..., C]; each sample by itself."""
    batch, channels = x.shape[0], x.shape[-1]
    if channels % self.groups:
      raise ValueError(
        f'{channels} channels do not divide into {self.groups} groups'
      )
    # Channels stay the last axis: sums over a group's few would not vectorise.
    y = x.astype(jnp.float32).reshape(batch, -1, channels)
    split = (batch, 1, self.groups, channels // self.groups)

    def group_mean(z: Array) -> Array:  # [B, N, C] to [B, 1, C]
      means = jnp.mean(z, axis=1, keepdims=True).reshape(split)
      means = jnp.mean(means, axis=-1, keepdims=True)
      return jnp.broadcast_to(means, split).reshape(batch, 1, channels)

    centred = y - group_mean(y)
    variance = group_mean(jnp.square(centred))
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    factor = jax.lax.rsqrt(variance + self.eps) * _wide(scale, y.ndim)
    y = centred * factor + _wide(bias, y.ndim)
    return y.reshape(x.shape).astype(self.dtype)


def make_norm(
  kind: str, *, eps: float, affine: bool, dtype: Any, name: str | None = None
) -> nn.Module:
  """Builds a norm by name.

  Args:
    kind: 'layer' or 'rms'.
    eps: see the norms.
    affine: see the norms.
    dtype: see the norms.
    name: the module's name.

  Returns:
    The module.

  Raises:
    ValueError: if the kind is unknown.
  """
  kinds = {'layer': LayerNorm, 'rms': RMSNorm}
  if kind not in kinds:
    raise ValueError(f'unknown norm {kind!r}; try one of {sorted(kinds)}')
  return kinds[kind](eps=eps, affine=affine, dtype=dtype, name=name)


def modulate(x: Array, scale: Array, shift: Array) -> Array:
  """Returns x * (1 + scale) + shift, the modulation of adaptive norms."""
  return x * (1 + scale) + shift


def _wide(x: Array, ndim: int) -> Array:
  """Adds leading axes (implicit rank promotion is off in our tests)."""
  return x.reshape((1,) * (ndim - x.ndim) + x.shape)
