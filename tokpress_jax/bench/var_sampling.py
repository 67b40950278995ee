"""The sampling of scale-wise generators, in parts, beside an official one.

See `bench.var` for what is measured.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import generators, inference, types
from tokpress_jax.bench import harness, official_var, peaks, torch_peer
from tokpress_jax.bench.flops import count_flops
from tokpress_jax.bench.weights import redraw
from tokpress_jax.generators import condition, scale_wise_keys
from tokpress_jax.tokenizers import var_keys

Array = jax.Array
Call = harness.Call

SAMPLER: dict[str, Any] = {'guidance': 1.5, 'top_k': 900, 'top_p': 0.96}
_PARTS = {'transformer': 'matmul', 'decoder': 'conv'}


def compare(
  configs: dict[str, generators.ScaleWiseConfig],
  tokenizer: Any,
  *,
  batch: int,
  dtype: str,
  peer: str | None = None,
  threads: int | None = None,
  repeats: int = 3,
) -> list[harness.Row]:
  """Times sampling of given models, which share weights; see `run`.

  Args:
    configs: 'var' and others to their configs.
    tokenizer: the tokenizer's config.
    batch: images of a call.
    dtype: of the matmuls.
    peer: see `run`.
    threads: see `run`.
    repeats: see `run`.

  Returns:
    Rows of the whole, the parts and the peer.
  """
  labels = np.arange(batch) % min(c.num_classes for c in configs.values())
  first = next(iter(configs.values()))
  variables = redraw(scale_wise_keys.expected(first), seed=0)
  tokenizer_variables = redraw(var_keys.expected(tokenizer), seed=1)
  official = None
  if peer is not None:
    official = official_var.Official(
      peer,
      scales=tuple(grid[0] for grid in first.grids),
      depth=first.depth,
      shared=first.modulation == 'shared',
      variables=variables,
      tokenizer_variables=tokenizer_variables,
      dtype=dtype,
      threads=threads,
    )
  ready = ready_to_sample(
    first, tokenizer, variables, tokenizer_variables, dtype
  )
  del variables, tokenizer_variables
  ours = {
    name: _Ours(
      name,
      dataclasses.replace(ready, module=config.build(dtype=ready.module.dtype)),
      labels,
    )
    for name, config in configs.items()
  }
  error = None if official is None else _decoding_error(ready, official)
  calls: dict[str, Call] = {}
  for name, model in ours.items():
    calls |= {f'{name}/{part}': call for part, call in model.calls.items()}
  theirs = {} if official is None else peer_calls(official, labels)
  first_seconds = harness.first_calls({**theirs, **calls})
  parts: dict[str, list[dict[str, float]]] = {name: [] for name in theirs}

  def recorded(name: str, call: Call) -> Call:
    def both() -> None:
      call()
      assert official is not None
      parts[name].append(dict(official.parts))

    return both

  for name, call in theirs.items():
    calls[name] = recorded(name, call)
  medians = harness.time_calls(*calls.values(), repeats=repeats, warmup=0)
  seconds = dict(zip(calls, medians, strict=True))
  rates = _peaks(first, tokenizer, batch, dtype, official).measure()
  peak, peer_peak = rates['ours'], rates.get('peer', {})
  fastest = min(theirs, key=seconds.__getitem__, default=None)
  same = {'dtype': dtype, 'batch': batch}
  rows: list[harness.Row] = []
  for name, model in ours.items():
    versus = None
    if fastest is not None and name == 'var':
      versus = {'sample': seconds[fastest]} | {
        part: statistics.median(call[part] for call in parts[fastest])
        for part in _PARTS
      }
    found = model.rows(
      seconds, first_seconds, peak, peer_peak, versus, fastest, same
    )
    if error is not None and name == 'var':
      found[0]['decoding_error'] = error
    rows += found
  for way in theirs:
    row = {'name': way, **same, 'seconds': seconds[way]}
    row |= {'first_seconds': first_seconds[way]}
    row |= {'images_per_second': batch / seconds[way]}
    rows.append(row)
  for kind, rate in peak.items():
    row = {'name': f'{kind}-peak', 'dtype': dtype, 'flop_per_second': rate}
    if official is not None:
      row['peer_flop_per_second'] = peer_peak[kind]
    rows.append(row)
  return rows


def ready_to_sample(
  config: Any,
  tokenizer: Any,
  variables: Any,
  tokenizer_variables: Any,
  dtype: str,
) -> types.Loaded:
  """A generator with its tokenizer from weights on the host."""
  load = lambda config, variables, family, inner=None: types.Loaded(
    config.build(),
    jax.tree.map(jnp.asarray, variables),
    types.Spec(name='', family=family, config=config),
    inner,
  )
  inner = load(tokenizer, tokenizer_variables, 'tokenizer')
  model = load(config, variables, 'generator', inner)
  return inference.for_inference(model, dtype=jnp.dtype(dtype))


class _Ours:
  """One of our models: its calls and what they compute."""

  def __init__(self, name: str, model: types.Loaded, labels: np.ndarray):
    config, tokenizer = model.module.config, model.tokenizer
    assert tokenizer is not None
    self.name, self.batch = name, len(labels)
    self.title = f'{name}-d{config.depth}'
    sampler = generators.Sampler(**SAMPLER)
    key = jax.random.key(0)
    total = jnp.zeros((self.batch, *tokenizer.scales[-1], config.latent_dim))
    functions = {
      'sample': (
        lambda m, labels: (
          generators.sample(m, labels, rng=key, sampler=sampler).images
        ),
        jnp.asarray(labels),
      ),
      'transformer': (_transformer, jnp.asarray(labels)),
      'decoder': (lambda m, z: m.tokenizer.decode_map(z), total),
    }
    self.flops = {
      part: count_flops(function, model, argument)
      for part, (function, argument) in functions.items()
    }

    def call(part: str) -> Call:
      function, argument = functions[part]
      if part != 'sample':  # it is one jitted program itself
        function = jax.jit(function)
      return lambda: function(model, argument)

    self.calls = {part: call(part) for part in functions}

  def rows(
    self,
    seconds: dict[str, float],
    first: dict[str, float],
    peak: dict[str, float],
    peer_peak: dict[str, float],
    versus: dict[str, float] | None,
    peer: str | None,
    same: dict[str, Any],
  ) -> list[harness.Row]:
    """The whole, the parts, and the rest."""
    took = {part: seconds[f'{self.name}/{part}'] for part in self.calls}
    took['rest'] = took['sample'] - took['transformer'] - took['decoder']
    if versus is not None:
      spent = versus['transformer'] + versus['decoder']
      versus = {**versus, 'rest': versus['sample'] - spent}
    rows = []
    for part, time_spent in took.items():
      title = self.title if part == 'sample' else f'{self.title}/{part}'
      row = {'name': title, **same, 'seconds': time_spent}
      if part == 'sample':
        row['first_seconds'] = first[f'{self.name}/sample']
        row['images_per_second'] = self.batch / time_spent
      if part in self.flops:
        row['flops'] = self.flops[part]
        row['flop_per_second'] = self.flops[part] / time_spent
      kind = _PARTS.get(part)
      if kind is not None:
        row['fraction_of_peak'] = row['flop_per_second'] / peak[kind]
      if versus is not None:
        row |= harness.versus(str(peer), time_spent, versus[part])
        if kind is not None:
          rate = self.flops[part] / versus[part]
          row['peer_fraction_of_peak'] = rate / peer_peak[kind]
      rows.append(row)
    return rows


def _transformer(model: types.Loaded, labels: Array) -> Array:
  """All blocks at all scales, with guidance and caches, on given inputs."""

  def blocks(module: Any, labels: Array) -> Array:
    c = module.config
    labels = condition.with_null(labels, c.num_classes)
    cond = module.class_embed(labels)
    mod = module.modulation(cond)
    cache = module.empty_cache(len(labels), c.num_tokens)
    last = cond[:, None]
    for k, size in enumerate(c.sizes):
      # Each scale waits for the one before, as it does in sampling.
      x = jnp.broadcast_to(last[:, -1:], (len(labels), size, c.width))
      last, cache = module.run_scale(x, k, mod=mod, cache=cache)
    return last

  return model.module.apply(model.variables, labels, method=blocks)


def _peaks(
  config: generators.ScaleWiseConfig,
  tokenizer: Any,
  batch: int,
  dtype: str,
  official: official_var.Official | None,
) -> peaks.Peaks:
  """What the last scale and the decoder spend most of their time on."""
  rows = 2 * batch * config.sizes[-1]
  widths = [tokenizer.width * m for m in tokenizer.multipliers]
  levels = [
    (tokenizer.image_size // 2**i, width) for i, width in enumerate(widths)
  ]
  return peaks.Peaks(
    (rows, config.width, 4 * config.width),
    levels[:3:2],
    batch=batch,
    dtype=dtype,
    peer=official,
  )


def peer_calls(
  official: official_var.Official, labels: np.ndarray
) -> dict[str, Call]:
  """Samples the official model's ways to run: its name to a call."""

  def call(way: str) -> Call:
    return lambda: official.sample(labels, way=way, **SAMPLER)

  return {f'official-{way}': call(way) for way in torch_peer.WAYS}


def _decoding_error(
  model: types.Loaded, official: official_var.Official
) -> float:
  """Largest difference of the two decoders over the images' deviation."""
  tokenizer = model.tokenizer
  assert tokenizer is not None
  shape = (1, *tokenizer.scales[-1], tokenizer.latent_dim)
  total = np.random.default_rng(0).standard_normal(shape, np.float32)
  ours = np.clip(jax.jit(tokenizer.decode_map)(jnp.asarray(total)), -1, 1)
  theirs = official.decode(total)
  return float(np.abs(ours - theirs).max() / theirs.std())
