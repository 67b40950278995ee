"""From logits to codes: temperature, top-k, top-p, Gumbel noise, guidance.

Dimension letters: B batch, N tokens, V codebook entries, S steps.

Thresholds are found by bisection over the bits of float32, which is exact: the
same set as sorting, without the sort (on a CPU ten times faster than
`lax.top_k` at k = 900 of 4,096, and k may be traced).

Guidance is written one way, (1 + t) c - t u with conditional logits c and
unconditional u, so t = 0 is none. Papers that write u + s (c - u) mean s = 1 +
t; each schedule below takes the number that its paper prints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeGuard, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import errors

Array = jax.Array
Annealing = Literal['none', 'noise', 'noise+softmax']


@struct.dataclass(kw_only=True)
class Sampler:
  """How codes are drawn.

  A pytree: its numbers may be traced, so a new value does not compile anew;
  whether a field is None is static.

  Attributes:
    temperature: of the categorical draw; 0 takes the most probable code. Of a
      diffusion head: what the noise it adds is multiplied by.
    top_k: keeps the k most probable codes; None keeps all.
    top_p: keeps the most probable codes that hold this much probability
      (applied after top_k); None keeps all.
    guidance: scale of classifier-free guidance, as the schedule's paper counts
      it: with 'linear' and 'ramp' 0 is none and VAR's cfg = 4 is 4, rising over
      the scales; with the others 1 is none, but for 'cosine', which always
      guides. None runs no unconditional half.
    schedule: of the guidance over the steps, a name in `SCHEDULES`.
    power: of the schedule 'power-cosine': 3 in TiTok, 2.75, 2.5, 1.5 and 1.2 in
      RAR-B, -L, -XL and -XXL; 0 guides all steps alike.
    smooth: a scale-wise generator goes on from a soft mixture of codes instead
      of the code drawn (VAR's "more smooth"; for pictures, not for scores).
    steps: of a generator that refines (MaskGIT); its own number if None, and no
      more than tokens.
    choice_temperature: of the Gumbel noise on how sure the drawn codes are,
      times the share of steps left (MaskGIT's 4.5).
    annealing: over the steps of a refining generator. 'none'; 'noise': the
      temperature times the share of steps left (TiTok); 'noise+softmax': and
      logits divided by 0.5 + 0.8 times that share (TiTok, for its scores).
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  guidance: float | None = None
  schedule: str = struct.field(pytree_node=False, default='linear')
  power: float = 3.0
  smooth: bool = struct.field(pytree_node=False, default=False)
  steps: int | None = struct.field(pytree_node=False, default=None)
  choice_temperature: float = 4.5
  annealing: Annealing = struct.field(pytree_node=False, default='none')

  def __post_init__(self):
    if self.steps is not None and self.steps < 1:
      raise errors.UserError(f'steps must be at least 1, got {self.steps}')
    if self.annealing not in get_args(Annealing):
      raise errors.UserError(
        f'unknown annealing {self.annealing!r}; try one of '
        f'{", ".join(get_args(Annealing))}'
      )
    for name in ('temperature', 'guidance', 'power', 'choice_temperature'):
      value = getattr(self, name)
      if _concrete(value) and value < 0:
        raise errors.UserError(
          f'{name} must not be negative, got {value}'
          + ('; None is no guidance' if name == 'guidance' else '')
        )
    if _concrete(self.top_k) and self.top_k < 1:
      raise errors.UserError(f'top_k must be at least 1, got {self.top_k}')
    if _concrete(self.top_p) and not 0 < self.top_p <= 1:
      raise errors.UserError(f'top_p must lie in (0, 1], got {self.top_p}')
    if self.schedule not in SCHEDULES:
      raise errors.UserError(
        f'unknown guidance schedule {self.schedule!r}; try one of '
        f'{sorted(SCHEDULES)}'
      )

  def check(self, codebook_size: int) -> None:
    """Raises UserError if top_k exceeds the codebook."""
    if _concrete(self.top_k) and self.top_k > codebook_size:
      raise errors.UserError(
        f'top_k {self.top_k} is above the codebook size {codebook_size}; use '
        'None to keep all codes'
      )

  def weights(self, steps: int, *, done: Any = None) -> Array | None:
    """Guidance t of each step.

    Args:
      steps: S.
      done: share of tokens known after each step, [S], for 'revealed'.

    Returns:
      float32 [S], or None without guidance.
    """
    if self.guidance is None:
      return None
    schedule = SCHEDULES[self.schedule]
    if self.schedule == 'revealed':
      schedule = functools.partial(schedule, done=done)
    if self.schedule == 'power-cosine':
      schedule = functools.partial(schedule, power=self.power)
    weights = schedule(self.guidance, steps)
    return jnp.asarray(weights, jnp.float32)

  def draw(self, logits: Array, noise: Array) -> Array:
    """Draws codes.

    Args:
      logits: [..., V], guided already.
      noise: [..., V] standard Gumbel noise.

    Returns:
      int32 [...], argmax over the kept codes of logits + temperature * noise.
    """
    logits = logits.astype(jnp.float32)
    kept = self.filter(logits)
    return jnp.argmax(kept + self.temperature * noise, axis=-1).astype(
      jnp.int32
    )

  def noise_scale(self, left: Array) -> Array | float:
    """What a refining step's noise is multiplied by, at a share left."""
    return 1.0 if self.annealing == 'none' else left

  def softmax_temperature(self, left: Array) -> Array | float:
    """What a refining step's logits are divided by, at a share left."""
    return 0.5 + 0.8 * left if self.annealing == 'noise+softmax' else 1.0

  def mixture(self, logits: Array, noise: Array, ratio: float) -> Array:
    """Weights of the kept codes in a smooth sample (VAR's demo).

    softmax(((1 + r) logits + noise) / tau), tau = max(0.27 (1 - 0.95 r), 0.005)
    at the share r of scales done, over what top_k and top_p keep.

    Args:
      logits: [..., V], guided already.
      noise: [..., V] standard Gumbel noise, other than that of `draw`.
      ratio: r, from 0 at the first scale to 1 at the last.

    Returns:
      float32 [..., V], sum 1.
    """
    kept = self.filter(logits.astype(jnp.float32))
    tau = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return jax.nn.softmax((kept * (1 + ratio) + noise) / tau, axis=-1)

  def filter(self, logits: Array) -> Array:
    """Sets the logits [..., V] that top_k and top_p drop to -inf."""
    if self.top_k is not None:
      logits = top_k(logits, self.top_k)
    if self.top_p is not None:
      cold = jnp.maximum(jnp.asarray(self.temperature, jnp.float32), 1e-5)
      keep = jnp.isfinite(top_p(logits / cold, self.top_p))
      logits = jnp.where(keep, logits, -jnp.inf)
    return logits


def guide(conditional: Array, unconditional: Array, t: float | Array) -> Array:
  """Classifier-free guidance, (1 + t) c - t u (Ho & Salimans 2207.12598)."""
  return (1 + t) * conditional - t * unconditional


def guide_halves(logits: Array, t: float | Array) -> Array:
  """Guides logits [2 B, ...] whose second half is unconditional: [B, ...]."""
  conditional, unconditional = jnp.split(logits, 2)
  return guide(conditional, unconditional, t)


def constant(scale: Any, steps: int) -> Any:
  """Guides with t = scale - 1 at all steps (LlamaGen, NAR)."""
  return (scale - 1) * np.ones(steps, np.float32)


def linear(scale: Any, steps: int) -> Any:
  """Guides with t = scale k / (S - 1), nothing at the first step (VAR)."""
  return scale * np.arange(steps, dtype=np.float32) / max(steps - 1, 1)


def ramp(scale: Any, steps: int) -> Any:
  """Guides with t = scale k / S, nothing at the first step (TiTok)."""
  return scale * np.arange(steps, dtype=np.float32) / steps


def power_cosine(scale: Any, steps: int, *, power: Any = 3.0) -> Any:
  """Guides with t = (scale - 1) (1 - cos(pi (k / S)^power)) / 2 (RAR)."""
  ratio = jnp.arange(steps, dtype=jnp.float32) / steps
  return (scale - 1) * (1 - jnp.cos(jnp.pi * ratio**power)) / 2


def cosine(scale: Any, steps: int) -> Any:
  """Guides with t = 1 + (scale - 1) (1 - cos(pi r)) / 2, r = (k + 1) / S.

  MaskGen over codes, whose formula is c + s (c - u): it guides from the first
  step on, and by its scale at the last.
  """
  ratio = jnp.arange(1, steps + 1, dtype=jnp.float32) / steps
  return 1 + (scale - 1) * (1 - jnp.cos(jnp.pi * ratio)) / 2


def revealed(scale: Any, steps: int, *, done: Any = None) -> Any:
  """Guides with t = (scale - 1) d, d the share of tokens known after a step.

  MAR and MaskGen over vectors; there one token always counts as unknown.

  Args:
    scale: at the end.
    steps: S.
    done: d of each step, float [S]; (k + 1) / S if None.
  """
  if done is None:
    done = np.arange(1, steps + 1, dtype=np.float32) / steps
  return (scale - 1) * np.asarray(done, np.float32)


def delayed(scale: Any, steps: int, *, start: float = 0.25) -> Any:
  """Guides with t = scale - 1 once k / S reaches `start` (ResTok's HAR)."""
  ratio = np.arange(steps, dtype=np.float32) / steps
  return (scale - 1) * (ratio >= start).astype(np.float32)


SCHEDULES: dict[str, Callable[..., Any]] = {
  'constant': constant,
  'cosine': cosine,
  'delayed': delayed,
  'linear': linear,
  'power-cosine': power_cosine,
  'ramp': ramp,
  'revealed': revealed,
}


def top_k(logits: Array, k: int | Array) -> Array:
  """Keeps the logits that are not below the k-th largest.

  Args:
    logits: float32 [..., V].
    k: int, may be traced; V or more keeps all. Ties at the k-th are all kept.

  Returns:
    [..., V], -inf where dropped.
  """
  keys = _ordered(logits)
  threshold = _bisect(lambda t: jnp.sum(keys >= t, axis=-1, keepdims=True) >= k)
  threshold = jnp.broadcast_to(threshold, (*logits.shape[:-1], 1))
  return jnp.where(keys >= threshold, logits, -jnp.inf)


def top_p(logits: Array, p: float | Array) -> Array:
  """Keeps the smallest set of most probable codes that holds p.

  A code is dropped if the codes up to it, in ascending order of probability,
  hold at most 1 - p together (Holtzman et al. 1904.09751, as in VAR's code);
  ties at the edge are all kept, and so is the most probable code.

  Args:
    logits: float32 [..., V].
    p: in (0, 1], may be traced.

  Returns:
    [..., V], -inf where dropped.
  """
  probs = jax.nn.softmax(logits, axis=-1)
  keys = _ordered(probs)

  def light(t: Array) -> Array:
    below = jnp.where(keys < t, probs, 0.0)
    return jnp.sum(below, axis=-1, keepdims=True) <= 1 - p

  threshold = jnp.minimum(_bisect(light), keys.max(axis=-1, keepdims=True))
  return jnp.where(keys >= threshold, logits, -jnp.inf)


def token_gumbel(
  rng: Array, rows: int, slots: Array | np.ndarray, codebook_size: int
) -> Array:
  """Gumbel noise that depends on the key, the row and the slot alone.

  A sample is then the same in any batch, at any length, on any number of
  devices, and however its slots are grouped into blocks. Where blocks are
  unrolled, draw all slots at once and slice: each call compiles its own
  generator, seconds on a CPU.

  Args:
    rng: a typed key.
    rows: B.
    slots: int [n], slots of the row of tokens; may be traced.
    codebook_size: V.

  Returns:
    float32 [B, n, V].
  """
  draw = lambda row, slot: jax.random.gumbel(
    jax.random.fold_in(jax.random.fold_in(rng, row), slot), (codebook_size,)
  )
  per_row = jax.vmap(draw, (None, 0))
  return jax.vmap(per_row, (0, None))(jnp.arange(rows), jnp.asarray(slots))


def token_normal(rng: Array, slots: Array, shape: tuple[int, ...]) -> Array:
  """Normal noise that depends on the key, the row and the slot alone.

  Args:
    rng: a typed key.
    slots: int [B, n], slots of each row of tokens; may be traced.
    shape: of the noise of one token.

  Returns:
    float32 [B, n, *shape].
  """
  draw = lambda row, slot: jax.random.normal(
    jax.random.fold_in(jax.random.fold_in(rng, row), slot), shape
  )
  per_row = jax.vmap(draw, (None, 0))
  return jax.vmap(per_row)(jnp.arange(slots.shape[0]), slots)


def _concrete(value: Any) -> TypeGuard[float]:
  return isinstance(value, (int, float, np.number))


def _ordered(x: Array) -> Array:
  """Maps float32 to int32 with the same order; both zeros give 0."""
  x = x.astype(jnp.float32)
  x = jnp.where(x == 0, 0.0, x)  # -0.0; adding 0.0 would be optimised away
  bits = jax.lax.bitcast_convert_type(x, jnp.int32)
  return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _bisect(holds: Callable[[Array], Array]) -> Array:
  """The largest int32 at which a test holds that holds at -inf's key.

  Builds the number bit by bit, the sign first; the test must be true up to some
  value and false above it.
  """
  low = jnp.int32(-(2**31))
  # The sign bit: does it hold at 0? It then fixes the shape of the result.
  start = jnp.where(holds(jnp.int32(0)), jnp.int32(0), low)

  def body(i: Array, t: Array) -> Array:
    candidate = t + (jnp.int32(1) << (30 - i))
    return jnp.where(holds(candidate), candidate, t)

  return jax.lax.fori_loop(0, 31, body, start)
