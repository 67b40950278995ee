"""Where pruners stand in a host, and what a host computes for them.

A plan is a tuple of (site, pruner). Sites of a transformer tower are 'embed',
'block_i.after_attention' and 'block_i.after_mlp'; several pruners at one site
act in the plan's order. A plan is hashable if its pruners are: pass it as a
static argument, one compilation per plan.

Dimension letters: B batch, N token slots, D features, A heads, E head features.
"""

from __future__ import annotations

import dataclasses
import difflib
import re

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import reduction
from tokpress_jax.pruners.base import PrunerProtocol
from tokpress_jax.types import Array, Signals, Tokens

Plan = tuple[tuple[str, PrunerProtocol], ...]

_BLOCK = re.compile(r'block_(\d+)\.(after_attention|after_mlp)')
_LAYER_SIGNALS = frozenset({'keys', 'queries', 'attention_row', 'before'})


def parse_plan(
  plan: Plan, depth: int, *, gives: frozenset[str]
) -> dict[int, tuple[Plan, Plan]]:
  """Sorts a plan by layer.

  Args:
    plan: (site, pruner) pairs.
    depth: layers of the tower.
    gives: signals that the host has at every site ('rng', 'pixels', ...);
      blocks have those of `layer_signals` too.

  Returns:
    layer to (pairs after its attention, pairs after its MLP); 'embed' is layer
    -1, and stands in the second place.

  Raises:
    UserError: lists every unknown site and every signal that is not there.
  """
  causes = []
  layers: dict[int, tuple[Plan, Plan]] = {}
  for site, pruner in plan:
    match = _BLOCK.fullmatch(site)
    if site != 'embed' and (not match or int(match[1]) >= depth):
      names = ['embed'] + [
        f'block_{i}.{part}'
        for i in range(depth)
        for part in ('after_attention', 'after_mlp')
      ]
      close = difflib.get_close_matches(site, names, 1) or names[-1:]
      causes.append(
        f'unknown site {site!r}; sites are embed, block_i.after_attention and '
        f'block_i.after_mlp with i from 0 to {depth - 1}; try {close[0]!r}'
      )
      continue
    given = gives | _LAYER_SIGNALS if match else gives
    if missing := sorted(pruner.needs - given):
      causes.append(
        f'{type(pruner).__name__} needs {missing}, and site {site!r} gives '
        f'{sorted(given)}'
      )
    layer = int(match[1]) if match else -1
    middle, end = layers.get(layer, ((), ()))
    if match and match[2] == 'after_attention':
      middle = (*middle, (site, pruner))
    else:
      end = (*end, (site, pruner))
    layers[layer] = middle, end
  if causes:
    raise UserError('this plan cannot run:\n  ' + '\n  '.join(causes))
  return layers


def layer_signals(
  tokens: Tokens,
  queries: Array,
  keys: Array,
  *,
  scale: float,
  needs: frozenset[str],
  shared: Signals,
) -> Signals:
  """Gives what pruners in a block need, and computes nothing else.

  Of the attention matrix only the first token's row is formed.

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
  if 'attention_row' in needs:
    found['attention_row'] = attention_row(
      queries[:, :, 0], keys, tokens, scale=scale
    )
  wanted = {n: found[n] for n in needs & found.keys()}
  return dataclasses.replace(shared, **wanted)


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
  logits = jnp.einsum(
    'bae,bane->ban', query, keys, preferred_element_type=jnp.float32
  )
  logits = logits * scale + reduction.log_mass_bias(tokens)[:, :, 0]
  logits = jnp.where(tokens.valid[:, None], logits, -jnp.inf)
  return jax.nn.softmax(logits, axis=-1)
