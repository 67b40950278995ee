"""Pytrees that every family shares: tokens, reductions, codes, loaded models.

Dimension letters: B batch, N token slots, K kept slots, D features, P position
axes, J links of one token, Q codes of one token, T frames, H rows, W columns,
A heads.

Arrays that vary in length are padded to a static capacity and carry a boolean
`valid`; a length is never a Python-dependent shape.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.errors import UserError

Array = jax.Array
Variables = Any  # Linen's dict of collections: {'params': ..., ...}

# Values of `Tokens.kind`.
TEXT, VISION, SPECIAL = 0, 1, 2


@struct.dataclass
class Tokens:
  """A row of tokens with everything a pruner may have to keep in step.

  Attributes:
    features: [B, N, D].
    positions: [B, N, P] coordinates in the source grid.
    valid: [B, N] bool; padding is False.
    mass: [B, N] float32, how many source tokens this one stands for; 0 where
      padded.
    kind: [B, N] int8, one of `TEXT`, `VISION`, `SPECIAL`.
    owner: [B, N] int32, which image, crop or frame; -1 where padded.
    protected: [B, N] bool, never dropped or merged away.
    source_count: [B] int32, valid tokens before any reduction.
    grids: static (T, H, W) of each owner.
    source_slots: static, token slots before any reduction.
    placed: static, whether positions of several crops are those in the whole
      image (`pruners.place_crops`).
    num_protected: static, the most protected slots that a row may have. They
      are kept on top of a budget, which counts the others only.
  """

  features: Array
  positions: Array
  valid: Array
  mass: Array
  kind: Array
  owner: Array
  protected: Array
  source_count: Array
  grids: tuple[tuple[int, int, int], ...] = struct.field(
    pytree_node=False, default=()
  )
  source_slots: int = struct.field(pytree_node=False, default=0)
  num_protected: int = struct.field(pytree_node=False, default=0)
  placed: bool = struct.field(pytree_node=False, default=False)

  @classmethod
  def create(
    cls,
    features: Array,
    *,
    positions: Array | None = None,
    valid: Array | None = None,
    kind: Array | None = None,
    owner: Array | None = None,
    protected: Array | None = None,
    num_protected: int | None = None,
    grids: tuple[tuple[int, int, int], ...] = (),
  ) -> Tokens:
    """Fills in what is not given: one owner, all vision, nothing protected.

    Args:
      features: [B, N, D].
      positions: [B, N, P]; the slot number as [B, N, 1] if not given.
      valid: [B, N] bool; all True if not given.
      kind: [B, N]; `VISION` if not given.
      owner: [B, N]; 0 if not given.
      protected: [B, N] bool; all False if not given.
      num_protected: the most protected slots in a row; counted if `protected`
        is concrete, needed if it is traced. Padding is counted too, so that it
        is the same (and nothing compiles again) whatever the rows' lengths:
        give the number where padding is marked as protected.
      grids: (T, H, W) of each owner.

    Returns:
      Tokens with mass 1 where valid and 0 elsewhere.

    Raises:
      UserError: if `num_protected` is needed.
    """
    if num_protected is None:
      if isinstance(protected, jax.core.Tracer):
        raise UserError(
          'protected is traced, so its static shape is unknown: give '
          'num_protected, the most protected slots that a row may have'
        )
      num_protected = 0
      if protected is not None:
        num_protected = int(jax.device_get(protected).sum(axis=1).max())
    features = jnp.asarray(features)
    shape = features.shape[:2]
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(shape[1])[:, None], (*shape, 1))
    if valid is None:
      valid = jnp.ones(shape, bool)
    if kind is None:
      kind = jnp.full(shape, VISION, jnp.int8)
    if owner is None:
      owner = jnp.zeros(shape, jnp.int32)
    if protected is None:
      protected = jnp.zeros(shape, bool)
    valid = jnp.asarray(valid)
    return cls(
      features=features,
      positions=jnp.asarray(positions),
      valid=valid,
      mass=valid.astype(jnp.float32),
      kind=jnp.asarray(kind, jnp.int8),
      owner=jnp.where(valid, owner, -1),
      protected=protected & valid,
      source_count=valid.sum(axis=1, dtype=jnp.int32),
      grids=grids,
      source_slots=shape[1],
      num_protected=num_protected,
    )


@dataclasses.dataclass(frozen=True, order=True)
class Tap:
  """A signal of one layer, for a pruner that stands behind the layers.

  Attributes:
    signal: a field of `Signals` that layers give.
    layer: counted from 0, or from the end if negative.
  """

  signal: str
  layer: int


@struct.dataclass
class Signals:
  """What a score may read; a host fills in only what its pruner `needs`.

  Each field has one definition. "The layer" is the block at whose site the
  pruner stands.

  Attributes:
    keys: [B, A, N, D] attention keys of the layer, before any rotation.
    queries: [B, A, N, D] attention queries, before any rotation.
    attention_row: [B, A, N] attention probabilities (after the softmax) of the
      class or last token as the query, in the layer.
    attention_logits: [B, A, N] what the softmax of `attention_row` is of: the
      scaled products, without the bias of masses.
    attention_column: [B, A, N] attention probabilities summed over all valid
      queries, in the layer.
    before: [B, N, D] features that entered the layer.
    importance: [B, N] scores that a user brings, of a trained selector (higher
      is kept).
    text: [B, M, D] text embeddings in the space of the features.
    text_valid: [B, M] bool.
    pixels: [B, H, W, C] float32 image in [-1, 1].
    rng: [B] typed keys, one for each row, so that what is drawn for a row does
      not depend on the rest of its batch.
    taps: signals of other layers, for pruners that have `Tap`s among their
      `needs`.
  """

  keys: Array | None = None
  queries: Array | None = None
  attention_row: Array | None = None
  attention_logits: Array | None = None
  attention_column: Array | None = None
  before: Array | None = None
  importance: Array | None = None
  text: Array | None = None
  text_valid: Array | None = None
  pixels: Array | None = None
  rng: Array | None = None
  taps: dict[Tap, Array] = struct.field(default_factory=dict)

  def get(self, need: str | Tap) -> Array | None:
    """Gives a signal or a tap; None if the host did not."""
    return self.taps.get(need) if isinstance(need, Tap) else getattr(self, need)


@struct.dataclass
class OneHot:
  """Each source token goes to one kept slot.

  Attributes:
    target: [B, N] int32, the kept slot; -1 is dropped.
    merged: static, the most tokens of a row that join another's slot: 0 for
      pure pruning (applying is then a gather), None if unknown. If it is given,
      each valid slot's representative belongs to that slot.
  """

  target: Array
  merged: int | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class Sparse:
  """Each source token goes to J slots: `target`, `weight` [B, N, J]."""

  target: Array
  weight: Array


@struct.dataclass
class Dense:
  """The whole matrix, `matrix` [B, K, N]."""

  matrix: Array


@struct.dataclass
class Reduction:
  """What a pruner decided, before anything is moved.

  Attributes:
    index: [B, K] int32, the representative source slot of each kept slot.
    valid: [B, K] bool.
    assign: how the N source slots map onto the K kept ones: one matrix
      M[K, N] in one of three encodings (pruning has one-hot rows).
    positions: [B, K, P] after the pruner's position policy.
    state: what the pruner carries on, over layers or frames.
    mass_share: [B, N] float32, the part of each source's mass that its slots
      take over (DiffRate); None is all of it.
  """

  index: Array
  valid: Array
  assign: OneHot | Sparse | Dense
  positions: Array
  state: Any = None
  mass_share: Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
  """A budget as a fraction of a number of tokens.

  Attributes:
    ratio: kept fraction, in (0, 1].
    of: 'current' tokens at the site, or the 'original' ones at the embedding.
    rounding: how a fraction of a token is rounded.
    minimum: the fewest tokens that are kept.
  """

  ratio: float
  of: Literal['original', 'current'] = 'current'
  rounding: Literal['floor', 'round', 'ceil'] = 'round'
  minimum: int = 1

  def __post_init__(self):
    causes = []
    if not 0 < self.ratio <= 1:
      causes.append(
        f'a ratio must lie in (0, 1], got {self.ratio}; 0.25 keeps a quarter'
      )
    for name, known in (
      ('of', ('original', 'current')),
      ('rounding', ('floor', 'round', 'ceil')),
    ):
      if (given := getattr(self, name)) not in known:
        causes.append(f'{name}={given!r} is not one of {known}')
    if self.minimum < 1:
      causes.append(f'minimum={self.minimum} keeps nothing; give 1 or more')
    if causes:
      raise UserError('; '.join(causes))


@struct.dataclass
class Encoded:
  """An image as tokens: what `encode` returns and `decode` takes.

  Attributes:
    codes: int32 [B, N, Q], or None for continuous tokens.
    embeddings: [B, N, D] what the decoder reads, or None (looked up then).
    valid: [B, N] bool: the tokens that count; the rest is padding.
    length: int32 [B], number of valid tokens.
    positions: int32 [B, N, 1], the slot that each was encoded in; None where
      the tokens lie in their slots.
    image_size: int32 [B, 2], rows and columns of the image before fitting.
  """

  codes: Array | None
  embeddings: Array | None
  valid: Array
  length: Array
  positions: Array | None
  image_size: Array

  def first(self, length: Array | int) -> Encoded:
    """The first tokens alone: `length` int32 [B], or one number for all."""
    length = jnp.asarray(length, jnp.int32)
    length = jnp.broadcast_to(length, self.length.shape)
    slots = jnp.arange(self.valid.shape[-1])
    slots = slots.reshape((1,) * length.ndim + (-1,))
    return dataclasses.replace(
      self, length=length, valid=slots < length[..., None]
    )

  def __repr__(self) -> str:
    """Shapes, and the lengths where they are known."""
    shape = lambda x: list(x.shape) if hasattr(x, 'shape') else x
    length: Any = shape(self.length)
    traced = isinstance(self.length, jax.core.Tracer)
    if isinstance(self.length, jax.Array | np.ndarray) and not traced:
      length = np.array2string(np.asarray(self.length), threshold=16)
    return (
      f'Encoded(codes {shape(self.codes)}, embeddings '
      f'{shape(self.embeddings)}, length {length})'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """What a loaded model is.

  Attributes:
    name: its registry name.
    family: 'tokenizer', 'generator', 'model', 'encoder' (of texts),
      'compressor' or 'reader' (of a tower's tokens).
    config: the frozen config that built it.
    source: the directory or hub name it came from.
    licence: of the weights.
  """

  name: str
  family: str
  config: Any
  source: str = ''
  licence: str = ''


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['variables', 'tokenizer'],
  meta_fields=['module', 'spec'],
)
@dataclasses.dataclass(frozen=True)
class Loaded:
  """A module with its variables: a pytree, usable inside `jit`.

  Every public method of the module is here with the variables bound:
  `loaded.encode(x)` is `loaded.module.apply(loaded.variables, x,
  method='encode')`.

  Attributes:
    module: the Linen module (static).
    variables: its variables.
    spec: what it is (static).
    tokenizer: the tokenizer of a generator, or None.
  """

  module: Any
  variables: Variables
  spec: Spec
  tokenizer: Loaded | None = None

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Applies the module."""
    return self.module.apply(self.variables, *args, **kwargs)

  def __getattr__(self, name: str) -> Any:
    """Gives a method of the module with the variables bound."""
    if name.startswith('_') or name in ('module', 'variables', 'spec'):
      raise AttributeError(name)
    member = getattr(type(self.module), name, None)
    if isinstance(member, property):
      return getattr(self.module, name)
    if not callable(member):
      raise AttributeError(
        f'{type(self.module).__name__} has no method {name!r}'
      )
    bound = functools.partial(self.module.apply, self.variables, method=name)
    return functools.update_wrapper(bound, member)

  def __dir__(self) -> list[str]:
    """The fields, and the module's own public methods."""
    shown = lambda value: callable(value) or isinstance(value, property)
    own = [
      name
      for cls in type(self.module).__mro__
      if cls.__module__.startswith('tokpress_jax')
      for name in vars(cls)
      if not name.startswith('_') and name not in ('setup', 'dtype')
      if shown(getattr(cls, name, None))
    ]
    return sorted({*super().__dir__(), *own})

  def __repr__(self) -> str:
    """One line: name, family, parameters, licence."""
    count = sum(x.size for x in jax.tree.leaves(self.variables))
    inside = ' with its tokenizer' if self.tokenizer is not None else ''
    return (
      f'Loaded({self.spec.name or type(self.module).__name__}, '
      f'{self.spec.family}, {count:,} numbers{inside}, licence: '
      f'{self.spec.licence or "not stated"})'
    )
