"""Vision transformer (arXiv:2010.11929), a host for pruners.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, D
features, L layers, V classes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.errors import UserError
from tokpress_jax.models import sites
from tokpress_jax.nn import (
  Block,
  BlockConfig,
  Stack,
  StackConfig,
  norms,
  patches,
)
from tokpress_jax.nn import positions as positions_lib
from tokpress_jax.pruners import flops, reduction
from tokpress_jax.types import (
  SPECIAL,
  VISION,
  Array,
  Reduction,
  Signals,
  Tokens,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
  """A ViT classifier.

  Attributes:
    image_size: side of the square images.
    patch: side of a patch.
    channels: C.
    classes: V.
    width: D.
    depth: L.
    heads: attention heads.
    mlp_ratio: hidden features of the MLP over D.
    class_token: whether a class token leads the row (protected from pruning).
    pool: what the head reads: the class token, or the mean of the patches,
      each weighted by its mass.
    norm_eps: of the layer norms.
    dropout: rate on each branch in training.
    drop_path: rate at which the last layer's branches are dropped.
    remat: recompute activations in the backward pass.
    unroll: layers that a scan unrolls.
  """

  image_size: int = 224
  patch: int = 16
  channels: int = 3
  classes: int = 1000
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  class_token: bool = True
  pool: Literal['class', 'mean'] = 'class'
  norm_eps: float = 1e-6
  dropout: float = 0.0
  drop_path: float = 0.0
  remat: bool = False
  unroll: int = 1

  def __post_init__(self):
    patches.check_patch((self.image_size, self.image_size), self.patch)
    if self.pool == 'class' and not self.class_token:
      raise UserError(
        "pool='class' reads a class token that class_token=False leaves out; "
        "set pool='mean'"
      )

  @property
  def grid(self) -> int:
    """Patches along a side."""
    return self.image_size // self.patch

  @property
  def num_tokens(self) -> int:
    """Tokens at the embedding, the class token included."""
    return self.grid**2 + self.class_token

  @property
  def stack(self) -> StackConfig:
    """The tower's config."""
    block = BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      norm_eps=self.norm_eps,
      dropout=self.dropout,
      drop_path=self.drop_path,
    )
    return StackConfig(
      depth=self.depth, block=block, remat=self.remat, unroll=self.unroll
    )

  def build(self, *, dtype: Any = jnp.float32) -> ViT:
    """Makes the module."""
    return ViT(self, dtype=dtype)


# Published sizes; DeiT's are the same. Parameters with 1,000 classes.
PRESETS = {
  'vit-ti16': ViTConfig(width=192, heads=3),  # 5,717,416
  'vit-s16': ViTConfig(width=384, heads=6),  # 22,050,664
  'vit-b16': ViTConfig(),  # 86,567,656
  'vit-l16': ViTConfig(width=1024, depth=24, heads=16),  # 304,326,632
  'vit-h14': ViTConfig(width=1280, depth=32, heads=16, patch=14),  # 632,045,800
}


@struct.dataclass
class ViTOutput:
  """What a ViT returns; what is not used is not computed under `jit`.

  Attributes:
    logits: float32 [B, V].
    tokens: the last layer's, normed.
    reductions: what each pruner decided, in order.
    sites: static, where.
  """

  logits: Array
  tokens: Tokens
  reductions: tuple[Reduction, ...]
  sites: tuple[str, ...] = struct.field(pytree_node=False)


class ViT(nn.Module):
  """Patches, learned positions, pre-norm blocks, a norm and a linear head."""

  config: ViTConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.embedding = nn.Dense(c.width, dtype=self.dtype)
    if c.class_token:
      self.class_token = self.param(
        'class_token', nn.initializers.normal(0.02), (c.width,)
      )
    self.positions = positions_lib.LearnedPositions(
      c.num_tokens, c.width, dtype=self.dtype
    )
    self.stack = Stack(c.stack, dtype=self.dtype)
    self.norm = norms.LayerNorm(eps=c.norm_eps, dtype=self.dtype)
    self.head = nn.Dense(
      c.classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32
    )

  def embed(self, images: Array) -> Tokens:
    """Turns images into tokens.

    Args:
      images: float [B, H, W, C] in [-1, 1].

    Returns:
      Tokens with their (row, column) as positions; the class token, if there is
      one, is first and protected, at (-1, -1).

    Raises:
      UserError: if the images have another size than the config.
    """
    c = self.config
    size = (c.image_size, c.image_size, c.channels)
    if images.shape[1:] != size:
      raise UserError(
        f'this ViT takes images of {size}, got {images.shape[1:]}; resize '
        'them, or set image_size and channels in its config'
      )
    batch = images.shape[0]
    x = patches.patchify(images.astype(self.dtype), c.patch)
    x = self.embedding(x.reshape(batch, -1, x.shape[-1]))
    where = positions_lib.grid_positions(c.grid, c.grid)
    if c.class_token:
      first = self.class_token.astype(x.dtype)[None, None]
      first = jnp.broadcast_to(first, (batch, 1, c.width))
      x = jnp.concatenate([first, x], axis=1)
      where = np.concatenate([np.full((1, 2), -1, np.int32), where])
    special = np.arange(c.num_tokens) < int(c.class_token)
    rows = lambda a: jnp.broadcast_to(jnp.asarray(a)[None], (batch, *a.shape))
    return Tokens.create(
      x + self.positions()[None],
      positions=rows(where),
      kind=rows(np.where(special, SPECIAL, VISION)),
      protected=rows(special),
      num_protected=int(c.class_token),
      grids=((1, c.grid, c.grid),),
    )

  def __call__(
    self,
    images: Array,
    *,
    plan: sites.Plan = (),
    rng: Array | None = None,
    proportional: bool = True,
    deterministic: bool = True,
  ) -> ViTOutput:
    """Classifies images, pruning on the way.

    Layers between two pruning points run as one scan.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      plan: (site, pruner) pairs, static.
      rng: a typed key, or one per row, for pruners that need one.
      proportional: whether merged keys weigh by their mass in attention (ToMe
        turns it off for MAE weights used as they are).
      deterministic: no dropout if True; else an rng 'dropout' is needed.

    Returns:
      Logits, tokens and what the pruners decided.

    Raises:
      UserError: if the images or the plan do not fit.
    """
    c = self.config
    if self.is_initializing():
      plan = ()  # parameters do not depend on it
    gives = frozenset({'pixels'} | ({'rng'} if rng is not None else set()))
    layers = sites.parse_plan(plan, c.depth, gives=gives)
    shared = Signals(pixels=images, rng=_row_keys(rng, images.shape[0]))
    tokens = self.embed(images)
    _, pairs = layers.pop(-1, ((), ()))
    tokens, _, done = _prune(pairs, tokens, shared, ())

    start = 0
    for layer in [*sorted(layers), c.depth]:
      if start < layer:
        x, _ = self.stack(
          tokens.features,
          **_mask_and_bias(tokens, done, proportional),
          deterministic=deterministic,
          segment=(start, layer),
        )
        tokens = dataclasses.replace(tokens, features=x)
      if layer < c.depth:
        middle, end = layers[layer]
        tokens, done = self._pruned_block(
          layer, middle, end, tokens, done, shared, proportional, deterministic
        )
        pairs = (*pairs, *middle, *end)
      start = layer + 1

    tokens = dataclasses.replace(tokens, features=self.norm(tokens.features))
    return ViTOutput(
      logits=self.head(self._pool(tokens).astype(jnp.float32)),
      tokens=tokens,
      reductions=done,
      sites=tuple(site for site, _ in pairs),
    )

  def _pruned_block(
    self, layer, middle, end, tokens, done, shared, proportional, deterministic
  ):
    """Runs one layer by its parts, with pruners after each."""
    c = self.config
    needs = frozenset().union(*(pruner.needs for _, pruner in middle + end))
    rate = c.drop_path * layer / max(c.depth - 1, 1)
    drop = {'drop': rate, 'deterministic': deterministic}

    def body(block, tokens, done):
      x = tokens.features
      q, k, v = block.attn.project(block.pre_attention(x, {}))
      signals = sites.layer_signals(
        tokens, q, k, scale=block.attn.logit_scale, needs=needs, shared=shared
      )
      x, _ = block.attend(
        x,
        {},
        projected=(q, k, v),
        **_mask_and_bias(tokens, done, proportional),
        **drop,
      )
      tokens = dataclasses.replace(tokens, features=x)
      tokens, signals, done = _prune(middle, tokens, signals, done)
      x = block.feed(tokens.features, {}, **drop)
      tokens = dataclasses.replace(tokens, features=x)
      tokens, _, done = _prune(end, tokens, signals, done)
      return tokens, done

    block = Block(c.stack.block, dtype=self.dtype, parent=None)
    rngs = {} if deterministic else {'dropout': self.make_rng('dropout')}
    run = lambda params, tokens, done: block.apply(
      {'params': params}, tokens, done, method=body, rngs=rngs
    )
    if c.remat:
      run = jax.checkpoint(run)
    layers: Any = self.stack.get_variable('params', 'layers')
    if not isinstance(layers, list | tuple):
      layers = {layer: jax.tree.map(lambda a: a[layer], layers)}
    return run(layers[layer], tokens, done)

  def _pool(self, tokens: Tokens) -> Array:
    """What the head reads, [B, D]."""
    if self.config.pool == 'class':
      return tokens.features[:, 0]  # protected tokens stay first
    weight = jnp.where(tokens.kind == VISION, tokens.mass, 0)[..., None]
    total = jnp.sum(tokens.features.astype(jnp.float32) * weight, axis=1)
    return total / jnp.sum(weight, axis=1)


def _prune(
  pairs: sites.Plan,
  tokens: Tokens,
  signals: Signals,
  done: tuple[Reduction, ...],
) -> tuple[Tokens, Signals, tuple[Reduction, ...]]:
  """Lets the pruners of a site act, and moves the layer's signals along."""
  for _, pruner in pairs:
    given = signals
    if signals.rng is not None:  # a draw of its own for each pruner
      fold = lambda key, n=len(done): jax.random.fold_in(key, n)
      given = dataclasses.replace(signals, rng=jax.vmap(fold)(signals.rng))
    state = done[-1].state if done else None
    tokens, result = pruner(tokens, given, state)
    signals = reduction.reduce_signals(signals, result)
    done = (*done, result)
  return tokens, signals, done


def _mask_and_bias(
  tokens: Tokens, done: tuple[Reduction, ...], proportional: bool
) -> dict[str, Any]:
  """What attention has to know about pruned tokens; nothing before that."""
  found: dict[str, Any] = {}
  if done:
    found['mask'] = tokens.valid[:, None, None, :]
  if done and proportional:
    found['bias'] = reduction.log_mass_bias(tokens)
  return found


def _row_keys(rng: Array | None, batch: int) -> Array | None:
  """One key per row, of one key or as given."""
  if rng is None or rng.ndim == 1:
    return rng
  return jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(batch))


@functools.cache
def token_counts(
  config: ViTConfig, plan: sites.Plan = ()
) -> tuple[tuple[int, int], ...]:
  """Token slots of each layer under a plan, without running anything.

  Args:
    config: of the ViT.
    plan: (site, pruner) pairs.

  Returns:
    (slots in the attention, slots in the MLP) of each layer.
  """
  module = config.build()
  size = (1, config.image_size, config.image_size, config.channels)

  def run():
    images, key = jnp.zeros(size), jax.random.key(0)
    variables = module.init(key, images)
    return module.apply(variables, images, plan=plan, rng=key)

  out = jax.eval_shape(run)
  sizes = [r.index.shape[1] for r in out.reductions]
  # The last at each site.
  after: dict[str, int] = dict(zip(out.sites, sizes, strict=True))
  slots = after.get('embed', config.num_tokens)
  counts = []
  for i in range(config.depth):
    inner = after.get(f'block_{i}.after_attention', slots)
    counts.append((slots, inner))
    slots = after.get(f'block_{i}.after_mlp', inner)
  return tuple(counts)


def model_flops(config: ViTConfig, plan: sites.Plan = ()) -> int:
  """FLOPs of one image by the formula of `pruners.flops`."""
  return flops.model_flops(
    token_counts(config, plan),
    width=config.width,
    hidden=round(config.mlp_ratio * config.width),
  )
