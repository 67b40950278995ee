"""Learned compressors with their projectors, at the legal number nearest to K.

Each is a function of what the tower gives that makes its modules on the way, at
LLaVA's widths: D in, E out, a projector of two layers. A number K is of a row:
of several crops each takes its part.

Dimension letters: see `compressor_inputs`; K kept tokens of a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax.bench.compressor_inputs import WORDS, Given
from tokpress_jax.pruners import before_llm, compressors, reduction
from tokpress_jax.types import Array, Signals, Tokens

Build = Callable[[Given, int], Array]


class Learned(nn.Module):
  """What a function builds, with its weights.

  Attributes:
    build: of the given and K.
    kept: K.
  """

  build: Build
  kept: int

  @nn.compact
  def __call__(self, given: Given) -> Array:
    """Makes tokens [B, K, E], or [B G, K / G, E]."""
    return self.build(given, self.kept)


def nearest(kept: int, counts: Iterable[tuple[int, Any]]) -> Any:
  """What makes the number of tokens nearest to K, the first of such."""
  return min(counts, key=lambda pair: abs(pair[0] - kept))[1]


def projector(given: Given, **options: Any) -> compressors.Projector:
  """LLaVA's: two layers to the width of the language model."""
  widths = (given.words.shape[-1],) * 2
  return compressors.Projector(
    widths, **{'dtype': given.crops.dtype, **options}
  )


def project(given: Given, kept: int) -> Array:
  """All tokens: what stands in a model without a compressor."""
  del kept
  return projector(given)(given.crops)


def _stride(given: Given, kept: int) -> int:
  """The side of windows that tile a crop."""
  number, rows, columns = given.scene.tower
  sides = range(1, math.gcd(rows, columns) + 1)
  whole = [n for n in sides if not rows % n and not columns % n]
  return nearest(kept, [(number * rows * columns // n**2, n) for n in whole])


def _shared(given: Given) -> dict[str, Any]:
  """Fields that modules have in common."""
  return {'grid': given.grid, 'dtype': given.crops.dtype}


def _sizes(given: Given) -> dict[str, Any]:
  """Widths of tower and language model."""
  return {'width': given.crops.shape[-1], 'out': given.words.shape[-1]}


def m3(given: Given, kept: int) -> Array:
  """Projects all, then averages windows."""
  rows, columns = given.grid
  scale = rows * columns // _stride(given, kept) ** 2
  x = projector(given)(given.crops)
  return compressors.nested_pool(x, grid=given.grid, scales=(scale,))[0]


def mqt(given: Given, kept: int) -> Array:
  """A prefix of 256 queries for each crop."""
  count = max(min(kept // given.scene.tower[0], 256), 1)
  module = compressors.MQT(**_shared(given), **_sizes(given))
  return module(given.crops, count=count)


def token_packer(given: Given, kept: int) -> Array:
  """Windows with details of several layers."""
  module = compressors.TokenPacker(
    stride=_stride(given, kept),
    joined=given.levels.shape[-1],
    **_shared(given),
    **_sizes(given),
  )
  return module(given.crops, given.levels)


def token_flex(given: Given, kept: int) -> Array:
  """Any square of tokens for each crop."""
  number, rows, _ = given.scene.tower
  side = nearest(kept, [(number * n * n, n) for n in range(1, rows + 1)])
  module = compressors.TokenFLEX(**_shared(given), **_sizes(given))
  return module(given.crops, side=side)


def quecc(given: Given, kept: int) -> Array:
  """Windows in the light of the question, then the projector."""
  module = compressors.QueCC(
    stride=_stride(given, kept),
    width=given.crops.shape[-1],
    joined=given.levels.shape[-1],
    text=given.question.shape[-1],
    **_shared(given),
  )
  asked = jnp.repeat(given.question, given.scene.tower[0], axis=0)
  return projector(given)(module(given.crops, given.levels, asked))


def hicom_local(given: Given, kept: int) -> Array:
  """One token for each region of a video, guided directly."""
  frames, rows, columns = grid = given.scene.video
  up = lambda length, size: -(-length // size)
  options = [
    (up(frames, t) * up(rows, s) * up(columns, s), (t, s, s))
    for t in (4, 2, 1)  # The longest first, as published.
    for s in range(1, 7)
  ]
  module = compressors.HIComLocal(
    grid=grid,
    sizes=nearest(kept, options),
    heads=8,
    text=given.guide.shape[-1],
    dtype=given.crops.dtype,
    **_sizes(given),
  )
  return module(given.rows, given.guide)


def hicom_global(given: Given, kept: int) -> Array:
  """K queries of a whole video, guided coarsely."""
  module = compressors.HIComGlobal(
    queries=kept,
    grid=given.scene.video,
    heads=8,
    text=given.guide.shape[-1],
    dtype=given.crops.dtype,
    **_sizes(given),
  )
  return module(given.rows, given.guide)


def slime(given: Given, kept: int) -> Array:
  """Squares of queries for each crop, of which the text picks K."""
  number = given.scene.tower[0]
  module = compressors.SliMEResampler(
    side=math.ceil(math.sqrt(kept / number)),
    width=given.crops.shape[-1],
    **_shared(given),
  )
  x = given.joined(projector(given)(module(given.crops)))
  router = compressors.SliME(budget=kept)
  return router(Tokens.create(x), Signals(text=given.words))[0].features


def llavolta(given: Given, kept: int) -> Array:
  """Projects all, then averages neighbours of the row."""
  slots = given.rows.shape[1]
  stride = nearest(kept, [(-(-slots // n), n) for n in range(1, slots + 1)])
  pruner = compressors.LLaVolta(stride=stride, length=slots)
  return pruner(Tokens.create(given.joined(project(given, kept))))[0].features


def mini_monkey(given: Given, kept: int) -> Array:
  """Projects all; the words' attention says which K stay."""
  x = given.joined(project(given, kept))
  slots = x.shape[1]
  tokens = Tokens.create(jnp.concatenate([x, given.words], axis=1))
  at = jnp.arange(slots + WORDS)[None]
  fine = jnp.broadcast_to(at < slots, tokens.valid.shape)
  plan = compressors.scale_compression(
    tokens,
    given.attention,
    fine=fine,
    capacity=kept + WORDS,
    rows=compressors.readers(tokens, fine)[:, slots:],
    ratio=kept / slots,
  )
  return reduction.apply(plan, tokens.features)[:, :kept]


def zoo_prune(given: Given, kept: int) -> Array:
  """Chooses by what a projector does to the tokens, in float32."""
  return _zoo_prune(given, kept)


def zoo_prune_low_rank(given: Given, kept: int) -> Array:
  """The same, where one of rank 128 is moved."""
  return _zoo_prune(given, kept, probe=128)


def _zoo_prune(given: Given, kept: int, probe: int | None = None) -> Array:
  """Chooses by a projector, moved itself or one of lower rank."""
  whole = projector(given, dtype=jnp.float32)
  low = whole
  if probe is not None:
    low = projector(given, dtype=jnp.float32, rank=probe)
  if whole.is_initializing():
    low(given.rows)
    return whole(given.rows)

  def run(module: compressors.Projector) -> Any:
    alone, weights = module.unbind()  # A scan takes no bound module.
    return functools.partial(alone.apply, weights)

  pruner = before_llm.ZOOPrune(project=run(whole), probe=run(low), budget=kept)
  return pruner(Tokens.create(given.rows), Signals(rng=given.rng))[0].features
