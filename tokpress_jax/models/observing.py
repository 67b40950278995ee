"""What pruners between a vision tower and a language model read of the tower.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.models import sites, tower
from tokpress_jax.nn import Stack
from tokpress_jax.pruners import reduction
from tokpress_jax.pruners.base import Needs
from tokpress_jax.types import Array, Signals, Tap, Tokens

# No tower has them: whoever calls the pruner puts them into its signals.
GIVEN = frozenset({'text', 'text_valid', 'importance'})


def observe(
  stack: Stack,
  tokens: Tokens,
  *,
  needs: Needs,
  gives: frozenset[str],
  layer: int,
  special: int,
  shared: Signals,
) -> tuple[Tokens, Signals]:
  """Runs a tower and gives one layer's output with the signals asked for.

  Args:
    stack: a bound module.
    tokens: that enter it.
    needs: names, which are of the layer that is read, and taps of any.
    gives: names of signals that the layers have.
    layer: whose output is read.
    special: first tokens that are left out at the end.
    shared: signals that are there anyway.

  Returns:
    Tokens and signals over the same N slots.

  Raises:
    UserError: if the layer or a need is not there.
  """
  depth = stack.config.depth
  _check_layer(layer, depth)
  given: Any = needs
  if isinstance(given, str) or not all(isinstance(n, str | Tap) for n in given):
    raise UserError(
      'needs are names of signals and Taps, as in pruner.needs or '
      f"frozenset({{'keys'}}); got {needs!r}"
    )
  names = {n for n in needs if isinstance(n, str)}
  own = {n: Tap(n, layer) for n in names & gives}
  others = {n for n in ('pixels', 'rng') if getattr(shared, n) is not None}
  if missing := names - gives - others:
    raise UserError(
      f'this tower has no {sorted(missing)}; it gives '
      f'{sorted(gives | others)}, and taps of its layers'
      + (
        '; a text or scores go in by signals.replace' if missing & GIVEN else ''
      )
      + ('; give rng=jax.random.key(0)' if 'rng' in missing else '')
    )
  asked = [n for n in needs if isinstance(n, Tap)]
  taps, counted = sites.taps_of([*asked, *own.values()], depth, gives=gives)
  state, found = tower.run(
    stack,
    tower.TowerState(tokens=tokens),
    {},
    tower.Settings(shared=Signals(), proportional=True, deterministic=True),
    hidden=(layer % depth + 1,),
    taps=taps,
  )
  read = {t: state.taps[place] for t, place in counted.items()}
  fields: dict[str, Any] = {name: read[tap] for name, tap in own.items()}
  signals = dataclasses.replace(
    shared, **fields, taps={t: read[t] for t in asked}
  )
  if not special:
    return found[0], signals
  return without_first(found[0], signals, special)


def finish(
  stack: Stack, tokens: Tokens, *, layer: int, proportional: bool
) -> Tokens:
  """Runs the layers that come after one.

  Args:
    stack: a bound module.
    tokens: what is left of that layer's output; padding is not seen.
    layer: the number of the layer.
    proportional: whether a token weighs by its mass in attention.

  Returns:
    What leaves the last layer.

  Raises:
    UserError: if the layer is not there.
  """
  depth = stack.config.depth
  _check_layer(layer, depth)
  start = layer % depth + 1
  if start == depth:
    return tokens
  x, _ = stack(
    tokens.features,
    mask=tokens.valid[:, None, None, :],
    bias=reduction.log_mass_bias(tokens) if proportional else None,
    segment=(start, depth),
  )
  return dataclasses.replace(tokens, features=x)


def _check_layer(layer: int, depth: int) -> None:
  if not isinstance(layer, int) or not -depth <= layer < depth:
    raise UserError(
      f'this tower has layers 0 to {depth - 1} (or -{depth} to -1), got '
      f'layer={layer!r}'
    )


def without_first(
  tokens: Tokens, signals: Signals, number: int
) -> tuple[Tokens, Signals]:
  """Leaves out the class and distillation token that lead every row.

  Args:
    tokens: N slots, of which the first ones are valid and protected.
    signals: over the same slots; attention keeps what it gave to the others.
    number: how many.

  Returns:
    Both over N - number slots, with nothing protected.
  """
  if not number:
    return tokens, signals

  def cut(x: Array, axis: int) -> Array:
    return jax.lax.slice_in_dim(x, number, None, axis=axis)

  fields = ('features', 'positions', 'valid', 'mass', 'kind', 'owner')
  cuts: dict[str, Any] = {n: cut(getattr(tokens, n), 1) for n in fields}
  left = dataclasses.replace(
    tokens,
    **cuts,
    protected=cut(tokens.protected, 1),
    source_count=tokens.source_count - number,
    source_slots=tokens.source_slots - number,
    num_protected=0,
  )
  return left, reduction.map_signals(signals, cut)


def with_first(tokens: Tokens, left: Tokens, number: int) -> Tokens:
  """Puts the tokens that led every row before what is left of the others.

  Args:
    tokens: of `observe` with special='keep'.
    left: what a pruner left of `without_first(tokens, ...)`.
    number: how many led the row.

  Returns:
    Their slots after one another, for `ViT.finish`.
  """

  def join(name: str) -> Array:
    first = getattr(tokens, name)[:, :number]
    return jnp.concatenate([first, getattr(left, name)], axis=1)

  names = ('features', 'positions', 'valid', 'mass', 'kind', 'owner')
  fields: dict[str, Any] = {name: join(name) for name in names}
  return dataclasses.replace(
    left,
    **fields,
    protected=join('protected'),
    source_count=left.source_count + number,
    source_slots=left.source_slots + number,
    num_protected=left.num_protected + number,
  )
