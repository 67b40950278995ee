"""Vision transformer (arXiv:2010.11929), a host for pruners.

One tower for ViT, DeiT (arXiv:2012.12877), CLIP's image encoder (arXiv:
2103.00020) and SigLIP's (arXiv:2303.15343), which differ in the tokens that
lead the row, in norms, in activations and in what is read off the end.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, D
features, L layers, P projected features, V classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.models import masked, observing, sites, tower
from tokpress_jax.models.attention_pool import AttentionPool
from tokpress_jax.models.vit_config import ViTConfig
from tokpress_jax.nn import (
  Implementation,
  Stack,
  norms,
  patches,
)
from tokpress_jax.nn import positions as positions_lib
from tokpress_jax.pruners import checks
from tokpress_jax.pruners.base import Needs
from tokpress_jax.pruners.inside_vit import learned_rates
from tokpress_jax.types import (
  SPECIAL,
  VISION,
  Array,
  Reduction,
  Signals,
  Tokens,
)


@struct.dataclass
class ViTOutput:
  """What a ViT returns; what is not used is not computed under `jit`.

  Attributes:
    logits: float32 [B, V]; V is 0 without a classifier.
    pooled: float32 [B, P], or [B, D] without a projection: what stands for the
      whole image.
    tokens: the last layer's, normed.
    hidden: tokens after the layers that were asked for, as they go from layer
      to layer: not normed.
    reductions: what each pruner decided, in order.
    sites: static, where.
  """

  logits: Array
  pooled: Array
  tokens: Tokens
  hidden: tuple[Tokens, ...]
  reductions: tuple[Reduction, ...]
  sites: tuple[str, ...] = struct.field(pytree_node=False)


class ViT(nn.Module):
  """Patches, learned positions, pre-norm blocks, a norm and a head.

  Attributes:
    config: its shape.
    dtype: of the matmuls.
    implementation: of attention, see `nn.dot_product_attention`; that of merged
      tokens, weighed by their mass, too.
  """

  config: ViTConfig
  dtype: Any = jnp.float32
  implementation: Implementation = 'xla'

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.embedding = nn.Dense(c.width, use_bias=c.patch_bias, dtype=self.dtype)
    token = lambda name: self.param(
      name, nn.initializers.normal(0.02), (c.width,)
    )
    if c.class_token:
      self.class_token = token('class_token')
    if c.distillation_token:
      self.distillation_token = token('distillation_token')
    self.positions = positions_lib.LearnedPositions(
      c.num_tokens, c.width, dtype=self.dtype
    )
    norm = lambda: norms.LayerNorm(eps=c.norm_eps, dtype=self.dtype)
    if c.norm_first:
      self.norm_first = norm()
    self.stack = Stack(
      c.stack, dtype=self.dtype, implementation=self.implementation
    )
    self.norm = norm()
    if c.pool == 'attention':
      self.pool = AttentionPool(c.stack.block, dtype=self.dtype)
    if c.features:
      self.project = nn.Dense(c.features, use_bias=False, dtype=self.dtype)
    classifier = lambda: nn.Dense(
      c.classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32
    )
    if c.classes:
      self.head = classifier()
    if c.pool == 'distilled':
      self.distillation_head = classifier()

  def embed(self, images: Array) -> Tokens:
    """Turns images into tokens.

    Args:
      images: float [B, H, W, C] in [-1, 1].

    Returns:
      Tokens with their (row, column) as positions; class and distillation
      token, if there are, are first and protected, at (-1, -1).

    Raises:
      UserError: if the images have another size than the config, are whole
        numbers, or (outside of `jit`) hold NaN.
    """
    checks.refuse('this ViT', self._image_causes(images))
    return self._tokens(images)

  def _tokens(self, images: Array) -> Tokens:
    """`embed` of images that were looked at."""
    c = self.config
    batch, side = images.shape[0], c.grid * c.patch
    x = _standardise(images[:, :side, :side], c.mean, c.std)
    x = patches.patchify(x.astype(self.dtype), c.patch)
    x = self.embedding(x.reshape(batch, -1, x.shape[-1]))
    leading = [self.class_token] if c.class_token else []
    leading += [self.distillation_token] if c.distillation_token else []
    if leading:
      first = jnp.stack(leading).astype(x.dtype)[None]
      first = jnp.broadcast_to(first, (batch, *first.shape[1:]))
      x = jnp.concatenate([first, x], axis=1)
    x = x + self.positions()[None]
    if c.norm_first:
      x = self.norm_first(x)
    nowhere = np.full((c.num_special, 2), -1, np.int32)
    grid = positions_lib.grid_positions(c.grid, c.grid)
    special = np.arange(c.num_tokens) < c.num_special
    rows = lambda a: jnp.broadcast_to(jnp.asarray(a)[None], (batch, *a.shape))
    return Tokens.create(
      x,
      positions=rows(np.concatenate([nowhere, grid])),
      kind=rows(np.where(special, SPECIAL, VISION)),
      protected=rows(special),
      num_protected=c.num_special,
      grids=((1, c.grid, c.grid),),
    )

  def _image_causes(self, images: Array) -> list[str]:
    """Says why images are none of this ViT's, if so."""
    c = self.config
    size = (c.image_size, c.image_size, c.channels)
    shape = getattr(images, 'shape', None)
    causes = arrays.pixel_causes(images)
    if shape is not None and (len(shape) != 4 or shape[1:] != size):
      causes.append(
        f'this ViT takes images of {size}, as [B, H, W, C], got '
        f'{shape}; resize them, or set image_size and channels in its '
        'config'
      )
    return causes

  def __call__(
    self,
    images: Array,
    *,
    plan: sites.Plan | None = None,
    rng: Array | None = None,
    proportional: bool = True,
    deterministic: bool = True,
    hidden: tuple[int, ...] = (),
  ) -> ViTOutput:
    """Encodes and classifies images, pruning on the way.

    Layers between two pruning points run as one scan.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      plan: (site, pruner) pairs, static; None takes the config's, () none.
      rng: a typed key, or one per row, for pruners that need one.
      proportional: whether merged keys weigh by their mass in attention (ToMe
        turns it off for MAE weights used as they are).
      deterministic: no dropout if True; else an rng 'dropout' is needed.
      hidden: numbers of layers after which the tokens are wanted too, static:
        0 is what enters the first layer, -1 what leaves the last, -2 what
        LLaVA reads of CLIP (its last layer is then not computed under `jit`).

    Returns:
      Logits, tokens and what the pruners decided.

    Raises:
      UserError: if the images, the plan or `hidden` do not fit.
    """
    c = self.config
    if plan is None:
      plan = c.pairs
    if self.is_initializing():
      plan = ()  # parameters do not depend on it
    causes = self._image_causes(images)
    causes += arrays.key_causes(rng, _rows(images))
    causes += tower.hidden_causes(hidden, c.depth)
    given = frozenset() if rng is None else frozenset({'rng'})
    layers = c.layers(plan, given, causes=causes)
    settings = tower.Settings(
      shared=Signals(pixels=images, rng=tower.row_keys(rng, images.shape[0])),
      proportional=proportional,
      deterministic=deterministic,
    )
    state = tower.TowerState(tokens=self._tokens(images))
    ends = lambda layer: layers.get(layer, ((), ()))[1]
    state, _ = tower.prune(ends(-1), state, settings.shared)
    needs = frozenset().union(*(p.needs for _, p in ends(c.depth)))
    taps, counted = sites.taps_of(needs, c.depth, gives=c.block_gives)
    state, found = tower.run(
      self.stack, state, layers, settings, hidden=hidden, taps=taps
    )
    tokens = state.tokens
    tokens = dataclasses.replace(tokens, features=self.norm(tokens.features))
    state = dataclasses.replace(state, tokens=tokens)
    signals = dataclasses.replace(
      settings.shared, taps={t: state.taps[own] for t, own in counted.items()}
    )
    state, _ = tower.prune(ends(c.depth), state, signals)
    pooled, logits = self._read(state.tokens, proportional)
    return ViTOutput(
      logits=logits,
      pooled=pooled,
      tokens=state.tokens,
      hidden=found,
      reductions=state.reductions,
      sites=state.sites,
    )

  def observe(
    self,
    images: Array,
    *,
    needs: Needs = frozenset(),
    layer: int = -2,
    special: Literal['drop', 'keep'] = 'drop',
    rng: Array | None = None,
  ) -> tuple[Tokens, Signals]:
    """Gives what a language model reads, and what pruners before it ask for.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      needs: of the pruners, static: names, of the layer that is read, and
        `Tap`s of any layers. Nothing else is computed. A text, or scores that
        are given, are none of a tower's: leave them out, and put them in by
        `signals.replace(text=..., text_valid=...)` or `importance=...`.
      layer: whose output is read, static, without the last norm: -2 is what
        LLaVA reads of CLIP, -1 the last.
      special: whether class and distillation token stay, protected. Signals are
        always those of all tokens: an attention's softmax counts them.
      rng: a typed key, or one per row, for pruners that need one.

    Returns:
      Tokens [B, N, D] and signals over the same N slots.

    Raises:
      UserError: if the images, the layer or a need do not fit.
    """
    causes = self._image_causes(images)
    causes += arrays.key_causes(rng, _rows(images))
    checks.refuse('this ViT', causes)
    if special not in ('drop', 'keep'):
      raise UserError(f"special is 'drop' or 'keep', got {special!r}")
    return observing.observe(
      self.stack,
      self._tokens(images),
      needs=needs,
      gives=self.config.block_gives,
      layer=layer,
      special=self.config.num_special if special == 'drop' else 0,
      shared=Signals(pixels=images, rng=tower.row_keys(rng, images.shape[0])),
    )

  def finish(
    self, tokens: Tokens, *, layer: int = -2, proportional: bool = True
  ) -> ViTOutput:
    """Goes on where `observe` stopped, with the tokens that were kept.

    The rest of the layers, the norm, the pooling and the projection: what the
    whole image is to this tower if later layers see nothing else of it.

    Args:
      tokens: of `observe` with the same layer and special='keep', or what a
        pruner left of them; masses weigh, padding is ignored.
      layer: whose output they are, static.
      proportional: see `__call__`.

    Returns:
      Logits, pooled features and normed tokens; no reductions.

    Raises:
      UserError: if the layer is not there, or the special tokens are gone.
    """
    c = self.config
    if c.num_special and tokens.num_protected < c.num_special:
      raise UserError(
        f'this ViT reads {c.num_special} special tokens, and of these tokens '
        f"{tokens.num_protected} are protected; observe with special='keep'"
      )
    tokens = observing.finish(
      self.stack, tokens, layer=layer, proportional=proportional
    )
    normed = self.norm(tokens.features)
    tokens = dataclasses.replace(tokens, features=normed)
    pooled, logits = self._read(tokens, proportional)
    return ViTOutput(
      logits=logits,
      pooled=pooled,
      tokens=tokens,
      hidden=(),
      reductions=(),
      sites=(),
    )

  def project_tokens(self, tokens: Tokens) -> Array:
    """Puts every token where pooled ones are, as if it stood for the image.

    The last norm, and the projection if there is one: of CLIP, patches in the
    space of its texts.

    Args:
      tokens: N slots of `observe`.

    Returns:
      float32 [B, N, P], or [B, N, D] without a projection.
    """
    x = self.norm(tokens.features)
    if self.config.features:
      x = self.project(x)
    return x.astype(jnp.float32)

  def masked(self, images: Array, step: masked.Step) -> Array:
    """Classifies images while masks stand for what would leave.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      step: see `models.masked`.

    Returns:
      Logits, float32 [B, V], with gradients to what `step` depends on.
    """
    if not self.config.class_token:
      raise UserError(
        'rates are learned from the attention of a class token, which this '
        'ViT has not; set class_token=True'
      )
    tokens = self.embed(images)
    ones = jnp.ones(tokens.valid.shape, jnp.float32)
    state = learned_rates.Masked(features=tokens.features, mass=ones, mask=ones)
    state = masked.run(self.stack, state, step)
    left = dataclasses.replace(
      tokens,
      features=self.norm(state.features),
      mass=state.mass * state.mask,
      valid=state.mask > 0.5,
    )
    return self._read(left, True)[1]

  def _read(self, tokens: Tokens, proportional: bool) -> tuple[Array, Array]:
    """Pooled features and logits of the last tokens."""
    c = self.config
    x = tokens.features
    if c.pool == 'attention':
      pooled = self.pool(tokens, proportional=proportional)
    elif c.pool == 'mean':
      weight = jnp.where(tokens.kind == VISION, tokens.mass, 0)[..., None]
      total = jnp.sum(x.astype(jnp.float32) * weight, axis=1)
      pooled = total / jnp.sum(weight, axis=1)
    else:
      pooled = x[:, 0]  # protected tokens stay first, in their order
    if c.features:
      pooled = self.project(pooled)
    pooled = pooled.astype(jnp.float32)
    if not c.classes:
      return pooled, jnp.zeros((x.shape[0], 0), jnp.float32)
    logits = self.head(pooled)
    if c.pool == 'distilled':
      other = self.distillation_head(x[:, 1].astype(jnp.float32))
      logits = (logits + other) / 2
    return pooled, logits


def _rows(images: Any) -> int:
  """B, of what may be no images."""
  return images.shape[0] if getattr(images, 'ndim', 0) else 0


def _standardise(
  images: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
  """Pixels in [-1, 1] as a tower wants them; nothing for means of a half."""
  if set(mean) == set(std) == {0.5}:
    return images
  # From [-1, 1] in one step: ((x + 1) / 2 - mean) / std.
  scale = 0.5 / np.asarray(std)
  shift = (0.5 - np.asarray(mean)) / np.asarray(std)
  wide = lambda a: jnp.asarray(np.float32(a)).reshape(1, 1, 1, -1)
  return images * wide(scale) + wide(shift)
