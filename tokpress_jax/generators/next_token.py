"""Next-token generator over a row of tokens, any prefix of which is an image.

A GPT over a 1-D tokenizer's codes (LlamaGen's layout, Sun et al., arXiv
2406.06525, section 3.2), composed of parts:

  order       `raster`, the class token as the given start
  visibility  causal
  inputs      shifted tokens
  commit      `append`
  head        categorical

Dimension letters: B batch, N tokens, D model features, E head features, V
codes, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn
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
class NextTokenConfig(base.RowConfig):
  """A causal generator, one token a step.

  Attributes:
    positions: 'learned' table, or 'rotary'.
    activation: of the MLP, see `nn.BlockConfig`.
    norm: 'rms' or 'layer'.
    norm_eps: of the norms.
    norm_affine: whether the blocks' norms have parameters.
    bias: of the attention's projections, see `nn.BlockConfig`.
    qk_norm: of queries and keys, or None.
  """

  positions: Literal['learned', 'rotary'] = 'rotary'
  activation: nn.Activation = 'gelu'
  norm: Literal['layer', 'rms'] = 'rms'
  norm_eps: float = 1e-6
  norm_affine: bool = True
  bias: Literal['all', 'qv', 'none', 'nowhere'] = 'none'
  qk_norm: Literal['l2', 'layer', 'rms', 'standard'] | None = None

  @property
  def block(self) -> nn.BlockConfig:
    """The transformer block."""
    return nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation=self.activation,
      norm=self.norm,
      norm_eps=self.norm_eps,
      norm_affine=self.norm_affine,
      bias=self.bias,
      qk_norm=self.qk_norm,
      dropout=self.dropout,
      drop_path=self.drop_path,
    )

  def train_inputs(
    self,
    codes: Array,
    tokenizer: base.Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Array:
    """The codes themselves."""
    del tokenizer, rng, step
    return codes[..., 0]

  def build(self, *, dtype: Any = jnp.float32) -> NextTokenGenerator:
    """Makes the module."""
    return NextTokenGenerator(self, dtype=dtype)


class NextTokenGenerator(linen.Module):
  """Predicts a row of codes from left to right."""

  config: NextTokenConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.class_embed = condition.ClassEmbedding(
      c.num_classes, c.width, c.class_dropout, dtype=self.dtype
    )
    self.token_embed = linen.Embed(
      c.codebook_size,
      c.width,
      dtype=self.dtype,
      embedding_init=linen.initializers.truncated_normal((3 * c.width) ** -0.5),
    )
    if c.positions == 'learned':
      self.place = nn.LearnedPositions(c.tokens, c.width, dtype=self.dtype)
    self.stack = nn.Stack(
      nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat),
      dtype=self.dtype,
    )
    self.head = heads.CategoricalHead(
      c.codebook_size, c.width, norm=c.norm, eps=c.norm_eps, dtype=self.dtype
    )

  def __call__(
    self, codes: Array, labels: Array, *, deterministic: bool = True
  ) -> Array:
    """The training pass: all tokens at once, teacher-forced.

    Position i is predicted from the class and the codes before i, so whatever
    stands after an image's length changes nothing before it; mask its loss.

    Args:
      codes: int32 [B, n], n at most N.
      labels: int [B] in 0 ... K; K is no class.
      deterministic: if False, labels and branches are dropped with the rng
        'dropout'.

    Returns:
      float32 logits [B, n, V].

    Raises:
      ValueError: if there are more than N codes.
    """
    c = self.config
    length = codes.shape[1]
    c.check_length(length)
    start = self.class_embed(labels, deterministic=deterministic)[:, None]
    x = inputs.shifted(start, self.token_embed(codes))
    mask = visibility.causal_blocks(orders.raster(length).rank)[None, None]
    x, _ = self._run(
      x, jnp.arange(length), mask=mask, deterministic=deterministic
    )
    return self.head(x)

  def sample_codes(
    self,
    labels: Array,
    *,
    rng: Array,
    sampler: sampling.Sampler,
    tokenizer: Any = None,
    num_tokens: int | None = None,
    forced: Array | None = None,
  ) -> base.Drawn:
    """Draws codes; see `drawing.sample`.

    Args:
      labels: int [B].
      rng: a typed key.
      sampler: how codes are drawn.
      tokenizer: not read.
      num_tokens: how many; N if None.
      forced: int32 [B, N] codes to keep, -1 where one is to be drawn.

    Returns:
      Codes [B, num_tokens].
    """
    del tokenizer
    c = self.config
    steps = num_tokens or c.tokens
    guidance = sampler.weights(steps)
    if guidance is not None:
      labels = condition.with_null(labels, c.num_classes)
    options: dict[str, Any] = {'rng': rng, 'sampler': sampler}
    options |= {'guidance': guidance, 'forced': forced}
    cache = self.stack.empty_cache(labels.shape[0], steps)
    start = self.class_embed(labels)[:, None]

    def step(x, cache, block):
      i = block.index
      seen = (jnp.arange(steps) <= i)[None, None, None]
      x, cache = self._run(x, i[None], mask=seen, cache=cache, start=i)
      codes = base.draw_slot(self.head(x), i, **options)
      x = self.token_embed(codes)
      x = x if guidance is None else jnp.concatenate([x, x])
      return x, cache, codes

    loop = loops.BlockLoop(sizes=(1,) * steps, unroll=False)
    _, _, codes = loop(step, start, cache)  # [steps, B, 1]
    return base.Drawn(codes=codes[..., 0].T)

  def _run(self, x: Array, index: Array, **kwargs: Any) -> tuple[Array, Any]:
    """Adds the positions `index` [T] to x [B, T, D] and runs the stack."""
    c = self.config
    if c.positions == 'learned':
      return self.stack(x + self.place(index)[None], **kwargs)
    code = nn.rotation(index[:, None], c.block.attention.features)
    return self.stack(x, rotation=code, **kwargs)
