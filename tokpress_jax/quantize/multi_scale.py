"""Multi-scale residual vector quantisation.

Tian et al., "Visual Autoregressive Modeling" (VAR, arXiv:2404.02905),
algorithms 1 and 2. A map f of the finest grid is coded from coarse to fine:
at scale k the residual is shrunk to that grid, quantised, enlarged again,
optionally passed through a convolution phi_k, and subtracted.

VAR's scales share one codebook, but their residuals have other means, spreads
and shapes: trained as it is, a coarse scale finds few codes near its residuals
and comes to use a handful. Two ways out: `standardize` gives every scale the
same mean and spread first; `codebooks='scale'` gives every scale its own codes.

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
from tokpress_jax.nn.conv import kernel_init
from tokpress_jax.quantize import base
from tokpress_jax.quantize import codebook as codebook_lib
from tokpress_jax.quantize import vq as vq_lib
from tokpress_jax.quantize.vq import VectorQuantizer, VQConfig

Array = jax.Array

_CODEBOOKS = ('shared', 'scale')
_STANDARDIZE = ('none', 'scale')


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleVQConfig(base.QuantizerConfig):
  """Scales over one shared codebook, or over one each.

  Attributes:
    vq: the codebook, or each of them.
    scales: each scale's grid, a side or (rows, columns); the last is the
      finest, and the encoder's.
    phi: how many 3x3 convolutions the scales share; 0 for none, S for one
      each. VAR has 4.
    phi_ratio: phi(h) = (1 - ratio) h + ratio conv(h).
    downsample: how the residual is shrunk; see `nn.resize`.
    upsample: how a scale is enlarged.
    next_downsample: how a generator's next input is shrunk. VAR has 'area',
      Infinity 'bilinear'.
    codebooks: 'shared', as VAR; or 'scale': one for each scale, so that the
      same code means another vector at another scale, and each codebook
      learns and is revived by its own scale's tokens.
    standardize: 'none', as VAR; or 'scale': what a scale quantises is first
      centred by its mean vector and divided by its spread (one number),
      running averages of the training batches with `vq.decay`, and a code's
      vector is taken back the same way.
  """

  vq: VQConfig = VQConfig(dim=32)
  scales: tuple[int | tuple[int, int], ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  phi: int = 4
  phi_ratio: float = 0.5
  downsample: str = 'area'
  upsample: str = 'bicubic'
  next_downsample: str = 'area'
  codebooks: str = 'shared'
  standardize: str = 'none'

  def __post_init__(self):
    vq_lib.check_choice('codebooks', self.codebooks, _CODEBOOKS)
    vq_lib.check_choice('standardize', self.standardize, _STANDARDIZE)
    if not self.scales:
      raise ValueError('scales is empty; give at least one grid, as (1, 2, 4).')
    if not 0 <= self.phi <= len(self.scales):
      raise ValueError(
        f'phi={self.phi} shared convolutions are more than the '
        f'{len(self.scales)} scales; give phi from 0 to {len(self.scales)}.'
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
    """See `QuantizerConfig.update`; shared codes learn from all scales."""
    state = codebook_lib.walk(variables['codebook'], path)
    new = update_scales(state, stats, self)
    variables = {
      **variables,
      'codebook': codebook_lib.replace(variables['codebook'], path, new),
    }
    if self.codebooks == 'scale':
      for k in range(len(self.grids)):
        variables = self.vq.update(
          variables,
          jax.tree.map(lambda x, k=k: x[k], stats),
          rng=jax.random.fold_in(rng, k),
          path=(*path, f'vq_{k}'),
        )
      return variables
    stats = jax.tree.map(lambda x: jnp.sum(x, axis=0), stats)
    return self.vq.update(variables, stats, rng=rng, path=(*path, 'vq'))

  def usage(
    self, variables: base.Variables, *, path: tuple[str, ...] = ()
  ) -> Array:
    """How often each scale has used each code of late.

    Args:
      variables: the model's collections, as in training.
      path: the quantiser's module names inside the model.

    Returns:
      float32 [S, V], running averages of frequencies; zeros before the first
      update.
    """
    return codebook_lib.walk(variables['codebook'], path)['frequency']


def update_scales(
  state: dict[str, Array], stats: base.CodebookStats, config: MultiScaleVQConfig
) -> dict[str, Array]:
  """Moves the scales' own running averages.

  They are those of Adam: the first batch counts in full. A scale without a
  token stays as it is.

  Args:
    state: `seen` [S] (the averages' total weight), `frequency` [S, V]; with
      standardize='scale' also `centre` [S, C] and `gain` [S].
    stats: sums over the global batch, [S, V, ...], of what the codebook saw,
      that is, after `standardize`.
    config: `standardize` and the codebook's `decay`.

  Returns:
    The new state's arrays of those names.
  """
  tokens = jnp.sum(stats.count, axis=1)  # [S]
  some = tokens > 0
  tokens = jnp.maximum(tokens, 1.0)
  decay = config.vq.decay
  seen = jnp.where(some, decay * state['seen'] + (1 - decay), state['seen'])
  rate = jnp.where(some, (1 - decay) / jnp.maximum(seen, 1e-9), 0.0)
  frequency = stats.count / tokens[:, None]
  change = rate[:, None] * (frequency - state['frequency'])
  new = {'seen': seen, 'frequency': state['frequency'] + change}
  if config.standardize == 'scale':
    if stats.total is None or stats.square is None:
      raise ValueError('A spread needs the sums of tokens and their squares.')
    mean = jnp.sum(stats.total, axis=1) / tokens[:, None]  # [S, C]
    square = jnp.sum(stats.square, axis=1) / tokens
    spread = (square - jnp.sum(jnp.square(mean), axis=-1)) / config.dim
    # A single token has no spread: the gain must not become zero.
    spread = jnp.maximum(spread, 1e-4)
    new['centre'] = state['centre'] + (rate * state['gain'])[:, None] * mean
    new['gain'] = state['gain'] * jnp.sqrt(1 + rate * (spread - 1))
  return new


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
    if c.codebooks == 'shared':
      self.vq = VectorQuantizer(c.vq)
    else:
      self.own = [
        VectorQuantizer(c.vq, name=f'vq_{k}') for k in range(len(c.grids))
      ]
    scales, array = (len(c.grids),), jnp.float32
    if c.standardize == 'scale':
      shape = (*scales, c.dim)
      declare = lambda name, *args: self.variable('codebook', name, *args).value
      self.centre = declare('centre', jnp.zeros, shape, array)
      self.gain = declare('gain', jnp.ones, scales, array)
    if self.is_initializing():  # Only training reads these.
      shape = (*scales, c.codebook_size)
      self.variable('codebook', 'seen', jnp.zeros, scales, array)
      self.variable('codebook', 'frequency', jnp.zeros, shape, array)
    self.phi = [
      nn.Conv(
        c.dim,
        (3, 3),
        padding=1,
        precision=jax.lax.Precision.HIGHEST,
        kernel_init=kernel_init,
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
      keep: which scales each row uses: int32 [B], how many (drop-out of fine
        scales), or bool [B, S] (drop-out of any); None for all. What a scale
        would have coded is left to the ones after it.

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
    used = _used(keep, len(c.grids))
    rest, f_hat = fixed(z), jnp.zeros_like(z)
    weight_codes = c.vq.codebook_weight
    if c.vq.learning == 'ema' and not c.phi:
      weight_codes = 0.0
    commitment = codebook = jnp.zeros(())
    codes, stats = [], []
    for k, grid in enumerate(c.grids):
      small = resize_lib.resize(rest, grid, method=c.downsample)
      small = self._standardized(small, k)
      quantized = self._book(k)(
        small, mask=_per_cell(mask, used, k, small.shape)
      )
      chosen = self._enlarge(self.vectors(quantized.codes, k), k)
      if used is not None:
        chosen = jnp.where(used[:, k, None, None, None], chosen, 0.0)
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

  def vectors(self, codes: Array, scale: int) -> Array:
    """The vectors of one scale's codes int32 [..., 1]: float32 [..., C]."""
    return self._book(scale).lookup(codes)

  def mix(self, weights: Array, scale: int) -> Array:
    """Mixtures of one scale's codes by weights [..., V]: float32 [..., C]."""
    return self._book(scale).mix(weights)

  def _book(self, scale: int) -> VectorQuantizer:
    return self.vq if self.config.codebooks == 'shared' else self.own[scale]

  def _standardized(self, x: Array, scale: int) -> Array:
    """What a scale's codes are chosen by, from a residual [B, h, w, C]."""
    if self.config.standardize == 'none':
      return x
    return (x - self.centre[scale][None, None, None]) / self.gain[scale]

  def _enlarge(self, h: Array, scale: int) -> Array:
    """A scale's code vectors [B, h, w, C] as a term of the sum."""
    c = self.config
    if c.standardize == 'scale':
      h = h * self.gain[scale] + self.centre[scale][None, None, None]
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
    return self.accumulate_embeddings(f_hat, self.vectors(codes, scale), scale)

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

  def residuals(self, z: Array, codes: Array) -> list[Array]:
    """What each scale had to quantise, given the codes of the ones before.

    Args:
      z: [B, H, W, C].
      codes: int32 [B, L, 1], all scales' codes of z.

    Returns:
      float32 [B, h, w, C] for each scale, before `standardize`.
    """
    c = self.config
    found, start, f_hat = [], 0, jnp.zeros(z.shape, jnp.float32)
    for k, grid in enumerate(c.grids):
      found.append(resize_lib.resize(z - f_hat, grid, method=c.downsample))
      f_hat, _ = self.accumulate(f_hat, codes[:, start : c.boundaries[k]], k)
      start = c.boundaries[k]
    return found

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


def _used(keep: Array | None, num_scales: int) -> Array | None:
  """Which scales each row uses, bool [B, S], from either form of `keep`."""
  if keep is None or keep.ndim == 2:
    return keep
  return jnp.arange(num_scales)[None] < keep[:, None]


def _per_cell(
  mask: Array | None, used: Array | None, scale: int, shape: tuple[int, ...]
) -> Array | None:
  """Rows [B] that use a scale, as a mask of its cells [B, h, w]."""
  rows = mask
  if used is not None:
    rows = used[:, scale] if mask is None else mask & used[:, scale]
  if rows is None:
    return None
  return jnp.broadcast_to(rows[:, None, None], shape[:3])


def _mse(a: Array, b: Array, mask: Array | None) -> Array:
  return base.masked_mean(jnp.mean(jnp.square(a - b), axis=(1, 2, 3)), mask)
