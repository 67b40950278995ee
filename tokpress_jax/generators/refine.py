"""Drawing a masked row in a few steps: codes, or vectors.

Dimension letters: B batch, N tokens, n of them that are drawn, V codes, S
steps, C channels of a vector, D features that a head reads, W features inside
it, T steps of the diffusion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import errors, flow
from tokpress_jax.generators import (
  base,
  diffusion,
  heads,
  loops,
  rows,
  sampling,
)
from tokpress_jax.generators import order as orders

Array = jax.Array
Confidence = Literal['logit', 'log_probability']


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedConfig(rows.RowConfig):
  """Of a generator that refines a masked row.

  Attributes:
    schedule: the share of tokens that stays masked, in training and over the
      steps; see `order.reveal_counts`.
    steps: S, unless the sampler says it.
  """

  schedule: orders.MaskSchedule = 'arccos'
  steps: int = 8

  def __post_init__(self):
    super().__post_init__()
    if self.steps < 1:
      raise errors.UserError(f'steps must be at least 1, got {self.steps}')

  @property
  def mask_code(self) -> int:
    """V, what stands for a masked code."""
    return self.codebook_size

  def counts(
    self, row: rows.Row, schedule: orders.MaskSchedule
  ) -> tuple[int, ...]:
    """How many tokens of a row each step reveals."""
    steps = min(row.sampler.steps or self.steps, row.length)
    return orders.reveal_counts(row.length, steps, schedule)


def refine_codes(
  row: rows.Row,
  predict: Callable[[Array], Array],
  *,
  codebook_size: int,
  counts: tuple[int, ...],
  confidence: Confidence = 'logit',
) -> base.Drawn:
  """Draws a masked row of codes, the surest first.

  Args:
    row: what is to be drawn.
    predict: codes [B, n], V where masked, to logits [B, n, V]; under guidance
      they are twice as many rows, the second half of which is unconditional.
    codebook_size: V.
    counts: codes revealed at each step; see `MaskedConfig.counts`.
    confidence: see `MaskGITConfig`.

  Returns:
    Codes [B, n].
  """
  batch, length, forced = row.batch, row.length, row.forced
  sampler, guidance = row.sampler, row.sampler.weights(len(counts))
  known = jnp.zeros((batch, length), bool)
  codes = jnp.full((batch, length), codebook_size, jnp.int32)
  if forced is not None:
    known = forced[:, :length] >= 0
    codes = jnp.where(known, forced[:, :length], codes)

  def step_of(codes, known, step):
    left = 1 - step.ratio
    seen = jnp.where(known, codes, codebook_size)
    if guidance is None:
      logits = predict(seen)
    else:
      both = predict(jnp.concatenate([seen, seen]))
      logits = sampling.guide_halves(both, guidance[step.index])
    logits = logits / sampler.softmax_temperature(left)
    draw = jax.random.fold_in(row.rng, step.index)
    noise = sampling.token_gumbel(
      draw, batch, jnp.arange(length), codebook_size + 1
    )
    # The last of each slot's draws is for the choice among the slots.
    drawn = sampler.draw(logits, sampler.noise_scale(left) * noise[..., :-1])
    if confidence == 'log_probability':
      logits = jax.nn.log_softmax(logits, axis=-1)
    sure = jnp.take_along_axis(logits, drawn[..., None], axis=-1)[..., 0]
    return drawn, sure + sampler.choice_temperature * left * noise[..., -1]

  codes, _ = loops.RefineLoop(counts=counts)(step_of, codes, known=known)
  return base.Drawn(codes=codes)


def refine_vectors(
  see: Callable[[Array, Array], Array],
  head: heads.DiffusionHead,
  *,
  rng: Array,
  sampler: sampling.Sampler,
  counts: tuple[int, ...],
  batch: int,
  diffusion_steps: int = 100,
  flow_sampler: flow.FlowSampler | None = None,
) -> Array:
  """Draws a masked row of vectors in a random order (MAR, MaskGen).

  The head runs on the tokens of a step alone: of a static number of slots, the
  most that any step reveals; what it draws beyond the step's own is not kept.

  Args:
    see: vectors [B, n, C] and which are known, bool [B, n], to what the head
      reads, [B, n, D]; under guidance they are twice as many rows, the second
      half of which is unconditional.
    head: bound: a `DiffusionHead`, or a `FlowHead`.
    rng: a typed key.
    sampler: its guidance, and the temperature of the head's noise (for a flow
      of what it starts from).
    counts: vectors revealed at each step; see `order.reveal_counts`.
    batch: B.
    diffusion_steps: of a diffusion head.
    flow_sampler: of a flow head; its guidance is not read.

  Returns:
    float32 [B, n, C].
  """
  length, most = sum(counts), max(counts)
  left = np.maximum(length - np.cumsum(counts), 1)
  guidance = sampler.weights(len(counts), done=1 - left / length)
  order_rng, noise_rng = jax.random.split(rng)
  slots = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
  scores = sampling.token_normal(order_rng, slots, ())
  order = orders.by_score(scores, counts)
  places = jnp.pad(jnp.asarray(order.permutation), ((0, 0), (0, most)))
  starts = jnp.asarray(order.starts)
  if isinstance(head, heads.FlowHead):
    draw = _flow(head, flow_sampler or flow.FlowSampler(), noise_rng)
  else:
    draw = _diffusion(head, diffusion_steps, noise_rng)

  def step_of(values: Array, known: Array, step: loops.Step) -> Any:
    seen = values if guidance is None else jnp.concatenate([values, values])
    seen_known = known if guidance is None else jnp.tile(known, (2, 1))
    z = see(seen, seen_known)
    here = jax.lax.dynamic_slice_in_dim(
      places, starts[step.index], most, axis=1
    )
    index = here if guidance is None else jnp.tile(here, (2, 1))
    z = jnp.take_along_axis(z, index[..., None], axis=1)
    weight = None if guidance is None else guidance[step.index]
    drawn = draw(z, here, weight, sampler.temperature)
    rows = jnp.arange(batch)[:, None]
    return values.at[rows, here].set(drawn), -order.rank

  values = jnp.zeros((batch, length, head.channels), jnp.float32)
  none = jnp.zeros((batch, length), bool)
  values, _ = loops.RefineLoop(counts=counts)(step_of, values, known=none)
  return values


# (features [B or 2 B, n, D], slots [B, n], guidance, temperature) -> [B, n, C].
_Draw = Callable[[Array, Array, Array | None, Any], Array]


def _diffusion(head: heads.DiffusionHead, steps: int, rng: Array) -> _Draw:
  """How a diffusion head draws the vectors of some slots."""
  schedule = diffusion.cosine_schedule(steps)
  times = head.embed_time(schedule.timesteps)  # [T, W]

  def draw(z: Array, here: Array, guidance: Any, temperature: Any) -> Array:
    cond = head.embed_features(z)

    def predict(x: Array, k: Array) -> Array:
      both = x if guidance is None else jnp.concatenate([x, x])
      output = head.denoise(both, cond + times[k][None, None])
      if guidance is None:
        return output
      own, none = jnp.split(output, 2)
      return diffusion.guide(own, none, guidance)

    noise = sampling.token_normal(
      rng, here, (schedule.steps, head.channels)
    )  # [B, n, T, C]
    noise = jnp.moveaxis(noise, 2, 0)
    return diffusion.sample(schedule, predict, noise, temperature=temperature)

  return draw


def _flow(head: heads.FlowHead, how: flow.FlowSampler, rng: Array) -> _Draw:
  """How a flow head draws the vectors of some slots."""

  def draw(z: Array, here: Array, guidance: Any, temperature: Any) -> Array:
    cond = head.embed_features(z)
    # Ours is (1 + t) c - t u, a flow's u + scale (c - u).
    scale = None if guidance is None else 1 + guidance
    noise = sampling.token_normal(rng, here, (head.channels,))
    return flow.sample(
      dataclasses.replace(how, guidance=scale),
      lambda x, t: head.denoise(x, cond + head.embed_time(t)[None, None]),
      temperature * noise,
    )

  return draw
