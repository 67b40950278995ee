"""Contrastive losses of images and their texts.

Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (CLIP, 2021, arXiv 2103.00020), figure 3: a softmax over the texts
of a batch for each image, and over its images for each text.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (SigLIP, 2023, arXiv
2303.15343), algorithm 1: each pair of an image and a text is right or wrong by
itself.

Both see the whole batch. Under `jit` a batch that lies on several devices is
one array, so that the negatives are those of all devices.

Dimensions: B images and their B texts, M codes of a text.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def same_rows(codes: Array) -> Array:
  """Which texts are the same: bool [B, B] of codes int [B, M].

  Give it as `same`: an image whose text stands in the batch twice belongs to
  both, and neither is to be pushed away from it.
  """
  return jnp.all(codes[:, None] == codes[None], axis=-1)


def clip_loss(
  logits: Array, *, mask: Array | None = None, same: Array | None = None
) -> Array:
  """The mean of both cross entropies, in nats.

  Args:
    logits: [B, B], a row for each image and a column for each text; the right
      ones are on the diagonal.
    mask: bool [B], pairs that count; others are no negatives either. Nothing to
      count gives 0.
    same: bool [B, B], symmetric, True on the diagonal: texts that are the same,
      which share an image's probability equally (as an image whose text stands
      there twice is right with either). None: only the diagonal, as in the
      paper.

  Returns:
    float32 [].
  """
  logits, mask, same = _checked(logits, mask, same)
  seen = mask[:, None] & mask[None]
  right = same & seen
  target = right / jnp.maximum(right.sum(axis=1, keepdims=True), 1)
  # -inf less -inf is NaN in gradients, so rows that do not count stay finite.
  logits = jnp.where(seen, logits, jnp.finfo(jnp.float32).min)
  total = jnp.zeros((), jnp.float32)
  for x in (logits, logits.T):
    entropy = -jnp.sum(target * jax.nn.log_softmax(x, axis=1), axis=1)
    total += jnp.sum(jnp.where(mask, entropy, 0))
  return total / (2 * jnp.maximum(mask.sum(), 1))


def siglip_loss(
  logits: Array, *, mask: Array | None = None, same: Array | None = None
) -> Array:
  """The sum over pairs of -log sigmoid(+-logit), over the number of images.

  Args:
    logits: [B, B], see `clip_loss`; with their bias.
    mask: bool [B], see `clip_loss`.
    same: bool [B, B], see `clip_loss`: pairs of an image and a text that it
      could have had are right, not wrong.

  Returns:
    float32 [].
  """
  logits, mask, same = _checked(logits, mask, same)
  seen = mask[:, None] & mask[None]
  logits = jnp.where(seen, logits, 0)  # whatever it is, gradients are finite
  loss = -jax.nn.log_sigmoid(jnp.where(same, logits, -logits))
  return jnp.sum(jnp.where(seen, loss, 0)) / jnp.maximum(mask.sum(), 1)


def _checked(
  logits: Array, mask: Array | None, same: Array | None
) -> tuple[Array, Array, Array]:
  """Defaults of both losses."""
  size = logits.shape[0]
  if logits.shape != (size, size):
    raise ValueError(
      f'logits are [B, B], of B images and their own texts, got {logits.shape}'
    )
  if mask is None:
    mask = jnp.ones(size, bool)
  if same is None:
    same = jnp.eye(size, dtype=bool)
  return logits.astype(jnp.float32), mask > 0, same
