"""The training step of scale-wise generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import generators
from tokpress_jax.bench import harness
from tokpress_jax.bench.flops import count_flops
from tokpress_jax.bench.weights import redraw
from tokpress_jax.generators import scale_wise_keys

Array = jax.Array


def train_rows(
  title: str,
  config: generators.ScaleWiseConfig,
  *,
  batch: int,
  dtype: str,
  repeats: int,
) -> list[harness.Row]:
  """Times a training step of each pass, and states the memory it needs.

  Args:
    title: of the model.
    config: of the generator; its weights are float32.
    batch: images.
    dtype: of the matmuls.
    repeats: timed steps.

  Returns:
    A row per pass: VAR has one, MVAR one for the scales without neighbourhoods
    and one for each of the others. `peak_bytes` is what the compiled step says
    of arguments, results and intermediate arrays.
  """
  import optax

  module = config.build(dtype=jnp.dtype(dtype))
  optimiser = optax.adamw(1e-4, b1=0.9, b2=0.95, weight_decay=0.05)
  rng = np.random.default_rng(0)
  later = config.num_tokens - config.sizes[0]
  inputs = jnp.asarray(
    rng.standard_normal((batch, later, config.latent_dim), np.float32)
  )
  codes = jnp.asarray(
    rng.integers(config.codebook_size, size=(batch, config.num_tokens))
  )
  labels = jnp.arange(batch) % config.num_classes
  variables = jax.tree.map(
    jnp.asarray, redraw(scale_wise_keys.expected(config), seed=0)
  )
  state = (variables, jax.jit(optimiser.init)(variables))
  del variables
  rows = []
  for scales in config.passes:
    ends = config.boundaries
    start, end = ends[scales[0]] - config.sizes[scales[0]], ends[scales[1] - 1]

    def loss(
      variables: Any,
      scales: tuple[int, int] = scales,
      part: slice = slice(start, end),
    ) -> Array:
      logits = module.apply(
        variables,
        inputs,
        labels,
        scales=scales,
        deterministic=False,
        rngs={'dropout': jax.random.key(0)},
      )
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, codes[:, part]
      ).mean()

    def step(state: Any, loss: Callable[[Any], Array] = loss) -> Any:
      variables, moments = state
      value, gradient = jax.value_and_grad(loss)(variables)
      updates, moments = optimiser.update(gradient, moments, variables)
      return (optax.apply_updates(variables, updates), moments), value

    flops = count_flops(step, state)
    compiled = jax.jit(step, donate_argnums=0).lower(state).compile()
    held: Any = compiled.memory_analysis()

    def call(compiled: Any = compiled) -> Array:
      nonlocal state  # Donated: each call takes the last one's result.
      state, value = compiled(state)
      return value

    (seconds,) = harness.time_calls(call, repeats=repeats)
    rows.append(
      {
        'name': f'{title}/train_step[{scales[0]}:{scales[1]}]',
        'dtype': dtype,
        'batch': batch,
        'seconds': seconds,
        'images_per_second': batch / seconds,
        'flops': flops,
        'flop_per_second': flops / seconds,
        'peak_bytes': held.argument_size_in_bytes
        + held.output_size_in_bytes
        - held.alias_size_in_bytes
        + held.temp_size_in_bytes,
      }
    )
  return rows
