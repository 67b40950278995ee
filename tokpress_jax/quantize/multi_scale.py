"""Multi-scale residual vector quantisation.

Tian et al., "Visual Autoregressive Modeling" (VAR, arXiv:2404.02905),
algorithms 1 and 2. A map f of the finest grid is coded from coarse to fine:
at scale k the residual is shrunk to that grid, quantised, enlarged again,
optionally passed through a convolution phi_k, and subtracted.

Dimensions: B batch, H W the finest grid, C channels, S scales, L all tokens
of all scales in order, l the tokens of one scale, V codes.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tokpress_jax.nn import resize as resize_lib
from tokpress_jax.quantize import base
from tokpress_jax.quantize.vq import VectorQuantizer, VQConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleVQConfig(base.QuantizerConfig):
  """Scales over one shared codebook.

  Attributes:
    vq: the codebook.
    scales: each scale's grid, a side or (rows, columns); the last is the
      finest, and the encoder's.
    phi: how many 3x3 convolutions the scales share; 0 for none, S for one
      each. VAR has 4.
    phi_ratio: phi(h) = (1 - ratio) h + ratio conv(h).
    downsample: how the residual is shrunk; see `nn.resize`.
    upsample: how a scale is enlarged.
    next_downsample: how a generator's next input is shrunk. VAR has 'area',
      Infinity 'bilinear'.
  """

  vq: VQConfig = VQConfig(dim=32)
  scales: tuple[int | tuple[int, int], ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  phi: int = 4
  phi_ratio: float = 0.5
  downsample: str = 'area'
  upsample: str = 'bicubic'
  next_downsample: str = 'area'

  def __post_init__(self):
    if not self.scales:
      raise ValueError('scales is empty; give at least one grid, as (1, 2, 4).')
    if not 0 <= self.phi <= len(self.scales):
      raise ValueError(
        f'phi={self.phi} convolutions for {len(self.scales)} scales; give '
        '0 to the number of scales.'
      )
    for h, w in self.grids:
      if not (1 <= h <= self.grids[-1][0] and 1 <= w <= self.grids[-1][1]):
        raise ValueError(
          f'The scale {h}x{w} does not fit into the last, finest one '
          f'{self.grids[-1][0]}x{self.grids[-1][1]}; order them coarse to '
          'fine.'
        )

  @property
  def grids(self) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each scale."""
    return tuple((s, s) if isinstance(s, int) else s for s in self.scales)

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The number of tokens up to and including each scale; the last is L."""
    return tuple(int(n) for n in np.cumsum([h * w for h, w in self.grids]))

  @property
  def dim(self) -> int:
    """C."""
    return self.vq.dim

  @property
  def codebook_size(self) -> int:
    """V."""
    return self.vq.codebook_size

  @property
  def num_codes(self) -> int:
    """Q, codes per token."""
    return 1

  def build(self, *, dtype: Any = jnp.float32) -> 'MultiScaleVQ':
    """The module; its arithmetic is float32 whatever the dtype."""
    del dtype
    return MultiScaleVQ(self)

  def update(self, variables, stats, *, rng, path=()):
    """See `QuantizerConfig.update`; the scales' sums are added up."""
    stats = jax.tree.map(lambda x: jnp.sum(x, axis=0), stats)
    return self.vq.update(variables, stats, rng=rng, path=(*path, 'vq'))


@functools.cache
def phi_index(scale: int, num_scales: int, num_phi: int) -> int:
  """Which of the shared convolutions a scale uses.

  The nearest of `num_phi` ticks spread over [0, 1] to scale / (S - 1); the
  official code spreads four ticks from 1/12 to 11/12 and any other number n
  from 1/2n to 1 - 1/2n.

  Args:
    scale: 0 to S - 1.
    num_scales: S.
    num_phi: how many convolutions there are.

  Returns:
    0 to num_phi - 1; the lower of two equally near.
  """
  edge = 1 / (3 if num_phi == 4 else 2) / num_phi
  ticks = np.linspace(edge, 1 - edge, num_phi)
  return int(np.argmin(np.abs(ticks - scale / max(num_scales - 1, 1))))


class MultiScaleVQ(nn.Module):
  """The multi-scale quantiser of VAR.

  Attributes:
    config: scales and codebook.
  """

  config: MultiScaleVQConfig

  def setup(self):
    """Declares the codebook and the convolutions."""
    c = self.config
    self.vq = VectorQuantizer(c.vq)
    self.phi = [
      nn.Conv(
        c.dim,
        (3, 3),
        padding=1,
        precision=jax.lax.Precision.HIGHEST,
        name=f'phi_{i}',
      )
      for i in range(c.phi)
    ]

  def __call__(
    self,
    z: Array,
    *,
    mask: Array | None = None,
    keep: Array | None = None,
  ) -> base.Quantized:
    """Quantises a batch of maps (VAR, algorithm 1).

    The losses are means over the scales of commitment |z - sg(f_k)|^2 and
    |sg(z) - f_k|^2, f_k being the sum of the scales so far: both the
    codebook and the convolutions learn from the second. With an EMA codebook
    it teaches the convolutions alone.

    Args:
      z: [B, H, W, C].
      mask: bool [B], False for rows that are padding; None for none.
      keep: int32 [B], how many scales each row uses (drop-out of fine
        scales); None for all.

    Returns:
      A `Quantized`: codes [B, L, 1], 0 where a scale is not kept; embeddings
      [B, H, W, C]; statistics per scale, [S, V], [S, V, C] and [S, V].

    Raises:
      ValueError: if z has another shape.
    """
    c = self.config
    height, width = c.grids[-1]
    if z.ndim != 4 or z.shape[1:] != (height, width, c.dim):
      raise ValueError(
        f'Expected z [B, {height}, {width}, {c.dim}], the finest scale and '
        f'the features of the codebook; got {z.shape}.'
      )
    dtype, z = z.dtype, z.astype(jnp.float32)
    fixed = jax.lax.stop_gradient
    rest, f_hat = fixed(z), jnp.zeros_like(z)
    weight_codes = c.vq.codebook_weight
    if c.vq.learning == 'ema' and not c.phi:
      weight_codes = 0.0
    commitment = codebook = jnp.zeros(())
    codes, stats = [], []
    for k, grid in enumerate(c.grids):
      small = resize_lib.resize(rest, grid, method=c.downsample)
      quantized = self.vq(small, mask=_per_cell(mask, keep, k, small.shape))
      chosen = self._enlarge(self.vq.lookup(quantized.codes), k)
      if keep is not None:
        chosen = jnp.where((k < keep)[:, None, None, None], chosen, 0.0)
      f_hat = f_hat + chosen
      rest = rest - fixed(chosen)
      commitment += _mse(z, fixed(f_hat), mask) / len(c.grids)
      codebook += _mse(fixed(z), f_hat, mask) / len(c.grids)
      codes.append(quantized.codes.reshape(z.shape[0], -1, 1))
      stats.append(quantized.stats)
    losses = {'commitment': c.vq.commitment * commitment}
    if weight_codes:
      losses['codebook'] = weight_codes * codebook
    out = base.straight_through(z, f_hat)
    if mask is not None:
      out = jnp.where(mask[:, None, None, None], out, 0.0)
    return base.Quantized(
      codes=jnp.concatenate(codes, axis=1),
      embeddings=out.astype(dtype),
      losses=losses,
      stats=jax.tree.map(lambda *x: jnp.stack(x), *stats),
    )

  def _enlarge(self, h: Array, scale: int) -> Array:
    """A scale's code vectors [B, h, w, C] as a term of the sum."""
    c = self.config
    h = resize_lib.resize(h, c.grids[-1], method=c.upsample)
    if not c.phi:
      return h
    phi = self.phi[phi_index(scale, len(c.grids), c.phi)]
    return (1 - c.phi_ratio) * h + c.phi_ratio * phi(h)

  def accumulate(
    self, f_hat: Array, codes: Array, scale: int
  ) -> tuple[Array, Array | None]:
    """Adds one scale, as a generator does after each step.

    Args:
      f_hat: [B, H, W, C], the sum of the scales before.
      codes: int32 [B, l, 1], the codes of this scale.
      scale: which, from 0.

    Returns:
      The new sum, and the input of the next scale [B, l', C], None after the
      last.
    """
    return self.accumulate_embeddings(f_hat, self.vq.lookup(codes), scale)

  def accumulate_embeddings(
    self, f_hat: Array, embeddings: Array, scale: int
  ) -> tuple[Array, Array | None]:
    """`accumulate` from vectors [B, l, C], such as mixtures of codes."""
    c = self.config
    batch = embeddings.shape[0]
    grid = embeddings.reshape(batch, *c.grids[scale], c.dim)
    f_hat = f_hat + self._enlarge(grid, scale)
    if scale + 1 == len(c.grids):
      return f_hat, None
    small = resize_lib.resize(
      f_hat, c.grids[scale + 1], method=c.next_downsample
    )
    return f_hat, small.reshape(batch, -1, c.dim)

  def lookup(self, codes: Array, *, scales: int | None = None) -> Array:
    """The sum of the first scales (VAR, algorithm 2).

    Args:
      codes: int32 [B, L', 1], at least the tokens of those scales.
      scales: how many; None for as many as there are codes.

    Returns:
      float32 [B, H, W, C].

    Raises:
      ValueError: if the codes do not end with a scale.
    """
    return self._sum(codes, self._num_scales(codes, scales))[0]

  def next_inputs(self, codes: Array) -> Array:
    """What a generator is fed at scales 2 to S, for teacher forcing.

    Args:
      codes: int32 [B, L', 1]; whole scales. Those of the last are not read.

    Returns:
      float32 [B, L - l_1, C]; scale k's part is the sum of the scales before,
      shrunk to grid k. Empty if there is one scale.
    """
    steps = self._num_scales(codes, None)
    if steps == len(self.config.grids):
      steps -= 1
    inputs = self._sum(codes, steps)[1]
    empty = jnp.zeros((codes.shape[0], 0, self.config.dim))
    return jnp.concatenate([empty, *inputs], axis=1)

  def _num_scales(self, codes: Array, scales: int | None) -> int:
    bounds, tokens = self.config.boundaries, codes.shape[1]
    if scales is None and tokens in bounds:
      return bounds.index(tokens) + 1
    if scales is None or not 1 <= scales <= len(bounds):
      raise ValueError(
        f'{tokens} codes and scales={scales} do not fit: the scales end '
        f'after {bounds} tokens.'
      )
    if tokens < bounds[scales - 1]:
      raise ValueError(
        f'{scales} scales need {bounds[scales - 1]} codes; got {tokens}.'
      )
    return scales

  def _sum(self, codes: Array, steps: int) -> tuple[Array, list[Array]]:
    c = self.config
    f_hat = jnp.zeros((codes.shape[0], *c.grids[-1], c.dim))
    inputs = []
    for k in range(steps):
      start = c.boundaries[k - 1] if k else 0
      part = codes[:, start : c.boundaries[k]]
      f_hat, next_input = self.accumulate(f_hat, part, k)
      if next_input is not None:
        inputs.append(next_input)
    return f_hat, inputs


def _per_cell(
  mask: Array | None, keep: Array | None, scale: int, shape: tuple[int, ...]
) -> Array | None:
  """Rows [B] that use a scale, as a mask of its cells [B, h, w]."""
  rows = mask
  if keep is not None:
    rows = scale < keep if mask is None else mask & (scale < keep)
  if rows is None:
    return None
  return jnp.broadcast_to(rows[:, None, None], shape[:3])


def _mse(a: Array, b: Array, mask: Array | None) -> Array:
  return base.masked_mean(jnp.mean(jnp.square(a - b), axis=(1, 2, 3)), mask)
