"""A stack of transformer blocks with pruners between and inside its layers.

Layers between two pruning points run as one scan; a layer in which a pruner
acts runs by its parts, so that the pruner stands between its attention and its
MLP and reads what the layer has computed anyway.

Dimension letters: B batch, N token slots, D features, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax.errors import UserError
from tokpress_jax.models import sites
from tokpress_jax.nn import Block, Stack, take_layer
from tokpress_jax.pruners import checks, reduction
from tokpress_jax.types import Array, Reduction, Signals, Tap, Tokens


@struct.dataclass
class TowerState:
  """What goes from layer to layer.

  Attributes:
    tokens: as they are now.
    reductions: what each pruner so far decided, in order.
    sites: static, where.
    taps: signals of layers so far, over the slots of now.
  """

  tokens: Tokens
  reductions: tuple[Reduction, ...] = ()
  sites: tuple[str, ...] = struct.field(pytree_node=False, default=())
  taps: dict[Tap, Array] = struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How a tower runs.

  Attributes:
    shared: signals that every site has.
    proportional: whether merged keys weigh by their mass in attention.
    deterministic: no dropout if True.
  """

  shared: Signals
  proportional: bool
  deterministic: bool


def run(
  stack: Stack,
  state: TowerState,
  layers: dict[int, tuple[sites.Plan, sites.Plan]],
  settings: Settings,
  *,
  hidden: tuple[int, ...] = (),
  taps: Mapping[int, frozenset[str]] | None = None,
) -> tuple[TowerState, tuple[Tokens, ...]]:
  """Runs all layers.

  Args:
    stack: a bound module.
    state: what enters the first layer.
    layers: of `sites.parse_plan`; only those of the stack's layers are read.
    settings: see there.
    hidden: numbers of layers, counted from the end if negative, after which the
      tokens are wanted too: 0 is what enters the first, -1 what leaves the
      last.
    taps: of `sites.taps_of`: layers whose signals the state is to carry on.

  Returns:
    What leaves the last layer, and the tokens that `hidden` asks for.

  Raises:
    UserError: if `hidden` names a layer that is not there.
  """
  depth = stack.config.depth
  checks.refuse('this tower', hidden_causes(hidden, depth))
  wanted = [n % (depth + 1) for n in hidden]
  found = {0: state.tokens}
  start = 0
  taps = {} if taps is None else taps
  stops = {n for n in layers if 0 <= n < depth} | set(taps)
  for stop in sorted(stops | set(wanted) | {depth}):
    if start < stop:
      tokens = state.tokens
      x, _ = stack(
        tokens.features,
        **mask_and_bias(state, settings),
        deterministic=settings.deterministic,
        segment=(start, stop),
      )
      tokens = dataclasses.replace(tokens, features=x)
      state = dataclasses.replace(state, tokens=tokens)
    found[stop] = state.tokens
    start = stop
    if stop in stops:
      pairs = layers.get(stop, ((), ()))
      tapped = taps.get(stop, frozenset())
      state = _layer_by_parts(stack, state, stop, pairs, settings, tapped)
      start = stop + 1
      found[start] = state.tokens
  return state, tuple(found[n] for n in wanted)


def hidden_causes(hidden: tuple[int, ...], depth: int) -> list[str]:
  """Finds layers in `hidden` that a tower does not have."""
  if not (wrong := [n for n in hidden if not -depth - 1 <= n <= depth]):
    return []
  return [
    f'hidden={tuple(hidden)} asks for tokens after layers {wrong}; this tower '
    f'has {depth} layers, so give 0 to {depth}, or -{depth + 1} to -1'
  ]


def prune(
  pairs: sites.Plan, state: TowerState, signals: Signals
) -> tuple[TowerState, Signals]:
  """Lets the pruners of a site act, and moves the layer's signals along.

  Args:
    pairs: (site, pruner) of that site.
    state: with N token slots.
    signals: of the N slots.

  Returns:
    Both after the last of the pruners.

  Raises:
    UserError: what a pruner refuses, with its site.
  """
  for site, pruner in pairs:
    done = state.reductions
    given = signals
    if signals.rng is not None:  # a draw of its own for each pruner
      fold = lambda key, n=len(done): jax.random.fold_in(key, n)
      given = dataclasses.replace(signals, rng=jax.vmap(fold)(signals.rng))
    carried = done[-1].state if done else None
    try:
      tokens, result = pruner(state.tokens, given, carried)
    except UserError as error:
      name = type(pruner).__name__
      raise UserError(f'{name} at site {site!r}: {error}') from error
    signals = reduction.reduce_signals(signals, result)
    state = TowerState(
      tokens=tokens,
      reductions=(*done, result),
      sites=(*state.sites, site),
      taps=reduction.reduce_signals(Signals(taps=state.taps), result).taps,
    )
  return state, signals


def mask_and_bias(state: TowerState, settings: Settings) -> dict[str, Any]:
  """What attention has to know about pruned tokens; nothing before that."""
  found: dict[str, Any] = {}
  if state.reductions:
    found['mask'] = state.tokens.valid[:, None, None, :]
    if settings.proportional:
      found['bias'] = reduction.log_mass_bias(state.tokens)
  return found


def row_keys(rng: Array | None, batch: int) -> Array | None:
  """One key per row, of one key or as given; see `arrays.key_causes`."""
  if rng is None or rng.ndim == 1:
    return rng
  return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(batch))


def _layer_by_parts(
  stack: Stack,
  state: TowerState,
  layer: int,
  pairs: tuple[sites.Plan, sites.Plan],
  settings: Settings,
  tapped: frozenset[str],
) -> TowerState:
  """Runs one layer by its parts, with pruners after each, and taps it."""
  c = stack.config
  middle, end = pairs
  needs: frozenset[str | Tap] = frozenset(tapped)
  needs = needs.union(*(pruner.needs for _, pruner in middle + end))
  rate = c.block.drop_path * layer / max(c.depth - 1, 1)
  drop: dict[str, Any] = {
    'drop': rate,
    'deterministic': settings.deterministic,
  }

  def body(block: Block, state: TowerState) -> TowerState:
    tokens = state.tokens
    x = tokens.features
    q, k, v = block.attn.project(block.pre_attention(x, {}))
    signals = sites.layer_signals(
      tokens,
      q,
      k,
      scale=block.attn.logit_scale,
      needs=needs,
      shared=settings.shared,
    )
    x, _ = block.attend(
      x, {}, projected=(q, k, v), **mask_and_bias(state, settings), **drop
    )
    tokens = dataclasses.replace(tokens, features=x)
    own = {Tap(name, layer): getattr(signals, name) for name in tapped}
    state = dataclasses.replace(state, tokens=tokens, taps=state.taps | own)
    state, signals = prune(middle, state, signals)
    x = block.feed(state.tokens.features, {}, **drop)
    tokens = dataclasses.replace(state.tokens, features=x)
    state = dataclasses.replace(state, tokens=tokens)
    return prune(end, state, signals)[0]

  block = Block(
    c.block,
    dtype=stack.dtype,
    implementation=stack.implementation,
    parent=None,
  )
  noisy = not settings.deterministic
  rngs = {'dropout': stack.make_rng('dropout')} if noisy else {}
  call: Any = lambda params, state: block.apply(
    {'params': params}, state, method=body, rngs=rngs
  )
  if c.remat:
    call = jax.checkpoint(call)
  layers: Any = stack.get_variable('params', 'layers')
  if settings.deterministic and not isinstance(layers, list | tuple):
    # Otherwise XLA cuts out all layers before the first one runs, and memory
    # for all of them is mapped anew in each call (1.3 x the time on a CPU).
    x, layers = jax.lax.optimization_barrier((state.tokens.features, layers))
    tokens = dataclasses.replace(state.tokens, features=x)
    state = dataclasses.replace(state, tokens=tokens)
  return call(take_layer(layers, layer), state)
