"""Learning how many tokens each layer keeps (DiffRate, arXiv:2305.17997).

The model's weights stay as they are; what is learned is, for each layer, a
distribution over candidate numbers of tokens to prune to and to merge to. While
learning no token leaves: masks say which would, and gradients reach the
distribution through the masks and the expected FLOPs, straight through the
rounding. Then `LearnedRates.counts` gives the numbers for `diffrate_plan`.

Dimension letters: L layers, C candidates, B batch, N token slots (all of them,
sorted by falling importance), A heads, D features.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.pruners import reduction, selectors, similarities
from tokpress_jax.types import Array


def candidates(tokens: int, *, granularity: int = 1) -> np.ndarray:
  """Numbers of tokens to choose from: tokens, tokens - granularity, ... >= 1.

  Args:
    tokens: unprotected tokens of the model.
    granularity: gap between two candidates.

  Returns:
    float32 [C].
  """
  return np.arange(tokens, 0, -granularity, dtype=np.float32)


def expected_kept(logits: Array, choices: Array | np.ndarray) -> Array:
  """The expected number of kept tokens, rounded up (section 3.3).

  Args:
    logits: [..., C].
    choices: [C].

  Returns:
    float32 [...], whole numbers whose gradient is that before rounding.
  """
  kept = jnp.einsum(
    '...c,c->...',
    jax.nn.softmax(logits.astype(jnp.float32)),
    jnp.asarray(choices),
    precision='highest',
  )
  return kept + jax.lax.stop_gradient(jnp.ceil(kept) - kept)


def rank_probability(
  logits: Array, choices: Array | np.ndarray, *, tokens: int
) -> Array:
  """The probability that the i-th most important token is kept.

  Args:
    logits: [..., C].
    choices: [C].
    tokens: unprotected tokens.

  Returns:
    float32 [..., tokens], falling from 1.
  """
  inside = np.arange(tokens) < np.asarray(choices)[:, None]
  return jnp.einsum(
    '...c,cn->...n',
    jax.nn.softmax(logits.astype(jnp.float32)),
    jnp.asarray(inside, jnp.float32),
    precision='highest',
  )


def policy_softmax(logits: Array, mask: Array, *, eps: float = 1e-6) -> Array:
  """Softmax over keys of which some would be gone; each sees itself.

  DynamicViT's, as DiffRate has it: (e + eps / N) / (sum e + eps), with e the
  exponential times the mask.

  Args:
    logits: [B, A, N, N] of attention, the log of masses added.
    mask: float [B, N], 1 for keys that stay; it may carry gradients.
    eps: see above.

  Returns:
    float32 [B, A, N, N].
  """
  slots = mask.shape[1]
  own = jnp.eye(slots, dtype=jnp.float32)[None, None]
  policy = mask.astype(jnp.float32)[:, None, None]
  policy = policy + (1 - policy) * own
  logits = logits.astype(jnp.float32)
  weight = jnp.exp(logits - logits.max(axis=-1, keepdims=True)) * policy
  return (weight + eps / slots) / (weight.sum(axis=-1, keepdims=True) + eps)


@struct.dataclass
class Masked:
  """Tokens of a layer while rates are learned; none of them has left.

  Attributes:
    features: [B, N, D].
    mass: float32 [B, N].
    mask: float32 [B, N], 0 for tokens that would have left.
  """

  features: Array
  mass: Array
  mask: Array


def masked_step(
  state: Masked,
  importance: Array,
  *,
  prune_logits: Array,
  merge_logits: Array,
  choices: Array | np.ndarray,
  num_protected: int = 1,
) -> Masked:
  """Prunes and merges between attention and MLP, by masks (section 3.2).

  Args:
    state: the tokens; the first `num_protected` slots are protected.
    importance: [B, N], attention of the class token, mean over heads.
    prune_logits: [C] of the layer.
    merge_logits: [C].
    choices: [C], see `candidates`; of unprotected tokens.
    num_protected: class tokens.

  Returns:
    The tokens sorted by falling importance, protected ones first and masked
    ones last. What merges stays in its slot with a mask of 0; its mass is
    multiplied by the similarity and is at least 1, as in the official code.
  """
  batch, slots = importance.shape
  at = jnp.arange(slots)[None]
  protected = jnp.broadcast_to(at < num_protected, (batch, slots))
  _, rank = selectors.top(
    importance,
    count=jnp.zeros((batch,), jnp.int32),
    valid=state.mask > 0.5,
    protected=protected,
  )
  order = selectors.invert(rank)
  move = lambda x: reduction.gather(x, order)
  x, mass, mask = move(state.features), move(state.mass), move(state.mask)
  last = jnp.sum(mask > 0.5, axis=1, keepdims=True).astype(jnp.float32)

  def limit(mask, logits, before):  # tokens from the kept number on are gone
    kept = expected_kept(logits, choices) + num_protected
    kept = jax.lax.stop_gradient(kept)
    soft = rank_probability(logits, choices, tokens=slots - num_protected)
    soft = jnp.pad(soft, (num_protected, 0), constant_values=1)[None]
    gone = (at >= kept) & (at < before)
    hard = 1.0 - gone + soft - jax.lax.stop_gradient(soft)
    return mask * jnp.where(kept < before, hard, 1), jnp.minimum(before, kept)

  mask, middle = limit(mask, prune_logits, last)
  mask, kept = limit(mask, merge_logits, middle)

  source = (at >= kept) & (at < middle)  # [B, N]
  target = (at >= num_protected) & (at < kept)
  pairs = similarities.cosine(jax.lax.stop_gradient(x))
  pairs = jnp.where(target[:, None], pairs, -jnp.inf)
  join = source[..., None] & (jnp.argmax(pairs, axis=2)[..., None] == at[None])
  join = join.swapaxes(1, 2).astype(jnp.float32)  # [B, to, from]
  x32 = x.astype(jnp.float32)
  total = x32 + jnp.einsum('bij,bje->bie', join, x32, precision='highest')
  mean = total / (1 + join.sum(axis=2))[..., None]
  shared = jnp.where(source, mass * jnp.max(pairs, axis=2), mass)
  # Only where something merges are masses at least 1.
  touched = (at < middle) & (kept < middle)
  shared = jnp.where(touched, jnp.maximum(shared, 1), mass)
  shared += jnp.einsum('bij,bj->bi', join, shared, precision='highest')
  return Masked(features=mean.astype(x.dtype), mass=shared, mask=mask)


def expected_flops(
  kept: Array, *, tokens: int, width: int, hidden: int
) -> Array:
  """FLOPs of a stack by the formula of `flops`, differentiable.

  Args:
    kept: float [L, 2], tokens after pruning and after merging in each layer,
      protected ones included.
    tokens: that enter the first layer.
    width: C of the formula.
    hidden: features of the MLP.

  Returns:
    Multiply-adds of one row, a float32 scalar. The gradient of each layer's
    smallest number goes to both of its numbers, as in the official code.
  """
  total = jnp.float32(0)
  now = jnp.float32(tokens)
  for layer in range(kept.shape[0]):
    total += 4 * now * width**2 + 2 * now**2 * width
    both = jnp.sum(kept[layer])
    least = jnp.minimum(now, jnp.min(kept[layer]))
    now = jax.lax.stop_gradient(least - both) + both
    total += 2 * now * width * hidden
  return total


class LearnedRates(nn.Module):
  """The rates of all layers; the first is never compressed.

  The loss is that of the task plus lambda (FLOPs / 1e9 - target)^2.

  Attributes:
    depth: L.
    tokens: unprotected tokens that enter.
    granularity: see `candidates`.
    num_protected: class tokens.
  """

  depth: int
  tokens: int
  granularity: int = 1
  num_protected: int = 1

  def setup(self):
    """Makes the logits: even over all candidates."""
    shape = (self.depth - 1, len(self.choices))
    self.prune = self.param('prune', nn.initializers.zeros, shape)
    self.merge = self.param('merge', nn.initializers.zeros, shape)

  @property
  def choices(self) -> np.ndarray:
    """Candidates, float32 [C]."""
    return candidates(self.tokens, granularity=self.granularity)

  def __call__(self) -> Array:
    """Tokens left after pruning and merging, float32 [L, 2], all included."""
    logits = jnp.stack([self.prune, self.merge], axis=1)
    kept = expected_kept(logits, self.choices)
    kept = jnp.pad(kept, ((1, 0), (0, 0)), constant_values=self.tokens)
    return kept + self.num_protected

  def step(self, state: Masked, importance: Array, *, layer: int) -> Masked:
    """`masked_step` of a layer."""
    if layer == 0:
      return state
    return masked_step(
      state,
      importance,
      prune_logits=self.prune[layer - 1],
      merge_logits=self.merge[layer - 1],
      choices=self.choices,
      num_protected=self.num_protected,
    )

  def counts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers for `diffrate_plan`, outside of `jit`."""
    kept = np.asarray(self()).astype(int)
    return tuple(kept[:, 0].tolist()), tuple(kept[:, 1].tolist())
