"""Cross entropy over classes or codes.

Dimensions: B batch, N tokens, V classes; leading axes are free.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(
  logits: Array,
  labels: Array,
  *,
  mask: Array | None = None,
  smoothing: float = 0.0,
) -> Array:
  """The mean of -sum_v q_v log softmax(logits)_v, in nats.

  q gives 1 - smoothing to the label and spreads smoothing over all classes,
  the label included (Szegedy et al., arXiv:1512.00567, section 7).

  Args:
    logits: [..., V], any float dtype; the arithmetic is float32.
    labels: int [...]; where the mask is False, any value.
    mask: bool or float [...], the weight of each entry; None for 1. Nothing
      to count gives 0.
    smoothing: in [0, 1).

  Returns:
    float32 [].
  """
  if not 0 <= smoothing < 1:
    raise ValueError(f'smoothing={smoothing} is not in [0, 1).')
  logits = logits.astype(jnp.float32)
  if mask is not None:  # A label such as -1 must not become a NaN.
    labels = jnp.where(mask > 0, labels, 0)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  losses = log_z - (1 - smoothing) * chosen
  if smoothing:
    losses -= smoothing * jnp.mean(logits, axis=-1)
  return _mean(losses, mask)


def accuracy(
  logits: Array, labels: Array, *, mask: Array | None = None
) -> Array:
  """The fraction of entries whose largest logit is the label's.

  Args:
    logits: [..., V].
    labels: int [...].
    mask: see `cross_entropy`.

  Returns:
    float32 [].
  """
  right = jnp.argmax(logits, axis=-1) == labels
  return _mean(right.astype(jnp.float32), mask)


def _mean(x: Array, mask: Array | None) -> Array:
  if mask is None:
    return jnp.mean(x)
  weight = mask.astype(jnp.float32)
  total = jnp.sum(weight)
  kept = jnp.sum(jnp.where(weight > 0, x * weight, 0.0))
  return kept / jnp.where(total > 0, total, 1.0)
