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
    new = update_codebook(get_state(variables, path), stats, self, rng=rng)
    return set_state(variables, new, path)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless a value is one of the choices."""
  if value not in choices:
    raise ValueError(f'{name}={value!r} is not one of {choices}.')


def normalize(x: Array, eps: float = 1e-12) -> Array:
  """Scales the last axis to unit length, with a finite gradient at zero."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, eps))


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
    z, codebook = normalize(z), normalize(codebook)
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


def update_codebook(
  state: dict[str, Array],
  stats: base.CodebookStats,
  config: VQConfig,
  *,
  rng: Array,
) -> dict[str, Array]:
  """One step of the moving averages, then the revival of dead codes.

  Args:
    state: `codebook` [V, D] and `usage` [V] (a moving average of the codes'
      frequencies times V, so that 1 is uniform use); for 'ema' also `weight`
      [V] and `total` [V, D], the averages of count and total.
    stats: sums over the global batch. A batch without tokens changes nothing.
    config: which rules apply.
    rng: a key.

  Returns:
    The new state.
  """
  tokens = jnp.sum(stats.count)
  some = tokens > 0
  new = dict(state)
  frequency = stats.count * (stats.count.size / jnp.maximum(tokens, 1.0))
  new['usage'] = _average(state['usage'], frequency, config.decay)
  if config.learning == 'ema':
    new |= ema_update(state, stats, config)
  if config.revive_below:
    new = revive(new, stats, config, rng=rng)
  return {k: jnp.where(some, new[k], v) for k, v in state.items()}


def _average(old: Array, new: Array, decay: float) -> Array:
  return decay * old + (1 - decay) * new


def ema_update(
  state: dict[str, Array], stats: base.CodebookStats, config: VQConfig
) -> dict[str, Array]:
  """Codes become averages of their tokens (VQ-VAE eq. 6 to 8).

  Args:
    state: `weight` [V] and `total` [V, D].
    stats: sums over the global batch.
    config: `decay` and `distance`.

  Returns:
    New `weight`, `total` and `codebook`. Counts are smoothed as if each code
    had 1e-5 tokens more (Laplace), so that an unused code stays finite.
  """
  if stats.total is None:
    raise ValueError('A moving average needs the sums of the tokens.')
  weight = _average(state['weight'], stats.count, config.decay)
  total = _average(state['total'], stats.total, config.decay)
  sum_ = jnp.sum(weight)
  smooth = (weight + 1e-5) / (sum_ + 1e-5 * weight.size) * sum_
  codebook = total / smooth[:, None]
  if config.distance == 'cosine':
    codebook = normalize(codebook)
  return {'weight': weight, 'total': total, 'codebook': codebook}


def revive(
  state: dict[str, Array],
  stats: base.CodebookStats,
  config: VQConfig,
  *,
  rng: Array,
) -> dict[str, Array]:
  """Splits busy codes to replace dead ones.

  The i-th dead code becomes a neighbour of the i-th busiest code: that code's
  mean over this batch plus Gaussian noise with the spread of the tokens that
  chose it. So no sample is needed, only the sums, which every device has
  after the reduction. The two then share the busy code's usage. A
  code that has no token has zero gradient, so that Adam's moments of a dead
  code have faded and need no reset.

  Args:
    state: as in `update_codebook`.
    stats: sums over the global batch.
    config: `revive_below`, `distance`.
    rng: a key.

  Returns:
    The new state.
  """
  codebook, use = state['codebook'], state['usage']
  if stats.total is None or stats.square is None:
    raise ValueError('A split needs the sums of the tokens and their squares.')
  dim = codebook.shape[-1]
  dead = use < config.revive_below
  count = jnp.maximum(stats.count, 1.0)
  mean = stats.total / count[:, None]
  variance = stats.square / count - jnp.sum(jnp.square(mean), axis=-1)
  seen = stats.count > 0
  # A busy code may have no token in this very batch, or a single one.
  overall = jnp.sum(variance * stats.count) / jnp.maximum(
    jnp.sum(stats.count), 1.0
  )
  variance = jnp.where(seen & (variance > 0), variance, overall)
  spread = jnp.sqrt(jnp.maximum(variance, 1e-8) / dim)
  centre = jnp.where(seen[:, None], mean, codebook)

  # A code that would itself be dead after giving half gives nothing.
  donors = jnp.maximum(jnp.sum(use >= 2 * config.revive_below), 1)
  busiest = jnp.argsort(-use)
  rank = jnp.cumsum(dead) - 1  # Of each dead code among the dead.
  # The source of each code: itself if alive, else a busy one, in turn.
  source = jnp.where(dead, busiest[rank % donors], jnp.arange(use.size))
  share = 1.0 / jnp.zeros_like(use).at[source].add(1.0)[source]
  noise = jax.random.normal(rng, codebook.shape, codebook.dtype)
  young = centre[source] + spread[source][:, None] * noise
  if config.distance == 'cosine':
    young = normalize(young)
  new = dict(state)
  new['codebook'] = jnp.where(dead[:, None], young, codebook)
  new['usage'] = use[source] * share
  if 'weight' in state:
    new['weight'] = state['weight'][source] * share
    moved = new['codebook'] * new['weight'][:, None]
    kept = state['total'] * share[:, None]
    new['total'] = jnp.where(dead[:, None], moved, kept)
  return new


def init_codebook(key: Array, shape: tuple[int, ...], config: VQConfig):
  """Random codes, [..., V, D] float32; unit length for 'cosine'."""
  scale = config.init_scale or config.dim**-0.5
  codebook = scale * jax.random.normal(key, shape)
  return normalize(codebook) if config.distance == 'cosine' else codebook


def declare(
  module: nn.Module, config: VQConfig, leading: tuple[int, ...] = ()
) -> Array:
  """Declares a codebook's variables inside a module's `setup`.

  Args:
    module: the owner; `codebook` goes to `params` or, for 'ema', to the
      collection `codebook` beside the statistics.
    config: the codebook.
    leading: sizes of leading axes, for several codebooks.

  Returns:
    The codebook, [*leading, V, D] float32.
  """
  size = (*leading, config.codebook_size)
  shape = (*size, config.dim)
  starting = module.is_initializing()  # Only training reads the statistics,
  if starting:  # so released weights need not hold them.
    module.variable('codebook', 'usage', jnp.ones, size, jnp.float32)
  if config.learning == 'gradient':
    return module.param('codebook', init_codebook, shape, config)
  codebook = module.variable(
    'codebook',
    'codebook',
    lambda: init_codebook(module.make_rng('params'), shape, config),
  ).value
  if starting:
    module.variable('codebook', 'weight', jnp.ones, size, jnp.float32)
    module.variable('codebook', 'total', lambda: codebook)
  return codebook


def get_state(variables: base.Variables, path: tuple[str, ...]) -> dict:
  """A codebook's arrays, wherever they live: see `declare`."""
  state = dict(walk(variables['codebook'], path))
  if 'codebook' not in state:
    state['codebook'] = walk(variables['params'], path)['codebook']
  return state


def set_state(
  variables: base.Variables, state: dict, path: tuple[str, ...]
) -> base.Variables:
  """Puts a codebook's arrays back; returns new collections."""
  state = dict(state)
  variables = dict(variables)
  if 'codebook' not in walk(variables['codebook'], path):
    codebook = {'codebook': state.pop('codebook')}
    variables['params'] = replace(variables['params'], path, codebook)
  variables['codebook'] = replace(variables['codebook'], path, state)
  return variables


def walk(tree: Any, path: tuple[str, ...]) -> Any:
  """Finds what lies at a path of nested dicts; ValueError if nothing does."""
  for name in path:
    if name not in tree:
      raise ValueError(
        f'No module {"/".join(path)!r} among the variables: {name!r} is '
        f'not one of {sorted(tree)}. Give the path of the quantiser.'
      )
    tree = tree[name]
  return tree


def replace(tree: Any, path: tuple[str, ...], leaves: dict) -> dict:
  """Nested dicts like `tree` with other leaves at a path."""
  if not path:
    return {**tree, **leaves}
  head, *rest = path
  return {**tree, head: replace(tree[head], tuple(rest), leaves)}


class VectorQuantizer(nn.Module):
  """`vq` with its codebook.

  Attributes:
    config: the codebook and how it learns.
  """

  config: VQConfig

  def setup(self):
    """Declares the codebook."""
    self.codebook = declare(self, self.config)

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
      codebook = normalize(codebook)
    return jnp.take(codebook, codes[..., 0], axis=0)

  def mix(self, weights: Array) -> Array:
    """Mixtures of the codes by weights [..., V]: float32 [..., D]."""
    codebook = self.codebook.astype(jnp.float32)
    if self.config.distance == 'cosine':
      codebook = normalize(codebook)
    return jnp.einsum(
      '...v,vd->...d', weights, codebook, precision=jax.lax.Precision.HIGHEST
    )
