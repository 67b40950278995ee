"""Norms whose statistics are float32 whatever the input, and modulation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

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
  def affine(self, x: Array) -> Affine:
    """What x [B, ..., C] would be normalised by."""
    channels = x.shape[-1]
    if channels % self.groups:
      raise ValueError(
        f'{channels} channels do not divide into {self.groups} groups'
      )
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    mean, variance = group_moments(x, self.groups)
    factor = jax.lax.rsqrt(variance + self.eps) * scale[None]
    shift = jnp.broadcast_to(bias[None], mean.shape)
    return Affine(mean=mean, factor=factor, shift=shift)

  def __call__(self, x: Array) -> Array:
    """Normalises x [B, ..., C]; each sample by itself."""
    return self.affine(x)(x).astype(self.dtype)


@struct.dataclass
class Affine:
  """A norm whose statistics are known: (x - mean) factor + shift.

  Attributes:
    mean: float32 [B, C].
    factor: float32 [B, C].
    shift: float32 [B, C].
  """

  mean: Array
  factor: Array
  shift: Array

  def __call__(self, x: Array) -> Array:
    """Gives x [B, ..., C] normalised, float32."""
    wide = lambda a: a.reshape(a.shape[0], *(1,) * (x.ndim - 2), a.shape[1])
    y = (x.astype(jnp.float32) - wide(self.mean)) * wide(self.factor)
    return y + wide(self.shift)


def group_moments(x: Array, groups: int) -> tuple[Array, Array]:
  """Mean and variance over the places and the channels of a group.

  Args:
    x: [B, ..., C].
    groups: G; consecutive channels are split into so many.

  Returns:
    float32 mean and variance [B, C], equal within a group.
  """
  y = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
  mean = _over_groups(jnp.mean(y, axis=1), groups)
  square = jnp.mean(jnp.square(y - mean[:, None]), axis=1)
  return mean, _over_groups(square, groups)


def _over_groups(z: Array, groups: int) -> Array:
  """The mean of z [B, C] over the channels of each group, [B, C]."""
  # Channels stay the last axis until here: sums over a group's few would not
  # vectorise.
  batch, channels = z.shape
  split = (batch, groups, channels // groups)
  means = jnp.mean(z.reshape(split), axis=-1, keepdims=True)
  return jnp.broadcast_to(means, split).reshape(batch, channels)


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


class ModulatedNorm(nn.Module):
  """A norm without parameters, scaled and shifted by a condition.

  adaLN (Peebles & Xie, "Scalable Diffusion Models with Transformers", arXiv
  2212.09748, section 3.2): SiLU of the condition, then a linear layer that
  starts at zero.

  Attributes:
    width: D.
    eps: of the norm.
    dtype: of the linear layer and the output.
  """

  width: int
  eps: float = 1e-6
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    self.norm = LayerNorm(eps=self.eps, affine=False, dtype=self.dtype)
    self.ada = nn.Dense(
      2 * self.width, dtype=self.dtype, kernel_init=nn.initializers.zeros
    )

  def modulation(self, cond: Array) -> tuple[Array, Array]:
    """Scale and shift of a condition, each shaped as it is."""
    scale, shift = jnp.split(self.ada(nn.silu(cond)), 2, axis=-1)
    return scale, shift

  def __call__(
    self,
    x: Array,
    cond: Array | None = None,
    *,
    mod: tuple[Array, Array] | None = None,
  ) -> Array:
    """Normalises and modulates.

    Args:
      x: [..., D].
      cond: [..., C], with as many axes as x.
      mod: what `modulation` gave, in place of `cond`.

    Returns:
      [..., D].
    """
    if mod is None:
      if cond is None:
        raise ValueError('a modulated norm needs `cond` or `mod`')
      mod = self.modulation(cond)
    return modulate(self.norm(x), *mod)


def _wide(x: Array, ndim: int) -> Array:
  """Adds leading axes (implicit rank promotion is off in our tests)."""
  return x.reshape((1,) * (ndim - x.ndim) + x.shape)
