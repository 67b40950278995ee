"""Lookup-free and binary spherical quantisation.

Yu et al., "Language Model Beats Diffusion" (MAGVIT-v2, arXiv:2310.05737),
section 3.1: a code is the signs of D features, and an entropy loss keeps the
signs certain and the codes varied. Zhao et al., "Image and Video Tokenization
with Binary Spherical Quantization" (BSQ, arXiv:2406.07548): the features are
first scaled to the unit sphere, and the entropy of many bits is factorised
over groups.

Dimensions: N tokens, D bits, Q codes per token of c = D / Q bits, V = 2^c,
G entropy groups of g bits.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tokpress_jax.quantize import base
from tokpress_jax.quantize.base import normalize

Array = jax.Array

_NORMS = ('none', 'sphere')
_ORDERS = ('big', 'little')


@dataclasses.dataclass(frozen=True, kw_only=True)
class LFQConfig(base.QuantizerConfig):
  """Bits and their losses.

  Attributes:
    bits: D.
    code_bits: bits per integer code; None packs all into one. Must divide
      `bits`; at most 24.
    norm: 'none' (LFQ) or 'sphere' (BSQ).
    scale: a bit's value is +-scale; None for 1, or 1/sqrt(D) on the sphere.
    bit_order: 'big' (the first feature is the most significant bit, as in
      vector-quantize-pytorch) or 'little' (Open-MAGVIT2).
    commitment: weight of |z - sg(q)|^2.
    entropy: weight of the entropy loss.
    diversity: weight of the mean's entropy within it.
    temperature: of the soft assignment in it.
    entropy_bits: g; the mean's entropy is exact over groups of at most this
      many bits and summed over the groups, an upper bound of the whole.
  """

  bits: int = 18
  code_bits: int | None = None
  norm: str = 'none'
  scale: float | None = None
  bit_order: str = 'big'
  commitment: float = 0.25
  entropy: float = 0.1
  diversity: float = 1.0
  temperature: float = 0.01
  entropy_bits: int = 18

  def __post_init__(self):
    for name, choices in (('norm', _NORMS), ('bit_order', _ORDERS)):
      if getattr(self, name) not in choices:
        raise ValueError(
          f'{name}={getattr(self, name)!r} is not one of {choices}.'
        )
    code_bits = self.code_bits or self.bits
    if self.bits < 1 or self.bits % code_bits or code_bits > 24:
      raise ValueError(
        f'{self.bits} bits cannot be packed into codes of {code_bits} bits: '
        'code_bits must divide bits and be at most 24.'
      )

  @property
  def digits(self) -> tuple[int, ...]:
    """The bits."""
    return (2,) * (self.code_bits or self.bits)

  @property
  def dim(self) -> int:
    """D."""
    return self.bits

  @property
  def codebook_size(self) -> int:
    """V, of one code."""
    return 2 ** (self.code_bits or self.bits)

  @property
  def num_codes(self) -> int:
    """Q, codes per token."""
    return self.bits // (self.code_bits or self.bits)

  @property
  def bit_value(self) -> float:
    """The magnitude of a bit."""
    if self.scale is not None:
      return self.scale
    return 1.0 if self.norm == 'none' else self.bits**-0.5

  def build(self, *, dtype: Any = jnp.float32) -> 'LookupFreeQuantizer':
    """The module; its arithmetic is float32 whatever the dtype."""
    del dtype
    return LookupFreeQuantizer(self)


def lfq(
  z: Array, config: LFQConfig, *, mask: Array | None = None
) -> base.Quantized:
  """Replaces each feature by its sign; zero counts as negative.

  Args:
    z: [..., D], any float dtype; the arithmetic is float32.
    config: what and how.
    mask: bool [...], False for padding; None for none.

  Returns:
    A `Quantized`: codes [..., Q]; embeddings +-scale; statistics [Q, V].

  Raises:
    ValueError: if z has another number of features.
  """
  c = config
  base.check_features(z, c.bits, 'one feature for each bit')
  z = jnp.asarray(z)
  dtype, z = z.dtype, z.astype(jnp.float32)
  if c.norm == 'sphere':
    z = normalize(z)
  bits = z > 0
  value = jnp.where(bits, c.bit_value, -c.bit_value)
  codes = base.masked(pack_bits(bits, c), mask)
  error = jnp.mean(jnp.square(z - value), axis=-1)
  losses = {'commitment': c.commitment * base.masked_mean(error, mask)}
  if c.entropy:
    logits = (4 * c.bit_value / c.temperature) * z
    sample, mean = bit_entropies(logits, group=c.entropy_bits, mask=mask)
    losses['entropy'] = c.entropy * (sample - c.diversity * mean)
  count = [
    base.count_codes(codes[..., q], c.codebook_size, mask)
    for q in range(c.num_codes)
  ]
  embeddings = base.masked(base.straight_through(z, value), mask)
  return base.Quantized(
    codes=codes,
    embeddings=embeddings.astype(dtype),
    losses=losses,
    stats=base.CodebookStats(count=jnp.stack(count)),
  )


def bit_entropies(
  logits: Array, *, group: int, mask: Array | None = None
) -> tuple[Array, Array]:
  """Entropies of independent bits, in nats.

  A softmax over all 2^D corners of a cube factorises into D sigmoids, so the
  first needs no codebook (BSQ, section 4.2). The second does: the mean over
  tokens of a product is no product.

  Args:
    logits: [..., D], log odds of each bit.
    group: bits whose joint distribution is formed at once.
    mask: bool [...]; None for none.

  Returns:
    The mean over tokens of a token's entropy, and the entropy of the mean
    distribution, the sum over groups; float32 [].
  """
  size = jnp.abs(logits)
  each = jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size)
  sample = base.masked_mean(jnp.sum(each, axis=-1), mask)

  bits = logits.shape[-1]
  p = base.masked(jax.nn.sigmoid(logits), mask).reshape(-1, bits)  # [N, D]
  weight = jnp.ones(p.shape[:1]) if mask is None else mask.reshape(-1)
  weight = weight.astype(jnp.float32) / jnp.maximum(jnp.sum(weight), 1)
  mean = jnp.zeros(())
  for start in range(0, bits, group):
    part = p[:, start : start + group]
    middle = part.shape[1] // 2
    # The mean of the outer products of two halves is one matmul: no array
    # of size N x 2^g.
    joint = jnp.einsum(
      'n,na,nb->ab',
      weight,
      _corners(part[:, :middle]),
      _corners(part[:, middle:]),
      precision=jax.lax.Precision.HIGHEST,
    )
    mean -= jnp.sum(joint * jnp.log(jnp.maximum(joint, 1e-20)))
  return sample, mean


def _corners(p: Array) -> Array:
  """Probabilities of all 2^g patterns of bits that are 1 with p [N, g]."""
  joint = jnp.ones((p.shape[0], 1))
  for i in range(p.shape[1]):
    one = p[:, i : i + 1]
    joint = jnp.concatenate([joint * (1 - one), joint * one], axis=1)
  return joint


def _places(config: LFQConfig) -> np.ndarray:
  places = 2 ** np.arange(config.bits // config.num_codes, dtype=np.int32)
  return places[::-1].copy() if config.bit_order == 'big' else places


def pack_bits(bits: Array, config: LFQConfig) -> Array:
  """Bits, bool [..., D], as integers, int32 [..., Q]."""
  bits = bits.reshape(*bits.shape[:-1], config.num_codes, -1)
  return bits.astype(jnp.int32) @ jnp.asarray(_places(config))


def unpack_bits(codes: Array, config: LFQConfig) -> Array:
  """The inverse of `pack_bits`."""
  places = _places(config).reshape((1,) * codes.ndim + (-1,))
  bits = (codes[..., None] // jnp.asarray(places)) % 2 == 1
  return bits.reshape(*codes.shape[:-1], config.bits)


class LookupFreeQuantizer(nn.Module):
  """`lfq` as a module without parameters.

  Attributes:
    config: bits and losses.
  """

  config: LFQConfig

  def __call__(self, z: Array, *, mask: Array | None = None) -> base.Quantized:
    """Quantises z [..., D]; see `lfq`."""
    return lfq(z, self.config, mask=mask)

  def lookup(self, codes: Array) -> Array:
    """The vectors of codes int32 [..., Q]: float32 [..., D]."""
    value = self.config.bit_value
    return jnp.where(unpack_bits(codes, self.config), value, -value)
