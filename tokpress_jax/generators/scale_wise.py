"""Scale-wise generator: all tokens of a scale at once, coarse to fine.

VAR (Tian et al., "Visual Autoregressive Modeling", arXiv 2404.02905), composed
of parts:

  order       `blocks` of the scales
  visibility  `causal_blocks` in training, an exact cache in sampling
  inputs      the tokenizer's up-sampled sum, a class token at the start
  commit      `append`
  head        categorical, modulated by the class

Dimension letters: B batch, L tokens of all scales, n tokens of one scale, S
scales, C features of the tokenizer's codes, D model features, V codes, K
classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import errors, nn
from tokpress_jax.generators import (
  base,
  condition,
  heads,
  inputs,
  loops,
  sampling,
  visibility,
)
from tokpress_jax.generators import order as orders

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleWiseConfig(base.GeneratorConfig):
  """A VAR-like generator. VAR-d has width 64 d, depth d and d heads.

  Attributes:
    scales: each scale's grid, a side or (rows, columns), as the tokenizer's.
    latent_dim: C.
    qk_norm: 'l2' (VAR) or None.
    modulation: 'block': adaLN parameters in each block; 'shared': one linear
      layer for all, with an offset in each block (VAR-d36).
    gate_init: size of the blocks' gates at the start, relative to a usual draw.
  """

  scales: tuple[int | tuple[int, int], ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  latent_dim: int = 32
  qk_norm: Literal['l2'] | None = 'l2'
  modulation: Literal['block', 'shared'] = 'block'
  gate_init: float = 1e-3

  def __post_init__(self):
    if not self.scales:
      raise errors.UserError('scales is empty; give at least one, as (1, 2, 4)')

  @property
  def sizes(self) -> tuple[int, ...]:
    """Tokens of each scale."""
    return tuple(
      s * s if isinstance(s, int) else s[0] * s[1] for s in self.scales
    )

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The scales' ends."""
    return tuple(sum(self.sizes[: k + 1]) for k in range(len(self.sizes)))

  @property
  def block(self) -> nn.BlockConfig:
    """The transformer block."""
    return nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation='gelu_tanh',
      norm_affine=False,
      bias='qv',
      qk_norm=self.qk_norm,
      modulation=self.modulation,
      gate_init=self.gate_init,
      dropout=self.dropout,
      drop_path=self.drop_path,
    )

  def check_tokenizer(self, tokenizer: Any) -> None:
    """See `GeneratorConfig`; grids and code features are compared too."""
    super().check_tokenizer(tokenizer)
    grids = tuple((s, s) if isinstance(s, int) else s for s in self.scales)
    if tuple(tokenizer.scales) != grids:
      raise errors.UserError(
        f'the generator has scales {grids}, its tokenizer '
        f'{tuple(tokenizer.scales)}'
      )
    if tokenizer.latent_dim != self.latent_dim:
      raise errors.UserError(
        f'the generator reads {self.latent_dim} features of a code '
        f'(latent_dim), its tokenizer has {tokenizer.latent_dim}'
      )

  def fit_to(self, tokenizer: Any) -> ScaleWiseConfig:
    """See `GeneratorConfig`."""
    if not hasattr(tokenizer, 'scales'):
      raise errors.UserError(
        'a scale-wise generator reads a multi-scale tokenizer, this one is '
        f'{type(tokenizer).__name__}; train one such as '
        'configs/multi_scale_digits.py'
      )
    return dataclasses.replace(
      self,
      codebook_size=tokenizer.codebook_size,
      scales=tuple(tokenizer.scales),
      latent_dim=tokenizer.quantizer.dim,
    )

  def train_inputs(self, codes: Array, tokenizer: base.Tokenizing) -> Array:
    """The tokenizer's `next_inputs`."""
    return tokenizer('next_inputs', codes)

  def example_inputs(self) -> tuple[Array, Array]:
    """See `GeneratorConfig`."""
    later = self.num_tokens - self.sizes[0]
    return jnp.zeros((1, later, self.latent_dim)), jnp.zeros((1,), jnp.int32)

  def build(self, *, dtype: Any = jnp.float32) -> ScaleWiseGenerator:
    """Makes the module."""
    return ScaleWiseGenerator(self, dtype=dtype)


class ScaleWiseGenerator(linen.Module):
  """Predicts the codes of a multi-scale tokenizer, scale by scale."""

  config: ScaleWiseConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    std = (3 * c.width) ** -0.5
    table = lambda n: nn.LearnedPositions(n, c.width, std, dtype=self.dtype)
    init = linen.initializers.truncated_normal(std)
    self.class_embed = condition.ClassEmbedding(
      c.num_classes, c.width, c.class_dropout, dtype=self.dtype
    )
    self.start = table(c.sizes[0])
    self.positions = table(c.num_tokens)
    self.levels = table(len(c.sizes))
    self.latent_embed = linen.Dense(c.width, dtype=self.dtype, kernel_init=init)
    if c.modulation == 'shared':
      self.shared_ada = linen.Dense(
        6 * c.width, dtype=self.dtype, kernel_init=init
      )
    self.stack = nn.Stack(
      nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat),
      dtype=self.dtype,
    )
    self.head = heads.CategoricalHead(
      c.codebook_size, c.width, dtype=self.dtype
    )

  def __call__(
    self, next_inputs: Array, labels: Array, *, deterministic: bool = True
  ) -> Array:
    """The training pass: all scales at once, teacher-forced.

    Args:
      next_inputs: [B, L - n_1, C], the tokenizer's `next_inputs` of the codes.
      labels: int [B] in 0 ... K; K is no class.
      deterministic: if False, labels and branches are dropped with the rng
        'dropout'.

    Returns:
      float32 logits [B, L, V].
    """
    c = self.config
    order = orders.blocks(c.sizes)
    cond = self.class_embed(labels, deterministic=deterministic)
    x = self.latent_embed(next_inputs.astype(self.dtype))
    x = inputs.started(self._start(cond), x)
    x = x + (self.positions() + self.levels(order.rank))[None]
    mask = jnp.asarray(visibility.causal_blocks(order.rank))[None, None]
    x, _ = self.stack(
      x, cond=self._modulation(cond), mask=mask, deterministic=deterministic
    )
    return self.head(x, cond)

  def sample_codes(
    self,
    labels: Array,
    *,
    rng: Array,
    sampler: sampling.Sampler,
    tokenizer: Any,
    num_tokens: int | None = None,
    forced: Array | None = None,
  ) -> Array:
    """Draws the codes of the first scales; see `base.sample`.

    Args:
      labels: int [B].
      rng: a typed key.
      sampler: how codes are drawn; its guidance rises over all S scales.
      tokenizer: `Loaded`, or anything with `accumulate`, `scales` and
        `latent_dim`.
      num_tokens: a scale's end; all scales if None.
      forced: int32 [B, L] codes to keep, -1 where one is to be drawn.

    Returns:
      int32 [B, num_tokens].
    """
    c = self.config
    batch = labels.shape[0]
    num_scales = c.boundaries.index(num_tokens or c.num_tokens) + 1
    guidance = sampler.weights(len(c.sizes))
    if guidance is not None:
      labels = condition.with_null(labels, c.num_classes)
    cond = self.class_embed(labels)
    modulation = self._modulation(cond)
    capacity = c.boundaries[num_scales - 1]
    cache = self.stack.empty_cache(labels.shape[0], capacity)
    noise = sampling.token_gumbel(
      rng, batch, jnp.arange(capacity), c.codebook_size
    )
    total = jnp.zeros((batch, *tokenizer.scales[-1], tokenizer.latent_dim))

    def step(state, cache, block):
      total, latents = state
      k, end = block.index, block.start + block.size
      if k == 0:
        x = self._start(cond)
      else:
        x = self.latent_embed(latents.astype(self.dtype))
        x = x if guidance is None else jnp.concatenate([x, x])
      place = self.positions(slice(block.start, end)) + self.levels(
        slice(k, k + 1)
      )
      x, cache = self.stack(
        x + place[None],
        cond=modulation,
        cache=cache,
        start=block.start,
        visible=end,
      )
      logits = self.head(x, cond)
      if guidance is not None:
        with_class, without = jnp.split(logits, 2)
        logits = sampling.guide(with_class, without, guidance[k])
      codes = sampler.draw(logits, noise[:, block.start : end])
      codes = base.forced_codes(forced, codes, block.start)
      state = tokenizer.accumulate(total, codes[..., None], k)
      return state, cache, codes

    loop = loops.BlockLoop(sizes=c.sizes[:num_scales])
    _, _, codes = loop(step, (total, None), cache)
    return jnp.concatenate(codes, axis=1)

  def _start(self, cond: Array) -> Array:
    """Inputs of the first scale, [B, n_1, D]."""
    return cond[:, None] + self.start()[None]

  def _modulation(self, cond: Array) -> Array:
    """What the blocks are modulated by; see `nn.Block.modulation`."""
    if self.config.modulation == 'block':
      return cond
    six = self.shared_ada(linen.silu(cond))
    return six.reshape(cond.shape[0], 6, self.config.width)
