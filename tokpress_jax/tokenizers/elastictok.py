"""ElasticTok: images and long videos, each block at a length of its own.

Yan et al., "ElasticTok: Adaptive Tokenization for Image and Video" (2024, arXiv
2410.08368). A video is cut into blocks of a few frames. A block's patches go
through a transformer that also sees all blocks before, told which of the slots
will be kept; the first of them pass the bottleneck, and a second transformer
paints the block from those and from the blocks before. Trained with random
lengths, it codes a simple block, or one like the last, in fewer tokens.

Dimension letters: B batch, K blocks, N slots of a block, T frames, H rows, W
columns, C channels, P numbers in a patch, D model features, Z code features, L
layers.

What is its own here:
  * the encoder knows the length, so a row cut short is *not* what encoding the
    image so short gives (`nested` is False): policies encode anew;
  * tokens beyond the length are zeros that the decoder does see, at its own
    slots: they are what it paints their patches in;
  * an image is a block of `frames` equal frames, as in the official scripts,
    and the first frame painted is the image. For the error over all of them,
    as in the official training, give a video or take `frames=1`;
  * `encode` and `decode` take videos [B, K frames, H, W, C] too, block after
    block with the keys and values of those before; the lengths are then [B, K].
    Shorter videos are padded with blocks that do not count (`blocks`), so that
    all share one program.

A length is the number of tokens kept. The official mask sampler, asked for n,
keeps n + 1 (`kept_tokens`), in training and in its searches, so that training
saw from one more than `shortest` tokens to all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tokpress_jax import errors, nn, quantize, types
from tokpress_jax.tokenizers import base, elastictok_network
from tokpress_jax.tokenizers import lengths as lengths_lib

Array = jax.Array
Read = Callable[[Array], quantize.Quantized]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElasticTokConfig(base.TokenizerConfig):
  """The defaults are ElasticTok-FSQ's.

  Attributes:
    patch_frames: frames that a patch spans.
    frames: of a block.
    shortest: the smallest length of a block.
    width: D.
    heads: attention heads.
    mlp_ratio: hidden features of an MLP over D.
    encoder_depth: layers of the encoder.
    decoder_depth: layers of the decoder.
    theta: of the rotary positions, which count through all blocks.
    quantizer: the bottleneck; a Gaussian gives continuous tokens.
  """

  patch: int = 8
  patch_frames: int = 1
  frames: int = 4
  shortest: int = 256
  width: int = 1024
  heads: int = 8
  mlp_ratio: float = 2.0
  encoder_depth: int = 10
  decoder_depth: int = 10
  theta: float = 5e7
  quantizer: quantize.FSQConfig | quantize.GaussianConfig = quantize.FSQConfig(
    levels=(8, 8, 8, 5, 5, 5), form='google'
  )

  def __post_init__(self):
    super().__post_init__()
    if self.patch_frames < 1 or self.frames % self.patch_frames:
      raise ValueError(
        f'a block of frames={self.frames} is not divisible into patches of '
        f'patch_frames={self.patch_frames}'
      )
    if not 1 <= self.shortest <= self.slots:
      raise ValueError(
        f'shortest must be from 1 to the {self.slots} slots of a block, got '
        f'{self.shortest}'
      )

  @property
  def slots(self) -> int:
    """N, the patches of a block."""
    return self.frames // self.patch_frames * self.grid**2

  @property
  def patch_size(self) -> int:
    """P."""
    return self.patch_frames * self.patch**2 * self.channels

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Every length from the shortest."""
    return tuple(range(self.shortest, self.slots + 1))

  @property
  def nested(self) -> bool:
    """The encoder knows the length."""
    return False

  def build(self, *, dtype: Any = jnp.float32) -> ElasticTok:
    """Makes the module."""
    return ElasticTok(self, dtype=dtype)


def kept_tokens(asked: Array | int, slots: int) -> Any:
  """What the official `MaskSampler` keeps when it is asked for n tokens."""
  return jnp.minimum(jnp.asarray(asked) + 1, slots)


class ElasticTok(base.Tokenizer):
  """Two transformers over the patches, and a bottleneck between."""

  last_layer: ClassVar[tuple[str, ...]] = ('decoder', 'to_patch')

  config: ElasticTokConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.encoder = elastictok_network.Encoder(c, dtype=self.dtype)
    self.quantizer = c.quantizer.build()
    self.decoder = elastictok_network.Decoder(c, dtype=self.dtype)

  def reader(self, images: Array, rng: Array | None = None) -> Read:
    """See `Tokenizer.reader`; the encoder runs anew for every length."""
    patches = self._patches(self._as_video(images))[:, 0]

    def read(length: Array) -> quantize.Quantized:
      seen = lengths_lib.prefix_mask(length, self.config.slots)
      return self._bottleneck(self.encoder(patches, seen)[0], seen, rng)

    return read

  def render(self, codes: Array, length: Array) -> Array:
    """Decodes the first `length` [B] of codes [B, n, 1] to images."""
    return self.render_embeddings(self.quantizer.lookup(codes), length)

  def render_embeddings(self, embeddings: Array, length: Array) -> Array:
    """Decodes the first `length` [B] of embeddings [B, n, Z] to images."""
    painted, _ = self.decoder(self._slots(embeddings, length))
    return self._join(painted[:, None])[:, 0]

  def reconstruct(
    self,
    images: Array,
    length: Array,
    *,
    mask: Array | None = None,
    rng: Array | None = None,
  ) -> base.Reconstruction:
    """The training pass, of all blocks at once.

    Args:
      images: [B, H, W, C] float32 in [-1, 1], or videos [B, K frames, H, W, C].
      length: int32 [B], of videos [B, K].
      mask: bool [B], False for images that are padding; of videos [B, K], for
        blocks.
      rng: draws continuous tokens; None takes their means.

    Returns:
      Images or videos, and the bottleneck's losses: the KL is a sum over a
      block's tokens, a mean over blocks.
    """
    single = images.ndim == 4
    self._check(images)
    video = self._as_video(images) if single else images
    patches = self._patches(video)
    batch, blocks, slots, _ = patches.shape
    seen = lengths_lib.prefix_mask(length.reshape(-1), slots)
    if mask is not None:
      seen = seen & mask.reshape(-1, 1)
    row = lambda x: x.reshape(batch, blocks * slots, x.shape[-1])
    z, _ = self.encoder(row(patches), seen.reshape(batch, -1))
    z = z.reshape(batch * blocks, slots, -1)
    quantized = self._bottleneck(z, seen, rng)
    painted, _ = self.decoder(row(quantized.embeddings))
    video = self._join(painted.reshape(patches.shape))
    return base.Reconstruction(
      images=video[:, 0] if single else video, quantized=quantized
    )

  def encode(
    self,
    images: Array,
    *,
    policy: lengths_lib.Policy | None = None,
    condition: Array | None = None,
    rng: Array | None = None,
    blocks: Array | None = None,
  ) -> types.Encoded:
    """Encodes images, or videos block after block.

    Args:
      images: [B, H, W, C] float32 in [-1, 1], or videos [B, K frames, H, W, C].
      policy: how many tokens each image or block gets; all if None. It sees
        the frames of a block one below the other, as [B, frames H, W, C].
        `Prefix` may have a length for each block, int32 [B, K].
      condition: not read.
      rng: a typed key to draw continuous tokens with; None takes their means.
      blocks: int32 [B], how many blocks of a video count; all if None.

    Returns:
      See `Tokenizer.encode`; of videos codes [B, K, N, 1], valid [B, K, N] and
      length [B, K], 0 where a block does not count.
    """
    if images.ndim == 4:
      if blocks is not None:
        raise errors.UserError('blocks counts those of videos; leave it out')
      return super().encode(images, policy=policy, condition=condition, rng=rng)
    self._check(images)
    self.check_condition(condition, images.shape[0])
    self._check_draws(rng)
    return self._encode_blocks(images, policy, rng, blocks)

  def _encode_blocks(
    self,
    video: Array,
    policy: lengths_lib.Policy | None,
    rng: Array | None,
    blocks: Array | None,
  ) -> types.Encoded:
    c = self.config
    policy = lengths_lib.check_policy(policy)
    patches = self._patches(video)  # [B, K, N, P]
    batch, count, slots, _ = patches.shape
    blocks = jnp.full((batch,), count) if blocks is None else blocks
    keys = None if rng is None else jax.random.split(rng, count)
    given = _lengths_of_blocks(policy, (batch, count))

    def one(caches: Any, block: Any) -> tuple[Any, Any]:
      number, x, key, tokens = block
      choose = policy if tokens is None else lengths_lib.Prefix(tokens)
      options = {'first': number}

      def read(length: Array) -> tuple[quantize.Quantized, Any]:
        seen = lengths_lib.prefix_mask(length, slots)
        z, cache = self.encoder(x, seen, cache=caches[0], **options)
        return self._bottleneck(z, seen, key), cache

      def paint(tokens: quantize.Quantized) -> tuple[Array, Any]:
        return self.decoder(tokens.embeddings, cache=caches[1], **options)

      def at(length: Array) -> Array:
        painted = self._stacked(paint(read(length)[0])[0])
        return jnp.clip(painted, -1.0, 1.0)

      length = choose.lengths(
        lengths_lib.Coded(
          images=self._stacked(x), boundaries=self.boundaries, decode=at
        )
      )
      length = jnp.where(number < blocks, length, 0)
      tokens, encoder = read(length)
      caches = (encoder, paint(tokens)[1])
      kept = tokens.embeddings if c.continuous else tokens.codes
      return caches, (kept, length)

    caches = self._caches(batch, count)
    xs = (jnp.arange(count), jnp.moveaxis(patches, 1, 0), keys, given)
    _, (tokens, length) = jax.lax.scan(one, caches, xs)
    tokens, length = jnp.moveaxis(tokens, 0, 1), length.T
    size = jnp.array(video.shape[2:4], jnp.int32)
    return types.Encoded(
      codes=None if c.continuous else tokens,
      embeddings=tokens if c.continuous else None,
      valid=jnp.arange(slots)[None, None] < length[..., None],
      length=length,
      positions=None,
      image_size=jnp.broadcast_to(size[None], (batch, 2)),
    )

  def _decode(
    self,
    render: Callable[..., Array],
    tokens: Array,
    length: Array | int | None,
    options: dict[str, Any],
  ) -> Array:
    """See `Tokenizer.decode_codes`; tokens [B, K, n, .] are videos'."""
    if tokens.ndim != 4:
      return super()._decode(render, tokens, length, options)
    whole = self.num_tokens if length is None else length
    length = jnp.broadcast_to(jnp.asarray(whole, jnp.int32), tokens.shape[:2])
    if not self.config.continuous:
      tokens = self.quantizer.lookup(tokens)
    batch, count = length.shape

    def one(cache: Any, block: Any) -> tuple[Any, Array]:
      number, z, kept = block
      painted, cache = self.decoder(
        self._slots(z, kept), first=number, cache=cache
      )
      return cache, jnp.where(kept[:, None, None] > 0, painted, 0.0)

    first = lambda x: jnp.moveaxis(x, 1, 0)
    xs = (jnp.arange(count), first(tokens), first(length))
    _, painted = jax.lax.scan(one, self._caches(batch, count)[1], xs)
    return jnp.clip(self._join(first(painted)), -1.0, 1.0)

  def _caches(self, batch: int, blocks: int) -> tuple[Any, Any]:
    """Empty caches of the encoder and the decoder."""
    capacity = blocks * self.config.slots
    return tuple(  # type: ignore[return-value]
      part.tower.stack.empty_cache(batch, capacity)
      for part in (self.encoder, self.decoder)
    )

  def _bottleneck(
    self, z: Array, seen: Array, rng: Array | None
  ) -> quantize.Quantized:
    """Quantises z [B, N, .]; what is not seen becomes 0."""
    options = {'rng': rng} if self.config.continuous else {}
    return self.quantizer(z.astype(jnp.float32), mask=seen, **options)

  def _slots(self, embeddings: Array, length: Array) -> Array:
    """Embeddings [B, n, Z] in all N slots, 0 beyond the length [B]."""
    slots = embeddings.shape[1]
    seen = lengths_lib.prefix_mask(length, slots)
    kept = jnp.where(seen[..., None], embeddings, 0)
    return jnp.pad(kept, ((0, 0), (0, self.config.slots - slots), (0, 0)))

  def _as_video(self, images: Array) -> Array:
    """Images [B, H, W, C] as blocks of equal frames."""
    return jnp.repeat(images[:, None], self.config.frames, axis=1)

  def _patches(self, video: Array) -> Array:
    """Videos [B, K frames, H, W, C] as patches [B, K, N, P]."""
    c = self.config
    boxes = nn.patchify_video(video, c.patch_frames, c.patch)
    return boxes.reshape(video.shape[0], -1, c.slots, c.patch_size)

  def _join(self, patches: Array) -> Array:
    """The inverse of `_patches`."""
    c = self.config
    batch, blocks, _, features = patches.shape
    times = blocks * c.frames // c.patch_frames
    boxes = patches.reshape(batch, times, c.grid, c.grid, features)
    return nn.unpatchify_video(boxes, c.patch_frames, c.patch)

  def _stacked(self, patches: Array) -> Array:
    """Patches of one block [B, N, P] as one image [B, frames H, W, C]."""
    video = self._join(patches[:, None])
    return video.reshape(video.shape[0], -1, *video.shape[3:])

  def _check(self, images: Array) -> None:
    """As `check_images`, for videos too."""
    if images.ndim != 5:
      return self.check_images(images)
    c = self.config
    self.check_images(images[:, 0])
    if images.shape[1] < 1 or images.shape[1] % c.frames:
      raise ValueError(
        f'this tokenizer takes videos of blocks of {c.frames} frames, got '
        f'{images.shape[1]} frames; cut them (as the official scripts do) or '
        'repeat the last one'
      )


def _lengths_of_blocks(
  policy: lengths_lib.Policy, shape: tuple[int, int]
) -> Array | None:
  """Lengths [K, B] that a policy has for each block, if it has."""
  if not isinstance(policy, lengths_lib.Prefix):
    return None
  tokens = jnp.asarray(policy.tokens)
  if tokens.ndim < 2:
    return None
  if tokens.shape != shape:
    raise ValueError(
      f'Prefix needs one length per block, {list(shape)}, or per video, '
      f'{list(shape[:1])}; got {list(tokens.shape)}'
    )
  return tokens.T
