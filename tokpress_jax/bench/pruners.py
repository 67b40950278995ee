"""Pruners inside a ViT: the time that the saved operations really save.

Each pruner takes r tokens out in every layer, between attention and MLP, so
that all leave the same numbers. `predicted` is the speed-up that the operations
promise (`pruners.flops`: 4 N C^2 + 2 N^2 C and 2 N C m in each layer),
`speed_up` the one that is measured beside the ViT alone in the same run, and
`realised` the second over the first. `pruner_seconds` are the plans and moves
of all layers by themselves, given what they read. Weights are redrawn: time
does not depend on them.

The peer is ToMe's matching in a PyTorch ViT with fused attention (see
`bench.official_tome`), the faster of eager and `torch.compile`, under inference
mode, with our weights. Ours and the peer's calls alternate. Memory is measured
in processes of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import inference, pruners, types
from tokpress_jax.bench import harness, memory, official_tome, torch_peer
from tokpress_jax.bench.weights import redraw
from tokpress_jax.errors import UserError
from tokpress_jax.models import counts as counts_lib
from tokpress_jax.models.vit_config import PRESETS, ViTConfig
from tokpress_jax.pruners import flops

Plan = tuple[tuple[str, Any], ...]


def run(
  *,
  model: str = 'vit-b16',
  r: int = 13,
  batch: int = 8,
  methods: str | Sequence[str] = (
    'tome',
    'tome_random',
    'pitome',
    'diffrate',
    'token_transforming',
    'top_attention',
    'top_norm',
    'stride',
    'random',
  ),
  dtype: str = 'float32',
  peer: str | None = None,
  threads: int | None = None,
  repeats: int = 5,
  measure_memory: int = 1,
) -> list[harness.Row]:
  """Times a ViT without and with pruners.

  Args:
    model: a preset: vit-ti16, vit-s16, vit-b16, vit-l16, vit-h14.
    r: tokens that each layer loses, until none is left to lose.
    batch: images of a call.
    methods: names of pruners that take a number to remove.
    dtype: of the matmuls.
    peer: path of a checkout of facebookresearch/ToMe, to time beside the ViT
      and beside `tome`.
    threads: of the peer on a CPU; all cores if None.
    repeats: timed calls of each.
    measure_memory: 0 leaves out the peaks of memory.

  Returns:
    A row for the ViT and one for each pruner; with a peer, with its times, the
    ratio, and the largest difference of the logits over their deviation.

  Raises:
    UserError: an option has no meaning, or the peer cannot be imported.
  """
  if model not in PRESETS:
    raise UserError(f'model is one of {", ".join(PRESETS)}, got {model!r}')
  methods = (methods,) if isinstance(methods, str) else tuple(methods)
  return compare(
    model,
    PRESETS[model],
    r=r,
    batch=batch,
    methods=methods,
    dtype=dtype,
    peer=peer,
    threads=threads,
    repeats=repeats,
    measure_memory=bool(measure_memory),
  )


def compare(
  title: str,
  config: ViTConfig,
  *,
  r: int,
  batch: int,
  methods: Sequence[str],
  dtype: str = 'float32',
  peer: str | None = None,
  threads: int | None = None,
  repeats: int = 5,
  measure_memory: bool = False,
) -> list[harness.Row]:
  """Times a ViT of any size; see `run`."""
  plans = {name: plan_of(name, r=r, config=config) for name in methods}
  model, images = _model(config, dtype), _images(config, batch)
  calls: dict[str, harness.Call] = {'': _call(model, images, ())}
  for name, plan in plans.items():
    calls[name] = _call(model, images, plan)
    calls[f'{name}/pruner'] = _pruner_call(config, plan, batch, dtype)
  removed = pruners.linear_schedule(r, config.depth)
  official = None
  merges = {'': (0,) * config.depth, 'tome': removed}
  if peer is not None:
    official = official_tome.Official(
      peer, config, _weights(config), threads=threads
    )
    for name in merges.keys() & calls.keys():
      for way in torch_peer.WAYS:
        calls[f'{way}/{name}'] = official.call(
          images, counts=merges[name], way=way
        )
  first = harness.first_calls(calls)
  medians = harness.time_calls(*calls.values(), repeats=repeats, warmup=1)
  seconds = dict(zip(calls, medians, strict=True))
  rows = []
  full = counts_lib.model_flops(config)
  for name, plan in {'': (), **plans}.items():
    row: harness.Row = {'name': f'{title}/{name}' if name else title}
    row |= {'dtype': dtype, 'batch': batch, 'seconds': seconds[name]}
    layers = counts_lib.token_counts(config, plan)
    row['equal_tokens'] = flops.equal_tokens(layers)
    row['first_seconds'] = first[name]
    if name:
      predicted = full / counts_lib.model_flops(config, plan)
      speed_up = seconds[''] / seconds[name]
      row['pruner_seconds'] = seconds[f'{name}/pruner']
      row |= {'predicted': predicted, 'speed_up': speed_up}
      row['realised'] = speed_up / predicted
    if official is not None and name in merges:
      way = min(torch_peer.WAYS, key=lambda w: seconds[f'{w}/{name}'])
      theirs = f'{way}/{name}'
      row |= harness.versus(f'official-{way}', seconds[name], seconds[theirs])
      expected = calls[theirs]()
      error = np.abs(np.asarray(calls[name]()) - expected).max()
      row['logit_error'] = float(error / expected.std())
    if measure_memory:
      found = memory.peak(
        f'{__name__}:alone', model=title, r=r, batch=batch, method=name
      )
      row |= {'weights_bytes': found['weights'], 'peak_bytes': found['peak']}
    rows.append(row)
  return rows


def plan_of(name: str, *, r: int, config: ViTConfig) -> Plan:
  """A pruner after each layer's attention, which takes r tokens out."""
  return pruners.PlanConfig(method=name, r=r).plan(config.shape)


def alone(*, model: str, r: int, batch: int, method: str) -> harness.Call:
  """One model and nothing else, for a process of its own."""
  config = PRESETS[model]
  plan = plan_of(method, r=r, config=config) if method else ()
  call = _call(_model(config, 'float32'), _images(config, batch), plan)
  return lambda: jax.block_until_ready(call())


def _weights(config: ViTConfig) -> Any:
  module, size = config.build(), config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  return redraw(jax.eval_shape(module.init, jax.random.key(0), images), seed=0)


def _model(config: ViTConfig, dtype: str) -> types.Loaded:
  loaded = types.Loaded(
    config.build(),
    jax.tree.map(jnp.asarray, _weights(config)),
    types.Spec(name='', family='model', config=config),
  )
  return inference.for_inference(loaded, dtype=jnp.dtype(dtype))


def _images(config: ViTConfig, batch: int) -> np.ndarray:
  shape = (batch, config.image_size, config.image_size, config.channels)
  return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def _call(
  model: types.Loaded, images: np.ndarray, plan: Plan
) -> functools.partial[Any]:
  """Logits of the images."""
  program = jax.jit(lambda m, x, rng: m(x, plan=plan, rng=rng).logits)
  return functools.partial(
    program, model, jnp.asarray(images), jax.random.key(0)
  )


def _pruner_call(
  config: ViTConfig, plan: Plan, batch: int, dtype: str
) -> functools.partial[Any]:
  """All pruners of a plan on tokens of their layers, and nothing else."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
  given = []
  for _, (slots, _) in zip(
    plan, counts_lib.token_counts(config, plan), strict=True
  ):
    protected = jnp.broadcast_to(jnp.arange(slots) < 1, (batch, slots))
    tokens = types.Tokens.create(
      draw(batch, slots, config.width), protected=protected, num_protected=1
    )
    heads = (batch, config.heads, slots, config.width // config.heads)
    rows = jax.nn.softmax(draw(*heads[:3]).astype(jnp.float32))
    signals = types.Signals(
      keys=draw(*heads),
      attention_row=rows,
      rng=jax.random.split(jax.random.key(0), batch),
    )
    given.append((tokens, signals))

  @jax.jit
  def act(given: Any) -> Any:
    return [
      pruner(tokens, signals)[0]
      for (_, pruner), (tokens, signals) in zip(plan, given, strict=True)
    ]

  return functools.partial(act, given)
