"""Where pruners stand in a host, and what a host computes for them.

A plan is a tuple of (site, pruner). Sites of a transformer tower are 'embed',
'block_i.after_attention', 'block_i.after_mlp' and 'tower_out'; several pruners
at one site act in the plan's order. A plan is hashable if its pruners are: pass
it as a static argument, one compilation per plan.

Dimension letters: B batch, N token slots, M queries, D features, A heads, E
head features.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks, reduction
from tokpress_jax.pruners.base import PrunerProtocol
from tokpress_jax.types import Array, Signals, Tap, Tokens

Plan = tuple[tuple[str, PrunerProtocol], ...]

_BLOCK = re.compile(r'block_(\d+)\.(after_attention|after_mlp)')
# What every block has, and what it has where a class token leads the row.
LAYER_SIGNALS = frozenset({'keys', 'queries', 'attention_column', 'before'})
CLASS_SIGNALS = frozenset({'attention_row', 'attention_logits'})

_QUERIES = 128  # whose attention is in memory at a time


def parse_plan(
  plan: Plan,
  depth: int,
  *,
  gives: frozenset[str],
  block_gives: frozenset[str] = LAYER_SIGNALS | CLASS_SIGNALS,
  causes: Sequence[str] = (),
) -> dict[int, tuple[Plan, Plan]]:
  """Sorts a plan by layer.

  Args:
    plan: (site, pruner) pairs.
    depth: layers of the tower.
    gives: signals that the host has at every site ('rng', 'pixels', ...).
    block_gives: those that its blocks have too, of `layer_signals`.
    causes: what the host found wrong with its other arguments, to be told
      together.

  Returns:
    layer to (pairs after its attention, pairs after its MLP); 'embed' is layer
    -1 and 'tower_out' is layer `depth`, both in the second place.

  Raises:
    UserError: lists every unknown site, every signal that is not there, every
      entry that is no pair, and `causes`.
  """
  causes = list(causes)
  pairs: Any = plan
  if not isinstance(pairs, tuple | list):
    causes.append(
      "a plan is a tuple of (site, pruner) pairs, as in (('embed', pruner),); "
      f'got {type(pairs).__name__}'
    )
    pairs = ()
  layers: dict[int, tuple[Plan, Plan]] = {}
  # One cause for all sites that it concerns.
  unknown: dict[str, list[str]] = {}
  lacking: dict[tuple[str, str, str], list[str]] = {}
  ends = {'embed': -1, 'tower_out': depth}
  for pair in pairs:
    if not _is_pair(pair):
      causes.append(
        'an entry of a plan is (site, pruner), the name of a site and a pruner '
        f'that was made, as in ToMe(budget=8); got {pair!r}'
      )
      continue
    site, pruner = pair
    match = _BLOCK.fullmatch(site)
    if site not in ends and (not match or int(match[1]) >= depth):
      unknown.setdefault(site if match is None else 'layer', []).append(site)
      continue
    given = gives | block_gives if match else gives
    wanted = {n for n in pruner.needs if isinstance(n, Tap)}
    missing = sorted(map(str, pruner.needs - wanted - given))
    if site == 'tower_out':
      wrong = [t for t in wanted if not _is_there(t, depth, block_gives)]
      missing += sorted(map(str, wrong))
    else:  # taps are of layers that have run
      missing += sorted(map(str, wanted))
    if missing:
      taps = ' and taps of its layers' if site == 'tower_out' else ''
      cause = type(pruner).__name__, str(missing), f'{sorted(given)}{taps}'
      lacking.setdefault(cause, []).append(site)
    layer = int(match[1]) if match else ends[site]
    middle, end = layers.get(layer, ((), ()))
    if match and match[2] == 'after_attention':
      middle = (*middle, (site, pruner))
    else:
      end = (*end, (site, pruner))
    layers[layer] = middle, end
  causes += [
    f'{name} needs {missing}, and {_shown(at)} give{"s" * (len(at) < 2)} '
    f'{there}'
    for (name, missing, there), at in lacking.items()
  ]
  causes += [_unknown(at, depth) for at in unknown.values()]
  checks.refuse('this plan', causes)
  return layers


def taps_of(
  needs: Iterable[str | Tap], depth: int, *, gives: frozenset[str]
) -> tuple[dict[int, frozenset[str]], dict[Tap, Tap]]:
  """Which layers are tapped for what.

  Args:
    needs: of pruners behind the layers: names, which are left out, and taps.
    depth: layers of the tower.
    gives: names of signals that its layers have.

  Returns:
    layer to names of signals; and each tap's own with its layer counted from 0.

  Raises:
    UserError: lists the taps that no layer gives.
  """
  taps = {n for n in needs if isinstance(n, Tap)}
  if wrong := [t for t in taps if not _is_there(t, depth, gives)]:
    raise UserError(
      f'no layer gives {sorted(map(str, wrong))}; this tower has layers 0 to '
      f'{depth - 1} (or -{depth} to -1), which give {sorted(gives)}'
    )
  layers: dict[int, frozenset[str]] = {}
  counted = {t: dataclasses.replace(t, layer=t.layer % depth) for t in taps}
  for tap in counted.values():
    layers[tap.layer] = layers.get(tap.layer, frozenset()) | {tap.signal}
  return layers, counted


def _is_there(tap: Tap, depth: int, gives: frozenset[str]) -> bool:
  return -depth <= tap.layer < depth and tap.signal in gives


def _is_pair(pair: object) -> bool:
  """Whether it is a site's name and a pruner, not a pruner's class."""
  return (
    isinstance(pair, tuple | list)
    and len(pair) == 2
    and isinstance(pair[0], str)
    and isinstance(pair[1], PrunerProtocol)
    and not isinstance(pair[1], type)
  )


def _shown(sites: Sequence[str]) -> str:
  """Sites as text, the first and the last of many."""
  if len(sites) > 3:
    return f'{len(sites)} sites, {sites[0]!r} to {sites[-1]!r}'
  return f'site{"s" * (len(sites) > 1)} {", ".join(map(repr, sites))}'


def _unknown(sites: Sequence[str], depth: int) -> str:
  """Says which sites there are, and the nearest to the first unknown one."""
  names = ['embed', 'tower_out'] + [
    f'block_{i}.{part}'
    for i in range(depth)
    for part in ('after_attention', 'after_mlp')
  ]
  close = difflib.get_close_matches(sites[0], names, 1) or names[-1:]
  return (
    f'unknown {_shown(sites)}; sites are embed, block_i.after_attention and '
    f'block_i.after_mlp with i from 0 to {depth - 1}, and tower_out; try '
    f'{close[0]!r}'
  )


def layer_signals(
  tokens: Tokens,
  queries: Array,
  keys: Array,
  *,
  scale: float,
  needs: frozenset[str | Tap],
  shared: Signals,
) -> Signals:
  """Gives what pruners in a block need, and computes nothing else.

  Of the attention matrix only the first token's row is formed, and for its
  column sums the rows of a few queries at a time.

  Args:
    tokens: what enters the block.
    queries: [B, A, N, E] of its attention, before any rotation.
    keys: [B, A, N, E].
    scale: of its logits.
    needs: names of signals.
    shared: what every site has ('rng', 'pixels').

  Returns:
    The shared signals and the layer's that are needed.
  """
  found = {'keys': keys, 'queries': queries, 'before': tokens.features}
  if 'attention_logits' in needs:
    found['attention_logits'] = attention_logits(
      queries[:, :, :1], keys, scale=scale
    )[:, :, 0]
  if 'attention_row' in needs:
    found['attention_row'] = attention_row(
      queries[:, :, 0], keys, tokens, scale=scale
    )
  if 'attention_column' in needs:
    found['attention_column'] = attention_column(
      queries, keys, tokens, scale=scale
    )
  wanted: dict[str, Any] = {n: x for n, x in found.items() if n in needs}
  return dataclasses.replace(shared, **wanted)


def attention_logits(queries: Array, keys: Array, *, scale: float) -> Array:
  """Scaled products of some queries with all keys.

  Args:
    queries: [B, A, M, E].
    keys: [B, A, N, E].
    scale: of the products.

  Returns:
    float32 [B, A, M, N].
  """
  logits = jnp.einsum(
    'bame,bane->bamn', queries, keys, preferred_element_type=jnp.float32
  )
  return logits * scale


def attention_row(
  query: Array, keys: Array, tokens: Tokens, *, scale: float
) -> Array:
  """Attention probabilities of one query, proportional to mass.

  Args:
    query: [B, A, E].
    keys: [B, A, N, E].
    tokens: the N tokens, whose masses weigh and whose padding is left out.
    scale: of the logits.

  Returns:
    float32 [B, A, N].
  """
  return _rows(query[:, :, None], keys, tokens, scale=scale)[:, :, 0]


def attention_column(
  queries: Array, keys: Array, tokens: Tokens, *, scale: float
) -> Array:
  """Attention probabilities summed over all valid queries.

  Args:
    queries: [B, A, N, E].
    keys: [B, A, N, E].
    tokens: the N tokens; see `attention_row`. A query counts once, whatever its
      mass.
    scale: of the logits.

  Returns:
    float32 [B, A, N].
  """
  batch, heads, slots, features = queries.shape
  parts = -(-slots // _QUERIES)
  size = -(-slots // parts)
  spare = parts * size - slots
  padded = jnp.pad(queries, ((0, 0), (0, 0), (0, spare), (0, 0)))
  counts = jnp.pad(tokens.valid, ((0, 0), (0, spare)))

  def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
    some, weight = part  # [B, A, M, E], [B, M]
    rows = _rows(some, keys, tokens, scale=scale)
    rows = jnp.where(weight[:, None, :, None], rows, 0)
    return total + rows.sum(axis=2), None

  start = jnp.zeros((batch, heads, slots), jnp.float32)
  split = padded.reshape(batch, heads, parts, size, features)
  each = jnp.moveaxis(split, 2, 0)
  return jax.lax.scan(
    add, start, (each, jnp.moveaxis(counts.reshape(batch, parts, size), 1, 0))
  )[0]


def _rows(
  queries: Array, keys: Array, tokens: Tokens, *, scale: float
) -> Array:
  """Attention of some queries [B, A, M, E], float32 [B, A, M, N]."""
  logits = attention_logits(queries, keys, scale=scale)
  logits = logits + reduction.log_mass_bias(tokens)
  logits = jnp.where(tokens.valid[:, None, None], logits, -jnp.inf)
  return jax.nn.softmax(logits, axis=-1)
