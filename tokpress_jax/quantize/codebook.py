"""A codebook's variables, and how they learn from sums over a batch.

The moving average is that of VQ-VAE (van den Oord et al., arXiv:1711.00937,
appendix A.1); dead codes are revived by splitting busy ones.

Dimensions: D features, V codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokpress_jax.quantize import base

if TYPE_CHECKING:
  from tokpress_jax.quantize.vq import VQConfig

Array = jax.Array


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
    codebook = base.normalize(codebook)
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
    young = base.normalize(young)
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
  return base.normalize(codebook) if config.distance == 'cosine' else codebook


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
