"""Masked generators: all tokens at once, of which the surest are kept.

Chang et al., "MaskGIT" (arXiv 2202.04200); TiTok's generators (Yu et al., arXiv
2406.07550, section 4) are the same over a row of tokens. A network that sees
everything predicts every masked token, and each of a few steps keeps those that
it is surest of. Composed of parts:

  order       by confidence, `RefineLoop`
  visibility  all
  inputs      a mask token in place of each unknown one, after the class token
  commit      none
  head        categorical

The network is BERT (norms after the branches, Devlin et al. 1810.04805) or
U-ViT (Bao et al. 2209.12152: the second half of the layers also reads what the
first half gave).

Dimension letters: B batch, N tokens, T tokens with the class token, D model
features, V codes, K classes, S steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import errors, nn
from tokpress_jax.generators import base, condition, refine, rows
from tokpress_jax.generators import order as orders
from tokpress_jax.nn import products

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskGITConfig(refine.MaskedConfig):
  """A generator that refines a masked row of codes.

  Attributes:
    network: 'bert' or 'uvit'.
    confidence: what says how sure a drawn code is: its 'logit' (TiTok) or its
      'log_probability' (MaskGIT).
    norm_eps: of the norms; 1e-12 in TiTok's BERT, 1e-5 in its U-ViT.
  """

  network: Literal['bert', 'uvit'] = 'bert'
  confidence: refine.Confidence = 'logit'
  norm_eps: float = 1e-12

  def __post_init__(self):
    super().__post_init__()
    if self.network == 'uvit' and self.depth % 2 == 0:
      raise errors.UserError(
        'a U-ViT has a middle layer and as many before as after it: give an '
        f'odd depth, got {self.depth}'
      )

  @property
  def block(self) -> nn.BlockConfig:
    """The transformer block."""
    bert = self.network == 'bert'
    return nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      norm_eps=self.norm_eps,
      norm_place='after' if bert else 'before',
      bias='all' if bert else 'none',
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
    """The codes, a random part of them masked; the loss is that of the part.

    Args:
      codes: int32 [B, N, 1].
      tokenizer: not read.
      rng: a typed key; as many are masked in a row as `schedule` says at a time
        drawn uniformly.
      step: not read.

    Returns:
      int32 [B, N], V where masked.
    """
    del tokenizer, step
    codes = codes[..., 0]
    batch, length = codes.shape
    masked = orders.random_mask(rng, batch, length, self.schedule)
    return jnp.where(masked, self.mask_code, codes)

  def counted(self, inputs: Array) -> Array:
    """See `GeneratorConfig`; the masked tokens."""
    return inputs == self.mask_code

  def build(self, *, dtype: Any = jnp.float32) -> MaskGIT:
    """Makes the module."""
    return MaskGIT(self, dtype=dtype)


class MaskGIT(rows.RowGenerator):
  """Predicts all codes of a row from those that are not masked."""

  config: MaskGITConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    init = linen.initializers.truncated_normal(0.02)
    norm = lambda: nn.LayerNorm(eps=c.norm_eps, dtype=self.dtype)
    self.class_embed = condition.ClassEmbedding(
      c.num_classes, c.width, c.class_dropout, dtype=self.dtype
    )
    self.token_embed = linen.Embed(
      c.codebook_size + 1, c.width, dtype=self.dtype, embedding_init=init
    )
    self.positions = nn.LearnedPositions(
      c.tokens + 1, c.width, 0.02, dtype=self.dtype
    )
    config = nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat)
    stack = nn.Stack if c.network == 'bert' else nn.UStack
    self.stack = stack(config, dtype=self.dtype)
    self.norm = norm()
    self.logits = products.Dense(
      c.codebook_size, dtype=jnp.float32, kernel_init=init
    )

  def __call__(
    self, codes: Array, labels: Array, *, deterministic: bool = True
  ) -> Array:
    """Predicts all codes.

    Args:
      codes: int32 [B, n], V where masked; n at most N.
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
    x = jnp.concatenate([start, self.token_embed(codes)], axis=1)
    x = x + self.positions(slice(length + 1))[None]
    if c.network == 'bert':
      x = self.norm(x)
    x, _ = self.stack(x, deterministic=deterministic)
    if c.network == 'uvit':
      x = self.norm(x)
    return self.logits(x[:, 1:].astype(jnp.float32))

  def draw_row(self, condition: Array, row: rows.Row) -> base.Drawn:
    """See `RowGenerator`."""
    c = self.config
    return refine.refine_codes(
      row,
      lambda seen: self(seen, condition),
      codebook_size=c.codebook_size,
      counts=c.counts(row, c.schedule),
      confidence=c.confidence,
    )
