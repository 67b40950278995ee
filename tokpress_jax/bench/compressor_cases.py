"""The table of what the bench of compressors times: a row for each method.

Dimension letters: B batch, K kept tokens of a row of N.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import registry
from tokpress_jax.bench import learned_cases as learned
from tokpress_jax.bench.compressor_inputs import Inputs, Kind, Scene
from tokpress_jax.bench.weights import redraw
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.nn.resize import resize
from tokpress_jax.pruners import base, before_llm
from tokpress_jax.types import Array, Ratio, Signals, Tokens

Program = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A method.

  Attributes:
    name: in the bench; in the registry too, if it is a registered pruner.
    public: what it uses of `pruners.compressors` or `pruners.before_llm`, if it
      is not registered.
    make: a pruner at K of a scene, or what is called like one; by default the
      registered class with a budget of K.
    tokens: what it takes, see `Inputs.tokens`.
    build: of a learned one, which takes a tower's output; see `learned_cases`.
  """

  name: str
  public: tuple[str, ...] = ()
  make: Callable[[int, Scene], Any] | None = None
  tokens: Kind = 'image'
  build: learned.Build | None = None

  def program(self, kept: int, inputs: Inputs) -> Program:
    """A function and its arguments.

    Args:
      kept: K, tokens of a row; the nearest number that the method can keep.
      inputs: of one scene.

    Returns:
      A function that gives `Tokens` or features, [B, K, E] or crops as rows.
    """
    if self.build is None:
      method = self._method(kept, inputs.scene)
      needs: base.Needs = getattr(method, 'needs', frozenset())
      return (
        lambda tokens, signals: method(tokens, signals)[0],
        (inputs.tokens(self.tokens), inputs.signals(needs)),
      )
    module = learned.Learned(self.build, kept)
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs.given)
    weights = jax.tree.map(
      lambda x: jnp.asarray(x, inputs.dtype), redraw(shapes, seed=0)
    )
    return module.apply, (weights, inputs.given)

  def _method(self, kept: int, scene: Scene) -> Any:
    if self.make is not None:
      return self.make(kept, scene)
    return registry.resolve(self.name)(budget=kept)


def _ratio(cls: Any) -> Callable[[int, Scene], Any]:
  """With a fraction as the budget."""
  return lambda kept, scene: cls(
    budget=Ratio(ratio=kept / scene.slots, rounding='round')
  )


def _aim(kept: int, scene: Scene) -> before_llm.AIM:
  """The fraction of 1/2, 1/4, 1/8, ... that is nearest."""
  n = scene.slots
  ratios = [(n / 2**i, 0.5**i) for i in range(1, int(math.log2(n)))]
  return before_llm.AIM(budget=Ratio(ratio=learned.nearest(kept, ratios)))


def _mustdrop(kept: int, scene: Scene) -> before_llm.MustDrop:
  """At least as many as there are windows."""
  rows, columns = (-(-n // 3) for n in scene.image)
  return before_llm.MustDrop(budget=max(kept, rows * columns))


def _prumerge_plus(kept: int, scene: Scene) -> before_llm.PruMergePlus:
  """Four of five tokens are spaced ones, as published."""
  step = max(round(scene.slots / (0.8 * kept)), 2)
  return before_llm.PruMergePlus(budget=kept, step=step)


def _downsample(kept: int, scene: Scene) -> Any:
  """Averages the grid to one of nearly its shape."""
  height, width = scene.image
  rows = max(round(math.sqrt(kept * height / width)), 1)
  grid = rows, max(round(kept / rows), 1)

  def pool(tokens: Tokens, signals: Signals) -> tuple[Array, None]:
    del signals
    x = tokens.features
    small = resize(x.reshape(len(x), height, width, -1), grid, method='area')
    return small.reshape(len(x), -1, x.shape[-1]), None

  return pool


CASES: dict[str, Case] = {
  case.name: case
  for case in (
    # Baselines.
    Case(name='random'),
    Case(name='stride'),
    Case(name='downsample', make=_downsample),
    Case(name='projector', public=('Projector',), build=learned.project),
    # Of one image, K exactly.
    Case(name='divprune'),
    Case(name='vtc_cls'),
    Case(name='hiprune'),
    Case(name='visionzip'),
    Case(name='prumerge'),
    Case(name='prumerge_plus', make=_prumerge_plus),
    Case(name='recoverable'),
    Case(name='scope'),
    Case(name='dart'),
    Case(name='vispruner'),
    Case(name='idpruner'),
    Case(name='todre'),
    Case(name='catp'),
    Case(name='token_corr'),
    Case(name='aim', make=_aim),
    Case(name='mustdrop', make=_mustdrop),
    Case(name='segpruner', tokens='space'),
    Case(name='zoo_prune', public=('ZOOPrune',), build=learned.zoo_prune),
    Case(name='zoo_prune_low_rank', build=learned.zoo_prune_low_rank),
    # Of a thumbnail and its crops, and of frames.
    Case(name='hired', tokens='crops'),
    Case(name='globalcom2', tokens='crops', make=_ratio(before_llm.GlobalCom2)),
    Case(name='dtd', tokens='video'),
    Case(name='dycoke', tokens='video', make=_ratio(before_llm.DyCoke)),
    Case(name='ppe', tokens='video'),
    # Learned; the projector is part of them.
    Case(name='m3_projector', public=('M3', 'nested_pool'), build=learned.m3),
    Case(name='mqt', public=('MQT',), build=learned.mqt),
    Case(
      name='token_packer', public=('TokenPacker',), build=learned.token_packer
    ),
    Case(name='token_flex', public=('TokenFLEX',), build=learned.token_flex),
    Case(name='quecc', public=('QueCC',), build=learned.quecc),
    Case(name='hicom_local', public=('HIComLocal',), build=learned.hicom_local),
    Case(
      name='hicom_global', public=('HIComGlobal',), build=learned.hicom_global
    ),
    Case(
      name='slime_resampler',
      public=('SliME', 'SliMEResampler'),
      build=learned.slime,
    ),
    Case(name='llavolta', public=('LLaVolta',), build=learned.llavolta),
    Case(
      name='mini_monkey',
      public=('scale_compression',),
      build=learned.mini_monkey,
    ),
  )
}


def find(name: str) -> Case:
  """A row of the table.

  Raises:
    UserError: if there is none; the nearest names are given.
  """
  if name not in CASES:
    raise UserError(
      f'There is no method {name!r} to time. {did_you_mean(name, CASES)}'
    )
  return CASES[name]
