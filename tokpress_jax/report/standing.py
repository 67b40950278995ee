"""What each method before a language model is given of a tower.

Most read the patches of one layer. Some count the class token among them,
MustDrop stands behind the first layer, HiRED and GlobalCom2 read a thumbnail
and its crops. A text is one place in the space that CLIP projects images into.

Dimension letters: B batch, N token slots, H rows, W columns, C channels, D
features, P features that images share with texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import struct

from tokpress_jax import registry
from tokpress_jax.errors import UserError
from tokpress_jax.models import observing
from tokpress_jax.nn import resize as resize_lib
from tokpress_jax.pruners import before_llm, join_crops, place_crops, scores
from tokpress_jax.pruners.base import Needs
from tokpress_jax.types import (
  TEXT,
  Array,
  Loaded,
  Reduction,
  Signals,
  Tap,
  Tokens,
)

View = Literal['image', 'first', 'crops']
CROPS = (2, 2)  # rows and columns of crops beside the thumbnail
_NOT_OF_LAYERS = observing.GIVEN | {'rng', 'pixels'}
# Their softmax, or their budget, counts the class token; or it goes on with the
# patches, through the other layers.
_WITH_CLASS = (
  before_llm.MustDrop,
  before_llm.PruMerge,
  before_llm.Recoverable,
  before_llm.VisionZip,
)
_WITHOUT_TEXT = {
  before_llm.IDPruner: "without a text, the class token's attention scores",
  before_llm.Recoverable: 'without a text, attention alone brings patches back',
  before_llm.CATP: 'without a text it covers the image',
  before_llm.DART: 'without a text all pivots are patches',
}


@struct.dataclass
class Seen:
  """One view of images.

  Attributes:
    tokens: with class and distillation token, but for crops.
    signals: over the same N slots.
    joint: [B, N, P], the tokens in the space of texts; None without texts.
  """

  tokens: Tokens
  signals: Signals
  joint: Array | None = None


def reads_crops(cls: Any) -> bool:
  """Whether methods of a class read a thumbnail and its crops."""
  return issubclass(cls, before_llm.HiRED | before_llm.GlobalCom2)


def view_of(pruner: Any) -> View:
  """Which view of images a method reads."""
  if isinstance(pruner, before_llm.MustDrop):
    return 'first'
  return 'crops' if reads_crops(type(pruner)) else 'image'


def keeps_class(pruner: Any) -> bool:
  """Whether a method wants the class token beside the patches it reads."""
  return isinstance(pruner, _WITH_CLASS)


def note_of(pruner: Any) -> str:
  """What stands for a text where a method reads one and there is none."""
  return _WITHOUT_TEXT.get(type(pruner), '')


def check(
  pruners: Mapping[str, Any], config: Any, *, layer: int, texts: bool
) -> None:
  """Refuses methods that cannot stand on a tower.

  Args:
    pruners: name to method.
    config: of the ViT.
    layer: whose output is read.
    texts: whether there are texts.

  Raises:
    UserError: lists them with what they miss; or says which methods read texts,
      if none of these does.
  """
  causes = []
  for name, pruner in pruners.items():
    needs = _tower_needs(pruner, config)
    wrong = [n for n in needs if not _is_there(n, config)]
    if wrong:
      causes.append(f'{name} needs {", ".join(sorted(map(str, wrong)))}')
  if not -config.depth <= layer < config.depth:
    causes.append(f'layer {layer} is none of {config.depth}')
  if causes:
    raise UserError(
      f'this tower, of {config.depth} layers that give '
      f'{", ".join(sorted(config.block_gives))}, has not what these methods '
      'read:\n  ' + '\n  '.join(causes)
    )
  if not texts:
    return
  if not any(map(before_llm.reads_text, pruners.values())):
    raise UserError(
      f'a text for {", ".join(pruners)}, which take none; those that read one '
      f'are {", ".join(text_readers())}'
    )
  if not config.features:
    raise UserError(
      'this tower has no projection into a space of texts; take one of CLIP, '
      'such as clip-l14-336, or leave out the text'
    )


def observe(
  model: Loaded,
  images: Array,
  pruners: Sequence[Any],
  *,
  layer: int,
  texts: bool,
  rng: Array,
  detailed: Array | None = None,
) -> dict[View, Seen]:
  """Gives the views that methods read, with what they need.

  Args:
    model: a ViT.
    images: float [B, H, W, C].
    pruners: the methods.
    layer: whose output is read.
    texts: whether there are texts.
    rng: a typed key for each row.
    detailed: float [B, 2 H, 2 W, C]; `images`, enlarged, if None.

  Returns:
    View to what is seen.
  """
  config = model.module.config
  apply = lambda x, **kwargs: model.module.apply(
    model.variables, x, method='observe', **kwargs
  )
  needs: dict[View, Needs] = {}
  for pruner in pruners:
    view = view_of(pruner)
    needs[view] = needs.get(view, frozenset()) | _tower_needs(pruner, config)
  found: dict[View, Seen] = {}
  for view, asked in needs.items():
    at = 0 if view == 'first' else layer
    if view == 'crops':
      tokens, signals = apply(
        _crops(images, detailed),
        needs=asked,
        layer=at,
        rng=jnp.repeat(rng, 1 + CROPS[0] * CROPS[1]),
      )
      tokens, signals = join_crops(
        tokens, signals, crops=1 + CROPS[0] * CROPS[1]
      )
      layout = jnp.tile(jnp.array([CROPS], jnp.int32), (len(images), 1))
      found[view] = Seen(place_crops(tokens, layout=layout), signals)
      continue
    tokens, signals = apply(
      images, needs=asked, layer=at, special='keep', rng=rng
    )
    joint = None
    if texts and view == 'image':
      last, _ = apply(images, layer=-1, special='keep', rng=rng)
      joint = model.module.apply(model.variables, last, method='project_tokens')
    found[view] = Seen(tokens, signals, joint)
  return found


def leading(pruner: Any, config: Any, *, guided: bool) -> int:
  """Slots before the first patch in what `plan` gives."""
  keeps = keeps_class(pruner)
  word = guided and isinstance(pruner, before_llm.DART)
  return config.num_special * keeps + word


def plan(pruner: Any, seen: Seen, text: Array | None) -> Reduction:
  """Lets a method choose.

  Args:
    pruner: the method.
    seen: its view.
    text: float [B, P] of each image, or None.

  Returns:
    The reduction; see `leading` for the slots before the patches.
  """
  tokens, signals, joint = seen.tokens, seen.signals, seen.joint
  special = tokens.num_protected
  if special and not keeps_class(pruner):
    tokens, signals = observing.without_first(tokens, signals, special)
    joint = None if joint is None else joint[:, special:]
  is_dart = isinstance(pruner, before_llm.DART)
  if joint is not None and ('text' in pruner.needs or is_dart):
    # A text is compared with tokens of its own space.
    tokens = dataclasses.replace(tokens, features=joint)
  batch, _, width = tokens.features.shape
  given: dict[str, Any] = {}
  if 'text' in pruner.needs:
    nothing = jnp.zeros((batch, width), jnp.float32)
    given['text'] = (nothing if text is None else text)[:, None]
    given['text_valid'] = jnp.full((batch, 1), text is not None)
  if 'importance' in pruner.needs:
    given['importance'] = _importance(pruner, tokens, signals, joint, text)
  if text is not None and is_dart:
    tokens = _with_word(tokens, text)
    signals = Signals(rng=signals.rng)
  return pruner.plan(tokens, dataclasses.replace(signals, **given))


def _importance(
  pruner: Any,
  tokens: Tokens,
  signals: Signals,
  joint: Array | None,
  text: Array | None,
) -> Array:
  """Scores that are given: of the text, or what stands for it, [B, N]."""
  if text is not None:
    assert joint is not None
    there = jnp.ones((len(text), 1), bool)
    return scores.text_similarity(joint, text[:, None], text_valid=there)
  if isinstance(pruner, before_llm.Recoverable):
    return jnp.zeros(tokens.valid.shape, jnp.float32)
  if signals.attention_row is not None:
    return scores.attention_row(signals.attention_row)
  assert signals.attention_column is not None
  return scores.attention_column(signals.attention_column)


def _with_word(tokens: Tokens, text: Array) -> Tokens:
  """Tokens behind one protected word."""
  wide = lambda x, value: jnp.pad(
    x, [(0, 0), (1, 0)] + [(0, 0)] * (x.ndim - 2), constant_values=value
  )
  features = jnp.concatenate(
    [text[:, None].astype(tokens.features.dtype), tokens.features], axis=1
  )
  return dataclasses.replace(
    tokens,
    features=features,
    positions=wide(tokens.positions, -1),
    valid=wide(tokens.valid, True),
    mass=wide(tokens.mass, 1),
    kind=wide(tokens.kind, TEXT),
    owner=wide(tokens.owner, 0),
    protected=wide(tokens.protected, True),
    source_count=tokens.source_count + 1,
    source_slots=tokens.source_slots + 1,
    num_protected=tokens.num_protected + 1,
  )


def _crops(images: Array, detailed: Array | None) -> Array:
  """The thumbnail and the crops of each image, [5 B, H, W, C]."""
  batch, height, width, channels = images.shape
  rows, columns = CROPS
  size = rows * height, columns * width
  large = images if detailed is None else detailed
  if large.shape[1:3] != size:
    large = resize_lib.resize(large, size, method='bicubic')
  parts = large.reshape(batch, rows, height, columns, width, channels)
  parts = parts.swapaxes(2, 3).reshape(batch, -1, height, width, channels)
  every = jnp.concatenate([images[:, None], parts], axis=1)
  return every.reshape(-1, height, width, channels)


def _tower_needs(pruner: Any, config: Any) -> Needs:
  """What a tower has to compute, what stands for a text included."""
  needs = frozenset(pruner.needs) - _NOT_OF_LAYERS
  if 'importance' not in pruner.needs:
    return needs
  if isinstance(pruner, before_llm.Recoverable):
    return needs
  row = 'attention_row' if config.class_token else 'attention_column'
  return needs | {row}


def _is_there(need: str | Tap, config: Any) -> bool:
  if isinstance(need, Tap):
    inside = -config.depth <= need.layer < config.depth
    return inside and need.signal in config.block_gives
  return need in config.block_gives


def text_readers() -> list[str]:
  """Names of the methods that read a text."""
  return [
    entry.name
    for entry in registry.entries('pruner')
    if before_llm.reads_text(registry.resolve(entry.name)())
  ]


__all__ = [
  'CROPS',
  'Seen',
  'View',
  'check',
  'keeps_class',
  'leading',
  'note_of',
  'observe',
  'plan',
  'reads_crops',
  'text_readers',
  'view_of',
]
