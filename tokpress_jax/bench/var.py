"""Sampling and training of VAR and MVAR, beside an official checkout.

Weights are redrawn: time does not depend on them. Sampling is the whole way
from labels to pixels with guidance 1.5, top-k 900 and top-p 0.96, split into
the transformer (its blocks), the decoder, and the rest (head, drawing, the
quantiser's sums). Each part stands beside the peak of its library, measured in
the same run on the part's largest matmul (transformer) or on 3x3 convolutions
(decoder). Operations are those of the definition, so that a convolution with
fewer products may be above the peak.

The peer is the faster of eager and `torch.compile`, under inference mode. Ours
and the peer's calls alternate. Memory is measured in processes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import generators
from tokpress_jax.bench import harness, memory, official_var, var_sampling
from tokpress_jax.bench.var_training import train_rows
from tokpress_jax.bench.weights import redraw
from tokpress_jax.errors import UserError
from tokpress_jax.generators import scale_wise_keys
from tokpress_jax.tokenizers import var_keys

_MODELS = {
  'var': scale_wise_keys.var_config,
  'mvar': lambda depth, size: scale_wise_keys.markovian(
    scale_wise_keys.var_config(depth, size)
  ),
}


def run(
  *,
  models: str | Sequence[str] = ('var', 'mvar'),
  depth: int = 16,
  size: int = 256,
  batch: int = 1,
  dtype: str | None = None,
  peer: str | None = None,
  threads: int | None = None,
  repeats: int = 3,
  train_batch: int | None = None,
  measure_sampling: int = 1,
  measure_memory: int = 1,
) -> list[harness.Row]:
  """Times sampling, and what else is asked for.

  Args:
    models: 'var', 'mvar' or both, which differ in their visibility.
    depth: of the transformer; its width is 64 times that.
    size: of the images, 256 or 512.
    batch: images of a call.
    dtype: of the matmuls; bfloat16 on accelerators and float32 on a CPU if
      None.
    peer: path of a checkout of FoundationVision/VAR to time beside VAR.
    threads: of the peer on a CPU; all cores if None. JAX takes all cores that
      its process may use: `taskset` gives both fewer.
    repeats: timed calls of each.
    train_batch: images of a training step (AdamW, all scales); none is timed if
      None.
    measure_sampling: 0 leaves out the times of sampling.
    measure_memory: 0 leaves out the peaks of memory of sampling.

  Returns:
    For each model, a row of the whole, one of each part, and those of memory
    and training; with a peer, a row of each way to run it, and the largest
    difference of the two decoders over the deviation of the images.

  Raises:
    UserError: an option has no meaning, or the peer cannot be imported.
  """
  models = (models,) if isinstance(models, str) else tuple(models)
  unknown = sorted(set(models) - set(_MODELS))
  if unknown or not models:
    raise UserError(f'models must be among {", ".join(_MODELS)}, got {models}')
  if size not in (256, 512):
    raise UserError(f'size must be 256 or 512, got {size}')
  if peer is not None and 'var' not in models:
    raise UserError("a peer is timed beside VAR: add 'var' to models")
  dtype = dtype or default_dtype()
  configs = {name: _MODELS[name](depth, size) for name in models}
  rows: list[harness.Row] = []
  if measure_sampling:
    rows = var_sampling.compare(
      configs,
      var_keys.released_config(size),
      batch=batch,
      dtype=dtype,
      peer=peer,
      threads=threads,
      repeats=repeats,
    )
  if measure_memory:
    same = {'depth': depth, 'size': size, 'batch': batch, 'dtype': dtype}
    for name in models:
      here = peer if name == 'var' else None
      rows.append(_memory_row(f'{name}-d{depth}', name, here, threads, same))
  if train_batch is not None:
    for name, config in configs.items():
      rows += train_rows(
        f'{name}-d{depth}',
        config,
        batch=train_batch,
        dtype=dtype,
        repeats=repeats,
      )
  return rows


def default_dtype() -> str:
  """What sampling runs in on this device."""
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def _memory_row(
  title: str,
  name: str,
  peer: str | None,
  threads: int | None,
  options: dict[str, Any],
) -> harness.Row:
  """Peaks of sampling, ours and the peer's (eager), each in its process."""
  ours = memory.peak(f'{__name__}:ours_alone', name=name, **options)
  row = {
    'name': f'{title}/memory',
    'dtype': options['dtype'],
    'batch': options['batch'],
    'weights_bytes': ours['weights'],
    'first_peak_bytes': ours['first_peak'],
    'peak_bytes': ours['peak'],
  }
  if peer is not None:
    theirs = memory.peak(
      f'{__name__}:official_alone', path=peer, threads=threads, **options
    )
    row |= {f'peer_{key}_bytes': value for key, value in theirs.items()}
  return row


def ours_alone(
  *, name: str, depth: int, size: int, batch: int, dtype: str
) -> harness.Call:
  """Builds our model and returns a call that samples, for `memory.peak`."""
  config = _MODELS[name](depth, size)
  tokenizer = var_keys.released_config(size)
  model = var_sampling.ready_to_sample(
    config,
    tokenizer,
    redraw(scale_wise_keys.expected(config), seed=0),
    redraw(var_keys.expected(tokenizer), seed=1),
    dtype,
  )
  sampler = generators.Sampler(**var_sampling.SAMPLER)
  labels = jnp.arange(batch) % config.num_classes
  return lambda: jax.block_until_ready(
    generators.sample(model, labels, rng=jax.random.key(0), sampler=sampler)
  )


def official_alone(
  *,
  path: str,
  depth: int,
  size: int,
  batch: int,
  dtype: str,
  threads: int | None = None,
) -> harness.Call:
  """Builds the peer and returns a call that samples, for `memory.peak`."""
  config = scale_wise_keys.var_config(depth, size)
  official = official_var.Official(
    path,
    scales=tuple(grid[0] for grid in config.grids),
    depth=depth,
    shared=config.modulation == 'shared',
    variables=redraw(scale_wise_keys.expected(config), seed=0),
    tokenizer_variables=redraw(
      var_keys.expected(var_keys.released_config(size)), seed=1
    ),
    dtype=dtype,
    threads=threads,
  )
  return var_sampling.peer_calls(official, np.arange(batch))['official-eager']
