"""FlexAR: a text or a class to FlexTok's ordered tokens, one by one.

Bachmann et al., "FlexTok: Resampling Images into 1D Token Sequences of Flexible
Length" (2025, arXiv 2502.13967), section 4.3; weights were published with
"(1D) Ordered Tokens Enable Efficient Test-Time Search" (2026, arXiv
2604.15453). A causal transformer over a row of codes reads a text by
cross-attention, every prefix of what it draws is an image. Composed of parts:

  order       `raster`, a learned start
  visibility  causal, and the text
  inputs      shifted tokens with learned positions
  commit      `append`
  head        categorical

The models of classes have no cross-attention: they are `NextTokenConfig`s,
whose table of classes holds the start with each class added (`flexar_keys`).
Their official sampler writes class 0 over "no class" after the first step, so
that it guides away from class 0; here no class stays no class.

A text's features are those of a text encoder that is not part of this library
(FLAN-T5-XL's last layer, 2,048 features a token, padded): give them as
`generators.text(features, valid=..., null_features=..., null_valid=...)`, the
empty text's as the null. Nothing is read of `pooled` and `score`.

Dimension letters: B batch, N tokens, M tokens of a text, F features of one, D
model features, V codes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import errors, nn
from tokpress_jax.generators import (
  base,
  heads,
  inputs,
  loops,
  sampling,
  visibility,
)
from tokpress_jax.generators import order as orders
from tokpress_jax.generators.condition import Text

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexARConfig(base.RowConfig):
  """A causal generator of ordered tokens under a text.

  `class_dropout` is the share of texts dropped in training, and `num_classes`
  must be 0.

  Attributes:
    text_features: F.
    activation: of the MLP, see `nn.BlockConfig`.
    norm: 'rms' or 'layer'.
    norm_eps: of the norms.
    norm_affine: whether norms have parameters.
    bias: of the projections and the MLP, see `nn.BlockConfig`.
    qk_norm: of queries and keys, or None.
  """

  reads_text: ClassVar[bool] = True

  codebook_size: int = 64_000
  num_classes: int = 0
  text_features: int = 2048
  width: int = 768
  depth: int = 12
  heads: int = 12
  activation: nn.Activation = 'swiglu'
  mlp_ratio: float = 8 / 3
  norm: Literal['layer', 'rms'] = 'layer'
  norm_eps: float = 1e-6
  norm_affine: bool = True
  bias: Literal['all', 'none', 'nowhere'] = 'nowhere'
  qk_norm: Literal['layer', 'rms', 'standard'] | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.num_classes:
      raise errors.UserError(
        'this generator draws texts, not classes: num_classes is 0, got '
        f'{self.num_classes}; for classes take NextTokenConfig'
      )
    if self.dropout or self.drop_path:
      raise errors.UserError(
        'this generator drops texts alone: dropout and drop_path are 0, got '
        f'{self.dropout} and {self.drop_path}'
      )

  @property
  def block(self) -> nn.BlockConfig:
    """The transformer block, around its cross-attention."""
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
    )

  def check_condition(self, condition: Any) -> Text:
    """See `GeneratorConfig`; a `Text`."""
    if not isinstance(condition, Text):
      raise errors.UserError(
        'this generator draws texts: give the features of a text encoder as '
        f'generators.text(...) in place of labels, got '
        f'{type(condition).__name__}'
      )
    condition.check(self.text_features)
    return condition

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

  def example_inputs(self) -> tuple[Any, Any]:
    """See `GeneratorConfig`."""
    codes, _ = super().example_inputs()
    tokens = jnp.zeros((1, 1, self.text_features))
    whole = tokens[:, 0]
    text = Text(
      features=tokens,
      pooled=whole,
      null_features=tokens,
      null_pooled=whole,
      score=jnp.zeros((1,)),
    )
    return codes, text

  def build(self, *, dtype: Any = jnp.float32) -> FlexAR:
    """Makes the module."""
    return FlexAR(self, dtype=dtype)


class FlexAR(linen.Module):
  """Predicts a row of codes from left to right, and from a text."""

  config: FlexARConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    dense = lambda n: linen.Dense(n, use_bias=False, dtype=self.dtype)
    self.token_embed = linen.Embed(
      c.codebook_size,
      c.width,
      dtype=self.dtype,
      embedding_init=linen.initializers.truncated_normal((3 * c.width) ** -0.5),
    )
    self.start = nn.LearnedPositions(1, c.width, dtype=self.dtype)
    self.place = nn.LearnedPositions(c.tokens, c.width, dtype=self.dtype)
    self.text_hidden, self.text_out = dense(c.text_features), dense(c.width)
    self.stack = nn.CrossStack(
      nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat),
      dtype=self.dtype,
    )
    self.head = heads.CategoricalHead(
      c.codebook_size, c.width, norm=c.norm, eps=c.norm_eps, dtype=self.dtype
    )

  def __call__(
    self, codes: Array, text: Text, *, deterministic: bool = True
  ) -> Array:
    """The training pass: all tokens at once, teacher-forced.

    Args:
      codes: int32 [B, n], n at most N.
      text: of B rows.
      deterministic: if False, texts are dropped with the rng 'dropout'.

    Returns:
      float32 logits [B, n, V].

    Raises:
      ValueError: if there are more than N codes.
    """
    c = self.config
    batch, length = codes.shape
    c.check_length(length)
    if not deterministic and c.class_dropout:
      text = text.dropped(self.make_rng('dropout'), c.class_dropout)
    x = inputs.shifted(self._starts(batch), self.token_embed(codes))
    x = x + self.place(slice(length))[None]
    mask = visibility.causal_blocks(orders.raster(length).rank)[None, None]
    x, _ = self.stack(x, self.read(text), memory_mask=text.valid, mask=mask)
    return self.head(x)

  def read(self, text: Text) -> Any:
    """Keys and values of texts in every layer, see `nn.CrossStack.memory`."""
    x = self.text_hidden(text.features.astype(self.dtype))
    return self.stack.memory(self.text_out(linen.gelu(x, approximate=True)))

  def sample_codes(
    self,
    condition: Text,
    *,
    rng: Array,
    sampler: sampling.Sampler,
    tokenizer: Any = None,
    num_tokens: int | None = None,
    forced: Array | None = None,
  ) -> base.Drawn:
    """Draws codes; see `drawing.sample`.

    Args:
      condition: texts, of B rows.
      rng: a typed key.
      sampler: how codes are drawn.
      tokenizer: not read.
      num_tokens: how many; N if None.
      forced: int32 [B, N] codes to keep, -1 where one is to be drawn.

    Returns:
      Codes [B, num_tokens].
    """
    del tokenizer
    steps = num_tokens or self.config.tokens
    guidance = sampler.weights(steps)
    text = condition if guidance is None else condition.with_null()
    options: dict[str, Any] = {'rng': rng, 'sampler': sampler}
    options |= {'guidance': guidance, 'forced': forced}
    read = self.read(text)
    cache = self.stack.empty_cache(text.batch, steps)

    def step(x, cache, block):
      i = block.index
      x, cache = self.stack(
        x + self.place(i[None])[None],
        read,
        memory_mask=text.valid,
        mask=(jnp.arange(steps) <= i)[None, None, None],
        cache=cache,
        start=i,
      )
      codes = base.draw_slot(self.head(x), i, **options)
      x = self.token_embed(codes)
      x = x if guidance is None else jnp.concatenate([x, x])
      return x, cache, codes

    loop = loops.BlockLoop(sizes=(1,) * steps, unroll=False)
    _, _, codes = loop(step, self._starts(text.batch), cache)  # [steps, B, 1]
    return base.Drawn(codes=codes[..., 0].T)

  def _starts(self, batch: int) -> Array:
    """The learned start for each row, [B, 1, D]."""
    return jnp.broadcast_to(self.start()[None], (batch, 1, self.config.width))
