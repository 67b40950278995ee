"""Text to image over few tokens: a masked row of codes, or of vectors.

Kim et al., "Democratizing Text-to-Image Masked Generative Models with Compact
Text-Aware One-Dimensional Tokens" (MaskGen, 2025, arXiv 2501.07730), section 4.
Image tokens and a text's features are two streams that attend to each other;
the pooled text and how beautiful the image is to be modulate both. Composed of
parts:

  order       by confidence for codes, at random for vectors; `RefineLoop`
  visibility  all, and the text
  inputs      a mask token in place of each unknown one
  commit      none
  head        categorical, tied to the embedding; or diffusion

Traps of the official code. The two forms embed the score differently: sines
before cosines with a longest wavelength of 1,000 (codes), or sines and cosines
in turn with 10,000 (vectors). Its sampler of codes reads its score from the
config, not from its argument. The trainer of vectors passes the text to a
diffusion loss that takes none: the head reads the trunk's output alone, which
the sampling does too. The decoder's text (`Text.for_decoder`) is of another
layer of CLIP than the trunk's.

In training all rows of an official batch of vectors share one number of masked
tokens, here each draws its own.

Dimension letters: B batch, N tokens, M tokens of a text, F features of one, D
model features, V codes, C channels of a vector, K draws of noise for each
vector in training, S steps, T steps of the diffusion.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import errors, losses, nn
from tokpress_jax.generators import (
  base,
  diffusion,
  heads,
  refine,
  rows,
  sampling,
)
from tokpress_jax.generators import inputs as inputs_lib
from tokpress_jax.generators import order as orders
from tokpress_jax.generators.condition import Text
from tokpress_jax.nn import products

Array = jax.Array


@struct.dataclass
class Noised:
  """What the training pass over vectors reads.

  Attributes:
    values: float32 [B, N, C], scaled.
    masked: bool [B, N], which of them the trunk does not see.
    time: int32 [B, N, K], steps of the diffusion.
    noise: float32 [B, N, K, C].
  """

  values: Array
  masked: Array
  time: Array
  noise: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskGenConfig(rows.TextRowConfig, refine.MaskedConfig):
  """A generator that refines a masked row under a text.

  The defaults are MaskGen-VQ-L's. `schedule` is that of training, and of the
  steps of codes; over those of vectors it is the cosine.

  Attributes:
    head: 'categorical' for codes, 'diffusion' for the vectors of a continuous
      tokenizer; `codebook_size` is then not read.
    score_features: of the embedded score; 0 reads none.
    channels: C.
    scale: of vectors: what the trunk and the head see is the tokenizer's times
      this.
    head_width: of the diffusion head.
    head_depth: its layers.
    diffusion_steps: T, in sampling; there are 1,000 in training.
    draws: K.
  """

  codebook_size: int = 8192
  tokens: int = 128
  head: Literal['categorical', 'diffusion'] = 'categorical'
  steps: int = 16
  score_features: int = 256
  channels: int = 16
  scale: float = 0.7525
  head_width: int = 1024
  head_depth: int = 8
  diffusion_steps: int = 100
  draws: int = 4

  def __post_init__(self):
    super().__post_init__()
    if self.head not in ('categorical', 'diffusion'):
      raise errors.UserError(
        f"head={self.head!r} is not one of 'categorical' and 'diffusion'"
      )
    if self.score_features % 2:
      raise errors.UserError(
        f'score_features must be even, got {self.score_features}'
      )

  @property
  def stack(self) -> nn.StackConfig:
    """The layers of both streams."""
    block = nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation='gelu_tanh',
      norm_affine=False,
      modulation='block',
      dropout=self.dropout,
      drop_path=self.drop_path,
    )
    return nn.StackConfig(depth=self.depth, block=block, remat=self.remat)

  def check_sampler(self, sampler: sampling.Sampler) -> None:
    """See `GeneratorConfig`."""
    if self.head == 'categorical':
      super().check_sampler(sampler)
      return
    default = sampling.Sampler()
    set_ = [
      name
      for name in ('top_k', 'top_p', 'annealing')
      if getattr(sampler, name) != getattr(default, name)
    ]
    if set_:
      raise errors.UserError(
        f'{", ".join(set_)}: of a generator that draws codes; this one draws '
        'vectors, by temperature, guidance and steps'
      )

  def check_tokenizer(self, tokenizer: Any) -> None:
    """See `GeneratorConfig`."""
    if self.head == 'categorical':
      super().check_tokenizer(tokenizer)
      return
    module = getattr(tokenizer, 'module', tokenizer)
    config = getattr(module, 'config', module)
    dim = config.quantizer.dim if config.continuous else None
    ours, theirs = (self.channels, self.boundaries), (dim, config.boundaries)
    if ours != theirs:
      raise errors.UserError(
        f'the generator has vectors of {ours[0]} channels and lengths '
        f'{ours[1]}, its tokenizer {theirs[0]} (None: it has codes) and '
        f'{theirs[1]}; load the tokenizer this generator was trained on'
      )

  def fit_to(self, tokenizer: Any) -> MaskGenConfig:
    """See `GeneratorConfig`."""
    if self.head == 'categorical':
      return super().fit_to(tokenizer)  # type: ignore[return-value]
    if not tokenizer.continuous:
      raise errors.UserError(
        'a diffusion head draws the vectors of a continuous tokenizer, this '
        'one has codes; set head to categorical'
      )
    return dataclasses.replace(
      self,
      channels=tokenizer.quantizer.dim,
      tokens=tokenizer.num_tokens,
      prefixes=tuple(tokenizer.boundaries),
    )

  def train_inputs(
    self,
    codes: Array,
    tokenizer: base.Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Any:
    """The tokens, a random part of them masked.

    Args:
      codes: int32 [B, N, 1]; or vectors [B, N, C] drawn by the tokenizer.
      tokenizer: not read.
      rng: a typed key; as many are masked in a row as `schedule` says at a time
        drawn uniformly.
      step: not read.

    Returns:
      int32 [B, N], V where masked; or `Noised`.
    """
    del tokenizer, step
    batch, length = codes.shape[:2]
    mask = lambda rng, rounding: orders.random_mask(
      rng, batch, length, self.schedule, rounding=rounding
    )
    if self.head == 'categorical':
      return jnp.where(mask(rng, jnp.round), self.mask_code, codes[..., 0])
    mask_rng, time_rng, noise_rng = jax.random.split(rng, 3)
    shape = (batch, length, self.draws)
    return Noised(
      values=codes.astype(jnp.float32) * self.scale,
      masked=mask(mask_rng, jnp.ceil),
      time=jax.random.randint(time_rng, shape, 0, diffusion.TRAINING_STEPS),
      noise=jax.random.normal(noise_rng, (*shape, codes.shape[-1])),
    )

  def counted(self, inputs: Any) -> Array:
    """See `GeneratorConfig`; the masked tokens."""
    if self.head == 'categorical':
      return inputs == self.mask_code
    return inputs.masked

  def loss(
    self,
    output: Array,
    inputs: Any,
    codes: Array | None = None,
    *,
    smoothing: float = 0.0,
    unmasked_weight: float = 0.0,
  ) -> Array:
    """The training loss, of what `__call__` gave.

    Args:
      output: logits [B, N, V]; or the head's [B, N, K, 2 C].
      inputs: of `train_inputs`.
      codes: int32 [B, N], the true ones; not read by a diffusion head.
      smoothing: of the labels (0.1 in the official recipe).
      unmasked_weight: of tokens that are not masked; of codes only (0.1 in the
        official recipe).

    Returns:
      float32 []. Of codes: the mean cross entropy. Of vectors:
      `diffusion.losses` of the masked ones.
    """
    masked = self.counted(inputs)
    if self.head == 'categorical':
      if codes is None:
        raise ValueError('the loss of logits needs the true codes')
      weight = jnp.where(masked, 1.0, unmasked_weight)
      return losses.cross_entropy(
        output, codes, mask=weight, smoothing=smoothing
      )
    each = diffusion.losses(
      diffusion.cosine_schedule(),
      output,
      inputs.values[:, :, None],
      inputs.noise,
      inputs.time,
    )  # [B, N, K]
    each = jnp.mean(each, axis=-1)
    total = jnp.sum(jnp.where(masked, each, 0.0))
    return total / jnp.maximum(jnp.sum(masked), 1)

  def example_inputs(self) -> tuple[Any, Any]:
    """See `GeneratorConfig`."""
    codes, text = super().example_inputs()
    if self.head == 'categorical':
      return codes, text
    shape, draws = codes.shape, (*codes.shape, self.draws)
    noised = Noised(
      values=jnp.zeros((*shape, self.channels)),
      masked=jnp.zeros(shape, bool),
      time=jnp.zeros(draws, jnp.int32),
      noise=jnp.zeros((*draws, self.channels)),
    )
    return noised, text

  def build(self, *, dtype: Any = jnp.float32) -> MaskGen:
    """Makes the module."""
    return MaskGen(self, dtype=dtype)


class MaskGen(rows.RowGenerator):
  """Predicts all tokens of a row from those that are known and a text."""

  config: MaskGenConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    std = 0.02
    init = linen.initializers.truncated_normal(std)
    dense = lambda: products.Dense(c.width, dtype=self.dtype, kernel_init=init)
    table = lambda n: nn.LearnedPositions(n, c.width, std, dtype=self.dtype)
    self.text = dense()
    self.pooled = dense()
    self.positions = table(c.tokens)
    self.stack = nn.JointStack(c.stack, dtype=self.dtype)
    self.norm = nn.ModulatedNorm(c.width, dtype=self.dtype)
    if c.head == 'categorical':
      self.token_embed = linen.Embed(
        c.codebook_size + 1, c.width, dtype=self.dtype, embedding_init=init
      )
    else:
      self.vector_embed = dense()
      self.vector_norm = nn.LayerNorm(dtype=self.dtype)
      self.mask_token = table(1)
      self.head_positions = table(c.tokens)
      self.head = heads.DiffusionHead(
        c.channels, c.head_width, c.head_depth, dtype=self.dtype
      )

  def __call__(
    self, inputs: Any, text: Text, *, deterministic: bool = True
  ) -> Array:
    """The training pass.

    Args:
      inputs: codes int32 [B, n], V where masked; or `Noised` with n vectors a
        row; n at most N.
      text: of B rows.
      deterministic: if False, texts and branches are dropped with the rng
        'dropout'.

    Returns:
      float32 logits [B, n, V]; or what the head says of the noised vectors,
      [B, n, K, 2 C] (see `diffusion.predicted`).

    Raises:
      ValueError: if there are more than N tokens.
    """
    c = self.config
    if not deterministic and c.class_dropout:
      text = text.dropped(self.make_rng('dropout'), c.class_dropout)
    read = self.read(text)
    if c.head == 'categorical':
      x = self.trunk(inputs, read, deterministic=deterministic)
      return self.logits(x)
    z = self.trunk(
      inputs.values, read, ~inputs.masked, deterministic=deterministic
    )
    noised = diffusion.add_noise(
      diffusion.cosine_schedule(),
      inputs.values[:, :, None],
      inputs.noise,
      inputs.time,
    )
    return self.head(noised, inputs.time, z[:, :, None])

  def read(self, text: Text) -> tuple[Array, Array]:
    """Embeds texts: for the text's stream [B, M, D], for modulation [B, D]."""
    c = self.config
    whole = text.pooled
    if c.score_features:
      code = score_codes if c.head == 'categorical' else turned_score_codes
      score = code(text.score, c.score_features)
      whole = jnp.concatenate([whole, score.astype(whole.dtype)], axis=-1)
    cast = lambda x: x.astype(self.dtype)
    return self.text(cast(text.features)), self.pooled(cast(whole))

  def trunk(
    self,
    tokens: Array,
    read: tuple[Array, Array],
    known: Array | None = None,
    *,
    mod: Any = None,
    deterministic: bool = True,
  ) -> Array:
    """What the head reads.

    Args:
      tokens: codes [B, n], V where masked; or scaled vectors [B, n, C].
      read: what `read` made of the text.
      known: bool [B, n], which vectors are not masked.
      mod: what the stack's and the norm's `modulation` gave, where it is known.
      deterministic: see `__call__`.

    Returns:
      [B, n, D].
    """
    c = self.config
    text, cond = read
    length = tokens.shape[1]
    c.check_length(length)
    here = slice(length)
    if c.head == 'categorical':
      x = self.token_embed(tokens)
    else:
      x = self.vector_norm(self.vector_embed(tokens.astype(self.dtype)))
      assert known is not None  # Of vectors no value stands for a mask.
      x = inputs_lib.masked(x, known, self.mask_token()[0])
    x = x + self.positions(here)[None]
    layers, last = (None, None) if mod is None else mod
    x = self.stack(x, text, cond=cond, mod=layers, deterministic=deterministic)
    x = self.norm(x, cond[:, None], mod=last)
    if c.head == 'diffusion':
      x = x + self.head_positions(here)[None]
    return x

  def logits(self, x: Array) -> Array:
    """Float32 logits [B, n, V], by the embeddings of the codes."""
    codes = self.token_embed.embedding[: self.config.codebook_size]
    return jnp.matmul(x.astype(jnp.float32), codes.T.astype(jnp.float32))

  def draw_row(self, condition: Text, row: rows.Row) -> base.Drawn:
    """See `RowGenerator`."""
    c = self.config
    read = self.read(condition)
    cond = read[1]
    mod = self.stack.modulation(cond), self.norm.modulation(cond[:, None])
    if c.head == 'categorical':
      return refine.refine_codes(
        row,
        lambda seen: self.logits(self.trunk(seen, read, mod=mod)),
        codebook_size=c.codebook_size,
        counts=c.counts(row, c.schedule),
      )
    if row.forced is not None:
      raise errors.UserError(
        'forced codes: this generator draws vectors, there are no codes to '
        'keep; leave out forced'
      )
    vectors = refine.refine_vectors(
      lambda seen, known: self.trunk(seen, read, known, mod=mod),
      self.head,
      rng=row.rng,
      sampler=row.sampler,
      counts=c.counts(row, 'cosine'),
      batch=row.batch,
      diffusion_steps=c.diffusion_steps,
    )
    return base.Drawn(codes=None, embeddings=vectors / c.scale)


def score_codes(score: Array, width: int) -> Array:
  """Sin-cos codes of scores [B] as MaskGen over codes has them: [B, width]."""
  rates = nn.sincos_rates(width // 2, 1000.0)
  angles = 100 * score.astype(jnp.float32)[:, None] * rates[None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def turned_score_codes(score: Array, width: int) -> Array:
  """Sin-cos codes of scores [B], in turn, as MaskGen over vectors has them."""
  exponent = -np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
  rates = np.power(10_000.0, exponent.astype(np.float64)).astype(np.float32)
  angles = 100 * score.astype(jnp.float32)[:, None] * rates[None]
  codes = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return codes.reshape(-1, width)
