"""What the bench of compressors draws: tokens, signals, a tower's output.

Dimension letters: B batch, N token slots of a row, G crops of a row, H rows and
W columns of a crop, T frames, D features of the tower, E of the language model,
J of several layers of the tower, M words, A heads, P position axes.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax.nn.positions import grid_positions
from tokpress_jax.pruners import base, crop_layouts, crops, random_inputs
from tokpress_jax.types import Array, Signals, Tap, Tokens

Kind = Literal['image', 'crops', 'video', 'space']
WORDS = 64
_HEADS, _LEVELS = 32, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
  """How the same number N of tokens lies, for methods that ask.

  Attributes:
    image: (H, W) of one grid.
    crops: (G, H, W), the thumbnail among the crops.
    layout: rows and columns of the crops that are no thumbnail.
    video: (T, H, W).
    tower: (G, H, W) of what learned compressors take, crops as rows.
  """

  image: tuple[int, int]
  crops: tuple[int, int, int]
  layout: tuple[int, int]
  video: tuple[int, int, int]
  tower: tuple[int, int, int]

  @property
  def slots(self) -> int:
    """N."""
    return self.image[0] * self.image[1]


SCENES = {
  576: Scene(  # LLaVA-1.5's
    image=(24, 24),
    crops=(4, 12, 12),
    layout=(1, 3),
    video=(4, 12, 12),
    tower=(1, 24, 24),
  ),
  2880: Scene(  # LLaVA-NeXT's
    image=(48, 60),
    crops=(5, 24, 24),
    layout=(2, 2),
    video=(20, 12, 12),
    tower=(5, 24, 24),
  ),
}


@struct.dataclass
class Given:
  """What learned compressors read.

  Attributes:
    crops: [B G, H W, D], of the tower's last layer but one.
    levels: [B G, H W, J], layers joined along the features.
    words: [B, M, E], the question's.
    question: [B, E], its embedding.
    guide: [B, D], its embedding in the space of the tower.
    attention: [B, A, M, N + M] probabilities of the words, which stand behind
      the tokens, in a layer of the language model.
    rng: [B] typed keys.
    scene: static.
  """

  crops: Array
  levels: Array
  words: Array
  question: Array
  guide: Array
  attention: Array
  rng: Array
  scene: Scene = struct.field(pytree_node=False)

  @property
  def grid(self) -> tuple[int, int]:
    """(H, W) of a crop."""
    return self.scene.tower[1:]

  @property
  def rows(self) -> Array:
    """All tokens of a row: [B, N, D]."""
    return self.joined(self.crops)

  def joined(self, x: Array) -> Array:
    """[B G, K, F] to [B, G K, F]."""
    return x.reshape(len(self.words), -1, x.shape[-1])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
  """Draws what the methods read; each array once.

  Attributes:
    scene: how the tokens lie.
    batch: B.
    width: E.
    tower: D.
    dtype: of tokens and features.
  """

  scene: Scene
  batch: int = 1
  width: int = 4096
  tower: int = 1024
  dtype: str = 'float32'

  @functools.cached_property
  def features(self) -> Array:
    """[B, N, E]."""
    return self._normal(0, self.scene.slots, self.width)

  def tokens(self, kind: Kind) -> Tokens:
    """Tokens of one image ('image'), or 'crops', 'video', 'space'."""
    if kind == 'crops':
      return self._crops()
    grid = self.scene.video if kind == 'video' else (1, *self.scene.image)
    if kind == 'space':
      at = jax.random.uniform(jax.random.key(1), (*self.features.shape[:2], 3))
    else:
      one = jnp.asarray(grid_positions(*grid))[:, int(kind != 'video') :]
      at = jnp.broadcast_to(one[None], (self.batch, *one.shape))
    return Tokens.create(self.features, positions=at, grids=(grid,))

  def _crops(self) -> Tokens:
    """A thumbnail and its crops in one row, and where they lie."""
    number, rows, columns = self.scene.crops
    x = self.features.reshape(self.batch * number, -1, self.width)
    at = jnp.asarray(grid_positions(rows, columns))
    apart = Tokens.create(
      x,
      positions=jnp.broadcast_to(at[None], (len(x), *at.shape)),
      grids=((1, rows, columns),),
    )
    layout = jnp.broadcast_to(
      jnp.asarray(self.scene.layout)[None], (self.batch, 2)
    )
    joined, _ = crops.join_crops(apart, crops=number)
    return crop_layouts.place_crops(joined, layout=layout)

  def signals(self, needs: base.Needs) -> Signals:
    """Random numbers in [0, 1) for each need."""
    shapes = random_inputs.signal_shapes(
      needs, self.scene.slots, batch=self.batch, width=self.width
    )
    for need, like in shapes.items():
      if need not in self._drawn:
        seed = zlib.crc32(str(need).encode())
        drawn = jax.random.uniform(jax.random.key(seed), like.shape)
        self._drawn[need] = drawn.astype(like.dtype)
    found = {need: self._drawn[need] for need in shapes}
    if 'rng' in needs:
      found['rng'] = self._keys
    return random_inputs.make_signals(found)

  @functools.cached_property
  def _drawn(self) -> dict[str | Tap, Array]:
    """Signals that a method asked for."""
    return {}

  @functools.cached_property
  def given(self) -> Given:
    """A tower's output, and what else learned compressors read."""
    number, rows, columns = self.scene.tower
    places = rows * columns
    draw = self._normal
    levels = draw(4, number * places, _LEVELS * self.tower)
    logits = draw(5, _HEADS, WORDS, self.scene.slots + WORDS)
    return Given(
      crops=draw(3, number * places, self.tower).reshape(
        -1, places, self.tower
      ),
      levels=levels.reshape(-1, places, _LEVELS * self.tower),
      words=draw(6, WORDS, self.width),
      question=draw(7, self.width),
      guide=draw(8, self.tower),
      attention=jax.nn.softmax(logits.astype(jnp.float32)),
      rng=self._keys,
      scene=self.scene,
    )

  @property
  def _keys(self) -> Array:
    return jax.random.split(jax.random.key(0), self.batch)

  def _normal(self, seed: int, *shape: int) -> Any:
    key = jax.random.key(seed)
    return jax.random.normal(key, (self.batch, *shape), self.dtype)
