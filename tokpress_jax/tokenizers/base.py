"""What every tokenizer is: images to tokens, and any legal prefix back.

tokenizer = encoder, bottleneck, length policy, decoder. A method is a config
and a module with three parts, `latents`, `quantizer` and `render`; encoding,
decoding and lengths are written once, here.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, D
token features, Q codes per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import arrays, errors, quantize, types
from tokpress_jax.tokenizers import lengths as lengths_lib
from tokpress_jax.tokenizers.config import TokenizerConfig

__all__ = ['Reconstruction', 'Tokenizer', 'TokenizerConfig', 'keys_for']

Array = jax.Array


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

  A subclass sets up `self.quantizer` and writes `latents`, `quantize`, `render`
  and `reconstruct`; see `vectors.VectorTokenizer` for the usual last two. What
  its config (see `TokenizerConfig`) says beyond that, it takes: `rng` in
  `quantize` and `render_embeddings` instead of `render` if it is continuous,
  and in `render` the keywords `condition` (of `condition_shape`), `positions`
  (int32 [B, N], if it `selects`), `rng` and `sampler` (a key for each image,
  and how to draw, None being the config's own; if it `draws`). One whose codes
  depend on the length (not `nested`) writes `reader`.
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

  def reader(
    self, images: Array, rng: Array | None = None
  ) -> Callable[[Array], quantize.Quantized]:
    """Encodes images as far as no length is needed.

    Args:
      images: [B, H, W, C] float32 in [-1, 1].
      rng: see `encode`.

    Returns:
      int32 [B] lengths -> codes and embeddings of all N slots, of which so many
      count. Here they are the same for every length.
    """
    whole = jnp.full(images.shape[:1], self.num_tokens, jnp.int32)
    options = {'rng': rng} if self.config.continuous else {}
    out = self.quantize(self.latents(images), whole, **options)
    return lambda length: out

  def _encoded(
    self,
    images: Array,
    out: quantize.Quantized,
    length: Array,
    order: Array | None = None,
  ) -> types.Encoded:
    """Tokens; `order` int32 [B, N, 1] says which slot is where."""
    codes, embeddings = out.codes, out.embeddings
    if order is not None:
      embeddings = jnp.take_along_axis(embeddings, order, axis=1)
      if codes is not None:
        codes = jnp.take_along_axis(codes, order, axis=1)
    elif self.config.selects:
      order = jnp.arange(self.num_tokens, dtype=jnp.int32)[None, :, None]
      order = jnp.broadcast_to(order, (images.shape[0], self.num_tokens, 1))
    size = jnp.array(images.shape[1:3], jnp.int32)
    continuous = self.config.continuous
    return types.Encoded(
      codes=None if continuous else codes,
      embeddings=embeddings if continuous else None,
      valid=lengths_lib.prefix_mask(length, self.num_tokens),
      length=length,
      positions=order,
      image_size=jnp.broadcast_to(size[None], (images.shape[0], 2)),
    )

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
      UserError: if the images are of another size or no floats in [-1, 1], the
        policy or its budget does not fit, or there is nothing to draw.
    """
    self.check_images(images)
    self._check_draws(rng)
    continuous = self.config.continuous
    read = self.reader(images, rng)
    decode = self.decode_embeddings if continuous else self.decode_codes

    def at(length: Array) -> Array:
      out = read(length)
      tokens = out.embeddings if continuous else out.codes
      return decode(tokens, length=length, condition=condition)

    length = lengths_lib.check_policy(policy).lengths(
      lengths_lib.Coded(images=images, boundaries=self.boundaries, decode=at)
    )
    return self._encoded(images, read(length), length)

  def encode_each(
    self, images: Array, *, tokens: Sequence[int], rng: Array | None = None
  ) -> list[types.Encoded]:
    """Encodes images with each of some numbers of tokens.

    Where codes do not depend on the length, images are read once and the rows
    are cut; else only what the length does not touch is done once.

    Args:
      images: see `encode`.
      tokens: legal lengths.
      rng: see `encode`.

    Returns:
      As `encode` with `Fixed(n)`, for each n.
    """
    self.check_images(images)
    self._check_draws(rng)
    read = self.reader(images, rng)
    found = []
    for n in tokens:
      n = lengths_lib.legal_length(n, self.boundaries)
      length = jnp.full(images.shape[:1], n, jnp.int32)
      found.append(self._encoded(images, read(length), length))
    return found

  def _check_draws(self, rng: Array | None) -> None:
    """Refuses a key where nothing is drawn by it."""
    if rng is not None and not self.config.continuous:
      raise errors.UserError(
        'the codes of this tokenizer are not drawn at random; leave out rng'
      )
    if rng is not None and not arrays.is_key(rng):
      raise errors.UserError(
        f'rng must be a typed key, as jax.random.key(0), got {arrays.said(rng)}'
      )

  def decode(
    self,
    encoded: types.Encoded,
    *,
    condition: Array | None = None,
    rng: Array | None = None,
    sampler: Any = None,
  ) -> Array:
    """Decodes tokens to images.

    Args:
      encoded: what `encode` returned; codes go before embeddings.
      condition: [B, *condition_shape] for a decoder that reads more than
        tokens, such as the features of a text.
      rng: for a decoder that draws (flow, diffusion): a typed key, or one for
        each image [B]. None draws every image from the same noise, always.
      sampler: how such a decoder draws; None is its config's own way.

    Returns:
      [B, H, W, C] float32 in [-1, 1].
    """
    if not isinstance(encoded, types.Encoded):
      raise ValueError(
        'decode takes what `encode` returned; decode_codes takes codes '
        f'[B, N, Q], decode_embeddings vectors. Got {type(encoded).__name__}'
      )
    options = {
      'length': encoded.length,
      'positions': encoded.positions,
      'condition': condition,
      'rng': rng,
      'sampler': sampler,
    }
    if encoded.codes is not None:
      return self.decode_codes(encoded.codes, **options)
    if encoded.embeddings is None:
      raise ValueError(
        'neither codes nor embeddings to decode; give what `encode` returned'
      )
    return self.decode_embeddings(encoded.embeddings, **options)

  def decode_codes(
    self,
    codes: Array,
    *,
    length: Array | int | None = None,
    positions: Array | None = None,
    condition: Array | None = None,
    rng: Array | None = None,
    sampler: Any = None,
  ) -> Array:
    """Decodes codes.

    Args:
      codes: int32 [B, N, Q].
      length: how many of them count, int32 [B] or one number; all if None.
      positions: int32 [B, N, 1], the slot of each where `encode` chose among
        them; their order if None.
      condition: see `decode`.
      rng: see `decode`.
      sampler: see `decode`.

    Returns:
      [B, H, W, C] float32, clipped to [-1, 1].
    """
    if self.config.continuous:
      raise ValueError(
        'this tokenizer is continuous: it has no codes to decode; give its '
        'embeddings to decode_embeddings, or what `encode` returned to decode'
      )
    options = self._options(codes, positions, condition, rng, sampler)
    return self._decode(self.render, codes, length, options)

  def decode_embeddings(
    self,
    embeddings: Array,
    *,
    length: Array | int | None = None,
    positions: Array | None = None,
    condition: Array | None = None,
    rng: Array | None = None,
    sampler: Any = None,
  ) -> Array:
    """Decodes embeddings [B, N, D]; else as `decode_codes`."""
    options = self._options(embeddings, positions, condition, rng, sampler)
    return self._decode(self.render_embeddings, embeddings, length, options)

  def _decode(
    self,
    render: Callable[..., Array],
    tokens: Array,
    length: Array | int | None,
    options: dict[str, Any],
  ) -> Array:
    length = self.num_tokens if length is None else length
    length = jnp.broadcast_to(jnp.asarray(length, jnp.int32), tokens.shape[:1])
    images = render(tokens, length, **options).astype(jnp.float32)
    return jnp.clip(images, -1.0, 1.0)

  def _options(
    self,
    tokens: Array,
    positions: Array | None,
    condition: Array | None,
    rng: Array | None,
    sampler: Any,
  ) -> dict[str, Any]:
    """What `render` takes beside tokens and their number."""
    batch, slots = tokens.shape[:2]
    options: dict[str, Any] = self.check_condition(condition, batch)
    if self.config.selects:
      if positions is None:
        positions = jnp.arange(slots, dtype=jnp.int32)[None, :, None]
      options['positions'] = jnp.broadcast_to(positions[..., 0], (batch, slots))
    elif positions is not None:
      raise errors.UserError(
        'the tokens of this tokenizer lie in their slots; leave out positions'
      )
    if self.config.draws:
      options |= {'rng': keys_for(rng, batch), 'sampler': sampler}
    elif rng is not None or sampler is not None:
      raise errors.UserError(
        'the decoder of this tokenizer draws nothing at random; leave out rng '
        'and sampler'
      )
    return options

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
    """Raises UserError unless images are [B, H, W, C] of this model's size.

    Bytes are refused too: 0 to 255 would be taken for [-1, 1].
    """
    c = self.config
    causes = arrays.pixel_causes(images)
    expected = (c.image_size, c.image_size, c.channels)
    shape = getattr(images, 'shape', None)
    if shape is not None and (len(shape) != 4 or shape[1:] != expected):
      causes.append(
        f'this tokenizer takes images [B, {", ".join(map(str, expected))}] '
        f'(batch, rows, columns, channels), got {list(shape)}; '
        'fit them with tokpress_jax.io.images, or set data.image_size'
      )
    if causes:
      raise errors.UserError('; '.join(causes))


def keys_for(rng: Array | None, batch: int) -> Array:
  """A key for each image, so that its noise does not depend on the others.

  Args:
    rng: a typed key, which is split; or a key for each image [B]; None: the
      same fixed key for all, so that drawings can be compared.
    batch: B.

  Returns:
    Typed keys [B].

  Raises:
    UserError: if it is no key, or there is another number of them.
  """
  if rng is None:
    return jnp.broadcast_to(jax.random.key(0), (batch,))
  if causes := arrays.key_causes(rng, batch):
    raise errors.UserError('; '.join(causes))
  return jax.random.split(rng, batch) if rng.shape == () else rng
