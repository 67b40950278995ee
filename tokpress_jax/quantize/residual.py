"""Residual vector quantisation.

Zeghidour et al., "SoundStream" (arXiv:2107.03312), section III.C: each
codebook codes what the ones before it left over; with quantiser drop-out,
every number of codebooks is a valid rate.

Dimensions: B batch, D features, Q codebooks, V codes each.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokpress_jax.quantize import base
from tokpress_jax.quantize.codebook import (
  declare,
  get_state,
  set_state,
  update_codebook,
)
from tokpress_jax.quantize.vq import VQConfig, vq

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualVQConfig(base.QuantizerConfig):
  """Codebooks of one size.

  Attributes:
    vq: each codebook; 'l2' only, for a residual has no unit length.
    num_quantizers: Q.
  """

  vq: VQConfig = VQConfig()
  num_quantizers: int = 4

  def __post_init__(self):
    if self.vq.distance != 'l2':
      raise ValueError(
        f'distance={self.vq.distance!r}: residuals have no unit length; '
        "use 'l2'."
      )
    if self.num_quantizers < 1:
      raise ValueError(f'num_quantizers={self.num_quantizers} is below 1.')

  @property
  def dim(self) -> int:
    """D."""
    return self.vq.dim

  @property
  def codebook_size(self) -> int:
    """V, of one codebook."""
    return self.vq.codebook_size

  @property
  def num_codes(self) -> int:
    """Q, codes per token."""
    return self.num_quantizers

  def build(self, *, dtype: Any = jnp.float32) -> 'ResidualVQ':
    """The module; distances are float32 whatever the dtype."""
    del dtype
    return ResidualVQ(self)

  def update(self, variables, stats, *, rng, path=()):
    """See `QuantizerConfig.update`; each codebook on its own."""
    if not self.vq.learns_from_stats:
      return variables
    new = jax.vmap(
      lambda state, sums, key: update_codebook(state, sums, self.vq, rng=key)
    )(
      get_state(variables, path),
      stats,
      jax.random.split(rng, self.num_quantizers),
    )
    return set_state(variables, new, path)


def residual_vq(
  z: Array,
  codebooks: Array,
  *,
  mask: Array | None = None,
  keep: Array | None = None,
  commitment: float = 0.25,
  codebook_weight: float = 1.0,
) -> base.Quantized:
  """Quantises by a sum of codes, one from each codebook.

  Args:
    z: [B, ..., D], any float dtype; the arithmetic is float32.
    codebooks: [Q, V, D].
    mask: bool [B, ...], False for padding; None for none.
    keep: int32 [B], how many codebooks each row uses; None for all.
    commitment: weight of the encoder's term.
    codebook_weight: weight of the codebooks' term, 0 for EMA.

  Returns:
    A `Quantized`: codes [B, ..., Q], 0 where a codebook is not used;
    losses averaged over the codebooks (each over the tokens that use it);
    statistics with a leading axis Q. The gradient of the embeddings is the
    identity once, not once per codebook.
  """
  z = jnp.asarray(z)
  dtype, z = z.dtype, z.astype(jnp.float32)
  rest, total = z, jnp.zeros_like(z)
  steps = []
  for k, codebook in enumerate(codebooks):
    used = mask
    if keep is not None:
      kept = _used(keep, k, z.shape[:-1])
      used = kept if mask is None else kept & mask
    step = vq(
      rest,
      codebook,
      mask=used,
      commitment=commitment,
      codebook_weight=codebook_weight,
    )
    steps.append(step)
    chosen = jax.lax.stop_gradient(step.embeddings)
    total, rest = total + chosen, rest - chosen
  return base.Quantized(
    codes=jnp.concatenate([s.codes for s in steps], axis=-1),
    embeddings=base.masked(base.straight_through(z, total), mask).astype(dtype),
    losses=jax.tree.map(
      lambda *x: sum(x) / len(steps), *[s.losses for s in steps]
    ),
    stats=jax.tree.map(lambda *x: jnp.stack(x), *[s.stats for s in steps]),
  )


def _used(keep: Array, index: int, shape: tuple[int, ...]) -> Array:
  used = (index < keep).reshape(-1, *(1,) * (len(shape) - 1))
  return jnp.broadcast_to(used, shape)


def sample_keep(rng: Array, batch: int, *, most: int, least: int = 1) -> Array:
  """Quantiser drop-out: a number of codebooks (or scales) for each row.

  Args:
    rng: a key.
    batch: B.
    most: the largest number, Q.
    least: the smallest.

  Returns:
    int32 [B], uniform over least .. most.
  """
  return jax.random.randint(rng, (batch,), least, most + 1)


class ResidualVQ(nn.Module):
  """`residual_vq` with its codebooks.

  Attributes:
    config: the codebooks and how they learn.
  """

  config: ResidualVQConfig

  def setup(self):
    """Declares the codebooks, [Q, V, D]."""
    c = self.config
    self.codebook = declare(self, c.vq, (c.num_quantizers,))

  def __call__(
    self,
    z: Array,
    *,
    mask: Array | None = None,
    keep: Array | None = None,
  ) -> base.Quantized:
    """Quantises z [B, ..., D]; see `residual_vq`."""
    c = self.config.vq
    return residual_vq(
      z,
      self.codebook,
      mask=mask,
      keep=keep,
      commitment=c.commitment,
      codebook_weight=c.codebook_weight * (c.learning == 'gradient'),
    )

  def lookup(self, codes: Array, *, keep: Array | None = None) -> Array:
    """The sums of the codes' vectors.

    Args:
      codes: int32 [B, ..., Q'], of the first Q' <= Q codebooks.
      keep: int32 [B], how many of them count in each row; None for all.

    Returns:
      float32 [B, ..., D].
    """
    total = jnp.zeros((*codes.shape[:-1], self.config.dim))
    for k in range(codes.shape[-1]):
      vectors = jnp.take(self.codebook[k], codes[..., k], axis=0)
      if keep is not None:
        used = _used(keep, k, codes.shape[:-1])
        vectors = jnp.where(used[..., None], vectors, 0.0)
      total = total + vectors
    return total
