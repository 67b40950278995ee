"""What every tokenizer is: images to tokens, and any legal prefix back.

tokenizer = encoder, bottleneck, length policy, decoder. A method is a config
and a module with three parts, `latents`, `quantizer` and `render`; encoding,
decoding and lengths are written once, here.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, D
token features, Q codes per token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import errors, quantize, types
from tokpress_jax.tokenizers import lengths as lengths_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
  """What every tokenizer's config has; a method adds its own fields.

  Attributes:
    image_size: side of the square images, in pixels.
    channels: C.
    patch: side of a patch, in pixels.
  """

  family: ClassVar[str] = 'tokenizer'

  image_size: int = 256
  channels: int = 3
  patch: int = 16

  if TYPE_CHECKING:
    quantizer: Any  # Each method's own field, of its quantiser's config.

  def __post_init__(self):
    size = self.image_size
    if size < 1 or self.patch < 1 or size % self.patch:
      raise ValueError(
        f'image_size={size} is not divisible into patches of {self.patch} '
        'pixels; change image_size (data.image_size resizes the images) or '
        'patch'
      )

  @property
  def grid(self) -> int:
    """Patches along one side."""
    return self.image_size // self.patch

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Legal lengths, rising; the last is the capacity N."""
    raise NotImplementedError

  @property
  def num_tokens(self) -> int:
    """N, the capacity."""
    return self.boundaries[-1]

  @property
  def condition_shape(self) -> tuple[int, ...] | None:
    """Shape of what the decoder reads beside an image's tokens, or None."""
    return None

  @property
  def continuous(self) -> bool:
    """Whether tokens are vectors (embeddings) and have no codes."""
    return isinstance(self.quantizer, quantize.GaussianConfig)

  @property
  def codebook_size(self) -> int:
    """Values of one code."""
    return self.quantizer.codebook_size

  @property
  def bits_per_token(self) -> float:
    """Bits of one token at equal code lengths: Q log2(codebook size)."""
    return self.quantizer.num_codes * math.log2(self.codebook_size)

  def build(self, *, dtype: Any = jnp.float32) -> Tokenizer:
    """Makes the module; parameters are float32, matmuls run in `dtype`."""
    raise NotImplementedError


@struct.dataclass
class Reconstruction:
  """What the training pass gives.

  Attributes:
    images: [B, H, W, C] in about [-1, 1].
    quantized: codes, losses and statistics of the bottleneck.
  """

  images: Array
  quantized: quantize.Quantized


class Tokenizer(nn.Module):
  """Base of the tokenizers.

  A subclass sets up `self.quantizer` and writes `latents`, `quantize` and
  `render`. One of a continuous or conditioned config (see `TokenizerConfig`)
  takes `rng` in `quantize`, writes `render_embeddings`, takes `condition` in
  both.
  """

  # Where the layer that gives pixels lies among the parameters; a loss that is
  # balanced by gradients at it (VQGAN's) needs to know.
  last_layer: ClassVar[tuple[str, ...]] = ()

  config: Any
  dtype: Any = jnp.float32

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Legal lengths, rising; the last is the capacity N."""
    return self.config.boundaries

  @property
  def num_tokens(self) -> int:
    """N, the capacity."""
    return self.config.num_tokens

  @property
  def codebook_size(self) -> int:
    """Values of one code."""
    return self.config.codebook_size

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, C] into what the bottleneck quantises."""
    raise NotImplementedError

  def quantize(
    self, latents: Array, length: Array, mask: Array | None = None
  ) -> quantize.Quantized:
    """Quantises latents; `length` [B] is the training prefix.

    Args:
      latents: of `latents`.
      length: int32 [B].
      mask: bool [B], False for images that are padding.
    """
    raise NotImplementedError

  def render(self, codes: Array, length: Array) -> Array:
    """Decodes the first `length` [B] tokens of codes [B, N, Q] to images."""
    raise NotImplementedError

  def render_embeddings(self, embeddings: Array, length: Array) -> Array:
    """Decodes the first `length` [B] tokens of embeddings [B, N, D]."""
    raise ValueError(
      f'{type(self).__name__} decodes codes, not embeddings; give what '
      '`encode` returned'
    )

  def reconstruct(
    self, images: Array, length: Array, *, mask: Array | None = None
  ) -> Reconstruction:
    """The training pass: differentiable, through a prefix of the tokens.

    Args:
      images: [B, H, W, C] float32 in [-1, 1].
      length: int32 [B], tokens that the decoder may see.
      mask: bool [B], False for images that are padding.

    Returns:
      Images and the bottleneck's losses.
    """
    raise NotImplementedError

  def __call__(self, images: Array, **options: Any) -> Reconstruction:
    """`reconstruct` with all tokens."""
    whole = jnp.full((images.shape[0],), self.num_tokens, jnp.int32)
    return self.reconstruct(images, whole, **options)

  def encode(
    self,
    images: Array,
    *,
    policy: lengths_lib.Policy | None = None,
    condition: Array | None = None,
    rng: Array | None = None,
  ) -> types.Encoded:
    """Encodes images.

    Args:
      images: [B, H, W, C] float32 in [-1, 1].
      policy: how many tokens each image gets; all if None.
      condition: see `decode`; read by policies that decode.
      rng: a typed key to draw continuous tokens with; None takes their means.

    Returns:
      The tokens, padded to the capacity N: codes, or the embeddings of
      continuous tokens.

    Raises:
      UserError: if a static budget does not fit.
      ValueError: if the images have another size, or there is nothing to draw.
    """
    self.check_images(images)
    batch = images.shape[0]
    policy = policy or lengths_lib.Fixed()
    whole = jnp.full((batch,), self.num_tokens, jnp.int32)
    continuous = self.config.continuous
    if rng is not None and not continuous:
      raise ValueError(
        'the codes of this tokenizer are not drawn at random; leave out rng'
      )
    options = {'rng': rng} if continuous else {}
    out = self.quantize(self.latents(images), whole, **options)
    decode = self.decode_embeddings if continuous else self.decode_codes
    tokens = out.embeddings if continuous else out.codes
    length = policy.lengths(
      lengths_lib.Coded(
        images=images,
        boundaries=self.boundaries,
        decode=lambda n: decode(tokens, length=n, condition=condition),
      )
    )
    size = jnp.array(images.shape[1:3], jnp.int32)
    return types.Encoded(
      codes=out.codes,
      embeddings=out.embeddings if continuous else None,
      valid=lengths_lib.prefix_mask(length, self.num_tokens),
      length=length,
      positions=None,
      image_size=jnp.broadcast_to(size[None], (batch, 2)),
    )

  def decode(
    self, encoded: types.Encoded, *, condition: Array | None = None
  ) -> Array:
    """Decodes tokens to images.

    Args:
      encoded: what `encode` returned; codes go before embeddings.
      condition: [B, *condition_shape] for a decoder that reads more than
        tokens, such as the features of a text.

    Returns:
      [B, H, W, C] float32 in [-1, 1].
    """
    if not isinstance(encoded, types.Encoded):
      raise ValueError(
        'decode takes what `encode` returned; decode_codes takes codes '
        f'[B, N, Q], decode_embeddings vectors. Got {type(encoded).__name__}'
      )
    if encoded.codes is not None:
      return self.decode_codes(
        encoded.codes, length=encoded.length, condition=condition
      )
    if encoded.embeddings is None:
      raise ValueError(
        'neither codes nor embeddings to decode; give what `encode` returned'
      )
    return self.decode_embeddings(
      encoded.embeddings, length=encoded.length, condition=condition
    )

  def decode_codes(
    self,
    codes: Array,
    *,
    length: Array | int | None = None,
    condition: Array | None = None,
  ) -> Array:
    """Decodes codes.

    Args:
      codes: int32 [B, N, Q].
      length: how many of them count, int32 [B] or one number; all if None.
      condition: see `decode`.

    Returns:
      [B, H, W, C] float32, clipped to [-1, 1].
    """
    if self.config.continuous:
      raise ValueError(
        'this tokenizer is continuous: it has no codes to decode; give its '
        'embeddings to decode_embeddings, or what `encode` returned to decode'
      )
    return self._decode(self.render, codes, length, condition)

  def decode_embeddings(
    self,
    embeddings: Array,
    *,
    length: Array | int | None = None,
    condition: Array | None = None,
  ) -> Array:
    """Decodes embeddings [B, N, D]; else as `decode_codes`."""
    return self._decode(self.render_embeddings, embeddings, length, condition)

  def _decode(
    self,
    render: Callable[..., Array],
    tokens: Array,
    length: Array | int | None,
    condition: Array | None,
  ) -> Array:
    options = self.check_condition(condition, tokens.shape[0])
    length = self.num_tokens if length is None else length
    length = jnp.broadcast_to(jnp.asarray(length, jnp.int32), tokens.shape[:1])
    images = render(tokens, length, **options).astype(jnp.float32)
    return jnp.clip(images, -1.0, 1.0)

  def check_condition(
    self, condition: Array | None, batch: int
  ) -> dict[str, Array]:
    """What `render` takes beside tokens: the condition, where there is one.

    Args:
      condition: [B, *condition_shape] or None.
      batch: B.

    Returns:
      Keyword arguments; zeros stand for the condition at initialisation.

    Raises:
      UserError: if it is missing, has another shape, or is not read.
    """
    shape = self.config.condition_shape
    if condition is None and shape is not None and self.is_initializing():
      condition = jnp.zeros((batch, *shape))
    given = None if condition is None else tuple(condition.shape)
    expected = None if shape is None else (batch, *shape)
    if given != expected:
      raise errors.UserError(
        f'the decoder of this tokenizer reads condition={expected}, got '
        f'{given} (None is no condition at all, else a shape); decode(..., '
        'condition=x) gives it'
      )
    return {} if condition is None else {'condition': condition}

  def check_images(self, images: Array) -> None:
    """Raises ValueError unless images are [B, H, W, C] of this model's size.

    Integers are refused too: 0 to 255 would be taken for [-1, 1].
    """
    c = self.config
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f'this tokenizer takes float images in [-1, 1], got {images.dtype}; '
        'tokpress_jax.io.images.to_float makes them of uint8'
      )
    expected = (c.image_size, c.image_size, c.channels)
    if images.ndim != 4 or images.shape[1:] != expected:
      raise ValueError(
        f'this tokenizer takes images [B, {", ".join(map(str, expected))}] '
        f'(batch, rows, columns, channels), got {list(images.shape)}; '
        'fit them with tokpress_jax.io.images, or set data.image_size'
      )
