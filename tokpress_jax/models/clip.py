"""CLIP: an image tower and a text tower whose features lie in one space.

Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (2021, arXiv 2103.00020); SigLIP (Zhai et al., 2023, arXiv
2303.15343) adds a bias to the logits, and has other towers.

Dimension letters: B images, T texts, M codes of a text, P features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import types
from tokpress_jax.errors import UserError
from tokpress_jax.io.words import WordCodec
from tokpress_jax.models.clip_codes import clip_codes
from tokpress_jax.models.clip_text import ClipTextConfig
from tokpress_jax.models.vit import ViTOutput
from tokpress_jax.models.vit_config import ViTConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig:
  """Two towers and what joins them.

  Attributes:
    image: the image tower; its features (its width, where it does not project)
      are as many as those of the texts.
    text: the text tower.
    words: that texts are made of, in the order of their codes (`io.words`), set
      by the data set; none for CLIP's own vocabulary.
    scale: of the cosines, at the start of training.
    most_scale: that it may come to; None for any (SigLIP).
    bias: of the logits at the start of training (SigLIP's is -10); None for
      none.
  """

  family: ClassVar[str] = 'model'

  image: ViTConfig = ViTConfig(classes=0, features=768)
  text: ClipTextConfig = ClipTextConfig()
  words: tuple[str, ...] = ()
  scale: float = 1 / 0.07
  most_scale: float | None = 100.0
  bias: float | None = None

  def __post_init__(self):
    features = self.image.features or self.image.width
    if features != self.text.features:
      raise UserError(
        f'the image tower gives {features} features and the text tower '
        f'{self.text.features}; set both to one number'
      )
    if self.words and len(self.words) + 3 != self.text.vocabulary:
      raise UserError(
        f'{len(self.words)} words take {len(self.words) + 3} codes, and the '
        f'text tower has {self.text.vocabulary}; set its vocabulary'
      )

  def codes(self, texts: Sequence[str]) -> np.ndarray:
    """Gives what the text tower reads.

    Args:
      texts: T of them.

    Returns:
      int32 [T, M].

    Raises:
      UserError: if a text has words that are not known, or the vocabulary of
        CLIP cannot be had.
    """
    if self.words:
      codec = WordCodec(words=self.words, length=self.text.length)
      return codec.encode(texts)
    return clip_codes(texts, length=self.text.length)

  def build(self, *, dtype: Any = jnp.float32) -> CLIP:
    """Makes the module."""
    return CLIP(self, dtype=dtype)


class CLIP(linen.Module):
  """Images and texts to their similarities."""

  config: CLIPConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.image = c.image.build(dtype=self.dtype)
    self.text = c.text.build(dtype=self.dtype)
    constant = linen.initializers.constant
    self.log_scale = self.param('log_scale', constant(math.log(c.scale)), ())
    if c.bias is not None:
      self.bias = self.param('bias', constant(c.bias), ())

  def __call__(
    self,
    images: Array,
    codes: Array,
    *,
    deterministic: bool = True,
    rng: Array | None = None,
  ) -> Array:
    """Compares all images with all texts.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      codes: int [T, M], of `CLIPConfig.codes`.
      deterministic: no dropout if True; else an rng 'dropout' is needed.
      rng: a typed key, or one for each image, for pruners that need one.

    Returns:
      Logits, float32 [B, T].
    """
    pictures = self.encode_image(images, deterministic=deterministic, rng=rng)
    return self.compare(pictures, self.encode_text(codes))

  def encode_image(self, images: Array, **options: Any) -> Array:
    """Gives what stands for each image: float32 [B, P], of length 1.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      **options: of `ViT.__call__`: a plan of pruners, say.
    """
    return unit(self.image(images, **options).pooled)

  def encode_text(self, codes: Array) -> Array:
    """Gives what stands for each text, float32 [T, P], of codes int [T, M]."""
    return unit(self.text(codes).pooled)

  def observe(
    self, images: Array, **options: Any
  ) -> tuple[types.Tokens, types.Signals]:
    """What pruners read of the image tower: `ViT.observe`.

    Args:
      images: float [B, H, W, C] in [-1, 1].
      **options: needs, layer, special, rng.
    """
    return self.image.observe(images, **options)

  def finish(self, tokens: types.Tokens, **options: Any) -> ViTOutput:
    """The image tower's other layers on what was kept: `ViT.finish`.

    Args:
      tokens: of `observe` with special='keep', or what a pruner left of them.
      **options: layer, proportional.
    """
    return self.image.finish(tokens, **options)

  def project_tokens(self, tokens: types.Tokens) -> Array:
    """Tokens [B, N, D] beside texts, [B, N, P]: `ViT.project_tokens`."""
    return self.image.project_tokens(tokens)

  def compare(self, images: Array, texts: Array) -> Array:
    """Logits, float32 [B, T], of features [B, P] and [T, P] of length 1."""
    c = self.config
    scale = jnp.exp(self.log_scale.astype(jnp.float32))
    if c.most_scale is not None:
      scale = jnp.minimum(scale, c.most_scale)
    logits = scale * jnp.einsum(
      'bp,tp->bt', images, texts, precision=jax.lax.Precision.HIGHEST
    )
    if c.bias is None:
      return logits
    return logits + self.bias.astype(jnp.float32)


def unit(x: Array) -> Array:
  """Vectors [..., P] at a length of 1, float32; zeros stay."""
  x = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def clip_towers(loaded: types.Loaded) -> tuple[types.Loaded, types.Loaded]:
  """Takes a CLIP apart.

  Args:
    loaded: a CLIP.

  Returns:
    Its image tower, a ViT that works wherever one does, and its text tower.

  Raises:
    UserError: if it is none.
  """
  config = loaded.module.config
  if not isinstance(config, CLIPConfig):
    raise UserError(
      f'{loaded.spec.name or "this model"} is a {type(config).__name__}; only '
      'a CLIP has two towers'
    )
  return _tower(loaded, 'image'), _tower(loaded, 'text')


def image_tower(loaded: types.Loaded) -> types.Loaded:
  """The ViT of a model: itself, or the image tower of a CLIP."""
  if isinstance(loaded.module.config, CLIPConfig):
    return clip_towers(loaded)[0]
  return loaded


def _tower(loaded: types.Loaded, part: str) -> types.Loaded:
  """One of the two, with the same dtype and source."""
  config = getattr(loaded.module.config, part)
  spec = dataclasses.replace(
    loaded.spec,
    name=f'{loaded.spec.name}-{part}' if loaded.spec.name else '',
    family=config.family,
    config=config,
  )
  variables = {kind: tree[part] for kind, tree in loaded.variables.items()}
  return types.Loaded(
    module=config.build(dtype=loaded.module.dtype),
    variables=variables,
    spec=spec,
  )
