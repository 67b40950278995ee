"""Scale-wise generators: all tokens of a scale at once, coarse to fine.

VAR (Tian et al., "Visual Autoregressive Modeling", arXiv 2404.02905) and MVAR
(Zhang et al., "MVAR: Visual Autoregressive Modeling with Scale and Spatial
Markovian Conditioning", arXiv 2505.12742), which have the same parameters and
differ in who attends to whom:

  order       `blocks` of the scales
  visibility  VAR: `causal_blocks` in training, an exact cache in sampling;
              MVAR: `windowed_blocks`, and no cache
  inputs      the tokenizer's up-sampled sum, a class token at the start
  commit      VAR: `append`; MVAR: `nothing`
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
import numpy as np

from tokpress_jax import errors, nn
from tokpress_jax.generators import (
  base,
  commit,
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
    sees: 'earlier': a scale attends to itself and all before (VAR); 'own': to
      itself, and knows the past through its inputs alone (MVAR).
    kernels: with 'own', side of each scale's neighbourhood of keys, None for
      the whole scale; () for whole scales throughout. MVAR's last two have 7.
  """

  scales: tuple[int | tuple[int, int], ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
  latent_dim: int = 32
  qk_norm: Literal['l2'] | None = 'l2'
  modulation: Literal['block', 'shared'] = 'block'
  gate_init: float = 1e-3
  sees: Literal['earlier', 'own'] = 'earlier'
  kernels: tuple[int | None, ...] = ()

  def __post_init__(self):
    if not self.scales:
      raise errors.UserError('scales is empty; give at least one, as (1, 2, 4)')
    if self.kernels and self.sees == 'earlier':
      raise errors.UserError(
        f"kernels={self.kernels} needs sees='own': a neighbourhood is within "
        'one scale'
      )

  @property
  def grids(self) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each scale."""
    return tuple((s, s) if isinstance(s, int) else s for s in self.scales)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Tokens of each scale."""
    return tuple(h * w for h, w in self.grids)

  @property
  def passes(self) -> tuple[tuple[int, int], ...]:
    """Scales [first, last) of each training pass.

    One for all, except that scales with a neighbourhood have their own (MVAR,
    section 3.3): no attention matrix then spans scales that do not see each
    other.
    """
    windows = [k for k, side in enumerate(self.kernels) if side is not None]
    whole = min(windows, default=len(self.scales))
    alone = tuple((k, k + 1) for k in range(whole, len(self.scales)))
    return (((0, whole),) if whole else ()) + alone

  def mask(self, first: int, last: int) -> np.ndarray:
    """Who attends to whom in scales [first, last), bool [T, T]."""
    if self.sees == 'earlier':
      rank = orders.blocks(self.sizes[:last]).rank
      return np.asarray(visibility.causal_blocks(rank))
    kernels = self.kernels or (None,) * len(self.scales)
    return visibility.windowed_blocks(
      self.grids[first:last], kernels[first:last]
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
    if tuple(tokenizer.scales) != self.grids:
      raise errors.UserError(
        f'the generator has scales {self.grids}, its tokenizer '
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
      latent_dim=tokenizer.latent_dim,
    )

  def train_inputs(
    self,
    codes: Array,
    tokenizer: base.Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Array:
    """The tokenizer's `next_inputs`."""
    del rng, step
    return tokenizer('next_inputs', codes)

  def example_inputs(self) -> tuple[Array, Array]:
    """See `GeneratorConfig`."""
    later = self.num_tokens - self.sizes[0]
    return jnp.zeros((1, later, self.latent_dim)), jnp.zeros((1,), jnp.int32)

  def build(self, *, dtype: Any = jnp.float32) -> ScaleWiseGenerator:
    """Makes the module.

    Raises:
      ValueError: if the kernels are not one for each scale that fits into it;
        checked here, since `fit_to` takes the scales from the tokenizer.
    """
    if self.kernels and len(self.kernels) != len(self.scales):
      raise errors.UserError(
        f'{len(self.scales)} scales {self.scales} need as many kernels (None '
        f'for a whole scale), got {len(self.kernels)}'
      )
    for grid, kernel in zip(self.grids, self.kernels, strict=False):
      if kernel is not None:
        visibility.window(grid, kernel)  # raises if it does not fit
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
    self,
    next_inputs: Array,
    labels: Array,
    *,
    scales: tuple[int, int] | None = None,
    deterministic: bool = True,
  ) -> Array:
    """The training pass: many scales at once, teacher-forced.

    Args:
      next_inputs: [B, L - n_1, C], the tokenizer's `next_inputs` of the codes.
      labels: int [B] in 0 ... K; K is no class.
      scales: [first, last) to predict, one of `config.passes`; all in one pass
        if None. A pass that starts later needs `sees='own'`.
      deterministic: if False, labels and branches are dropped with the rng
        'dropout'.

    Returns:
      float32 logits [B, T, V] of the T tokens of those scales.
    """
    c = self.config
    first, last = scales or (0, len(c.sizes))
    expected = (c.num_tokens - c.sizes[0], c.latent_dim)
    if next_inputs.shape[1:] != expected:
      raise ValueError(
        f'expected next_inputs [B, {expected[0]}, {expected[1]}], the '
        "tokenizer's `next_inputs` of all codes [B, L, 1]; got "
        f'{list(next_inputs.shape)}'
      )
    if first and c.sees == 'earlier':
      raise errors.UserError(
        f'scales {(first, last)} attend to earlier ones, so a pass must start '
        "with the first; only sees='own' trains scales apart"
      )
    start, end = c.boundaries[first] - c.sizes[first], c.boundaries[last - 1]
    cond = self.class_embed(labels, deterministic=deterministic)
    skip = c.sizes[0]
    latents = next_inputs[:, max(start - skip, 0) : end - skip]
    x = self.latent_embed(latents.astype(self.dtype))
    if not first:
      x = inputs.started(self._start(cond), x)
    level = orders.blocks(c.sizes).rank[start:end]
    x = x + (self.positions(slice(start, end)) + self.levels(level))[None]
    x, _ = self.stack(
      x,
      cond=self._block_condition(cond),
      mask=jnp.asarray(c.mask(first, last))[None, None],
      deterministic=deterministic,
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
  ) -> base.Drawn:
    """Draws the codes of the first scales; see `drawing.sample`.

    Args:
      labels: int [B].
      rng: a typed key.
      sampler: how codes are drawn; its guidance rises over all S scales.
      tokenizer: `Loaded`, or anything with `lookup`, `mix`, `accumulate`,
        `scales` and `latent_dim`.
      num_tokens: a scale's end; all scales if None.
      forced: int32 [B, L] codes to keep, -1 where one is to be drawn.

    Returns:
      Codes [B, num_tokens], and the summed map after each scale.
    """
    c = self.config
    batch = labels.shape[0]
    num_scales = c.boundaries.index(num_tokens or c.num_tokens) + 1
    guidance = sampler.weights(len(c.sizes))
    if guidance is not None:
      labels = c.with_null(labels)
    cond = self.class_embed(labels)
    mod = self.modulation(cond)
    capacity = c.boundaries[num_scales - 1]
    cache = self.empty_cache(labels.shape[0], capacity)
    draw_noise = lambda rng: sampling.token_gumbel(
      rng, batch, jnp.arange(capacity), c.codebook_size
    )
    noise = draw_noise(rng)
    if sampler.smooth:
      mixing_noise = draw_noise(jax.random.fold_in(rng, 1))
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
      x, cache = self.run_scale(x + place[None], k, mod=mod, cache=cache)
      logits = self.head(x, cond)
      if guidance is not None:
        logits = sampling.guide_halves(logits, guidance[k])
      here = slice(block.start, end)
      codes = sampler.draw(logits, noise[:, here])
      codes = base.forced_codes(forced, codes, block.start)
      embeddings = tokenizer.lookup(codes[..., None], k)
      if sampler.smooth:
        ratio = k / max(len(c.sizes) - 1, 1)
        weights = sampler.mixture(logits, mixing_noise[:, here], ratio)
        kept = base.is_forced(forced, codes, block.start)
        embeddings = jnp.where(
          kept[..., None], embeddings, tokenizer.mix(weights, k)
        )
      state = tokenizer.accumulate(total, embeddings, k)
      return state, cache, (codes, state[0])

    loop = loops.BlockLoop(
      sizes=c.sizes[:num_scales],
      commit=commit.nothing if cache is None else commit.append,
    )
    _, _, drawn = loop(step, (total, None), cache)
    codes, totals = zip(*drawn, strict=True)
    return base.Drawn(codes=jnp.concatenate(codes, axis=1), totals=totals)

  def empty_cache(self, batch: int, capacity: int) -> Any:
    """Makes the stack's cache; None if a scale sees itself alone."""
    if self.config.sees == 'own':
      return None
    return self.stack.empty_cache(batch, capacity)

  def modulation(self, cond: Array) -> Any:
    """What a class [B, D] does in every block; see `nn.Stack.modulation`."""
    return self.stack.modulation(self._block_condition(cond))

  def run_scale(
    self, x: Array, scale: int, *, mod: Any, cache: Any
  ) -> tuple[Array, Any]:
    """Runs the blocks on the tokens of one scale, the earlier ones cached.

    Args:
      x: [B, n, D].
      scale: which, from 0.
      mod: of `modulation`.
      cache: of `empty_cache`, with the scales before.

    Returns:
      [B, n, D] and the cache with this scale.
    """
    c = self.config
    end = c.boundaries[scale]
    window = bool(c.kernels) and c.kernels[scale] is not None
    mask = c.mask(scale, scale + 1)[None, None] if window else None
    return self.stack(
      x,
      mod=mod,
      mask=None if mask is None else jnp.asarray(mask),
      cache=cache,
      start=end - c.sizes[scale],
      visible=end,
    )

  def _start(self, cond: Array) -> Array:
    """Inputs of the first scale, [B, n_1, D]."""
    return cond[:, None] + self.start()[None]

  def _block_condition(self, cond: Array) -> Array:
    """What each block makes its modulation of; see `nn.Block.modulation`."""
    if self.config.modulation == 'block':
      return cond
    six = self.shared_ada(linen.silu(cond))
    return six.reshape(cond.shape[0], 6, self.config.width)
