"""Published settings on any tower: layers, budgets and steps that fit it.

Methods before a language model are published for CLIP ViT-L/14: 24 layers, of
which the last but one is read, and 576 patches. What they say of layers is
moved to a tower's own depth here, and nowhere else.
"""

from __future__ import annotations

import math
from typing import Any

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import budgets
from tokpress_jax.pruners.before_llm.aim import AIM
from tokpress_jax.pruners.before_llm.dart import DART
from tokpress_jax.pruners.before_llm.dycoke import DyCoke
from tokpress_jax.pruners.before_llm.globalcom2 import GlobalCom2
from tokpress_jax.pruners.before_llm.hiprune import HiPrune
from tokpress_jax.pruners.before_llm.mustdrop import MustDrop
from tokpress_jax.pruners.before_llm.prumerge import PruMergePlus
from tokpress_jax.pruners.before_llm.token_corr import TokenCorr
from tokpress_jax.pruners.before_llm.vtc_cls import VTCCLS
from tokpress_jax.types import Ratio


def layers_of(cls: Any, *, depth: int, layer: int = -2) -> dict[str, Any]:
  """Fields of a method that name layers, for a tower of another depth.

  The published third stays a third: HiPrune's anchors are of layer 8 of 24,
  VTC-CLS sums from layer -8, TokenCorr's local pass is of layer -8.

  Args:
    cls: of the pruner.
    depth: layers of the tower.
    layer: whose output is read, counted from the end.

  Returns:
    Name to value; empty for methods that name no layers.
  """
  third = depth // 3
  deep = layer if layer < 0 else layer - depth
  if cls is VTCCLS:
    return {'layers': tuple(range(min(-third, deep), deep + 1))}
  if cls is HiPrune:
    return {'middle': third, 'deep': deep}
  if cls is TokenCorr:
    return {'local': min(-third, deep), 'global_': deep}
  return {}


def at_budget(
  cls: Any,
  tokens: int,
  *,
  patches: int,
  depth: int,
  layer: int = -2,
  **fields: Any,
) -> Any:
  """A method that leaves so many tokens of an image, or as near as it can.

  How many PruMerge, Recoverable, TokenCorr and DTD leave depends on the image:
  for these it is the most, and DyCoke leaves this part of each frame that it
  compares. AIM halves: it leaves the most that is not above.
  MustDrop leaves at least one token of each window. PruMerge+ spaces four
  fifths of its tokens evenly, as published.

  Args:
    cls: of the pruner.
    tokens: to be left, beside the class token.
    patches: of a square image; with crops those of all of them.
    depth: layers of the tower.
    layer: see `layers_of`.
    **fields: others of the pruner.

  Returns:
    The pruner.

  Raises:
    UserError: if the number is none of the patches', the layer none of the
      tower's, or a field is unknown.
  """
  if not isinstance(cls, type):
    raise UserError(
      f'at_budget makes a method of its class, such as before_llm.VisionZip; '
      f'got {cls!r}'
    )
  if not 0 < tokens <= patches:
    raise UserError(
      f'{tokens} tokens cannot be left of {patches} patches; give 1 to '
      f'{patches}'
    )
  if depth < 1 or not -depth <= layer < depth:
    raise UserError(
      f'layer={layer} is none of {depth} layers; give the depth of the tower, '
      'and the layer that is read'
    )
  budget: budgets.Budget = tokens
  own = layers_of(cls, depth=depth, layer=layer)
  if cls is AIM:
    halvings = max(math.ceil(math.log2(patches / tokens)), 1)
    budget = Ratio(ratio=0.5**halvings)
  elif cls in (GlobalCom2, DyCoke):
    budget = Ratio(ratio=tokens / patches, rounding='floor')
  elif cls is PruMergePlus:
    own['step'] = math.ceil(1.25 * patches / tokens)
  elif cls is MustDrop:
    side = fields.get('window', MustDrop.window)
    budget = max(tokens, math.ceil(math.isqrt(patches) / side) ** 2)
  try:
    return cls(budget=budget, **{**own, **fields})
  except TypeError as error:
    raise UserError(f'{cls.__name__} cannot be made: {error}') from error


def reads_text(pruner: Any) -> bool:
  """Whether what a method keeps can depend on a text.

  Args:
    pruner: of which `needs` name a text or scores that are given, or DART by
      features, whose pivots may be words.
  """
  if isinstance(pruner, DART):
    return pruner.text_pivots > 0 and pruner.by == 'features'
  return bool(pruner.needs & {'text', 'importance'})
