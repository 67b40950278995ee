"""Images as rows of patches, and back.

Dimension letters: B batch, H rows, W columns, C channels, p patch side, h = H /
p, w = W / p.
"""

from __future__ import annotations

import jax

Array = jax.Array


def patchify(images: Array, patch: int) -> Array:
  """Cuts images into patches.

  Args:
    images: [B, H, W, C].
    patch: p.

  Returns:
    [B, h, w, p * p * C]; within a patch rows, columns, channels.

  Raises:
    ValueError: if the patch does not divide the image.
  """
  batch, height, width, channels = images.shape
  check_patch((height, width), patch)
  x = images.reshape(
    batch, height // patch, patch, width // patch, patch, channels
  )
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height // patch, width // patch, -1)


def unpatchify(patches: Array, patch: int) -> Array:
  """Joins patches [B, h, w, p * p * C] into images [B, H, W, C]."""
  batch, rows, columns, features = patches.shape
  channels = features // patch**2
  x = patches.reshape(batch, rows, columns, patch, patch, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, rows * patch, columns * patch, channels)


def check_patch(size: tuple[int, int], patch: int) -> None:
  """Checks that patches of side p tile an image of this size.

  Args:
    size: (H, W).
    patch: p.

  Raises:
    ValueError: if they do not.
  """
  if patch < 1 or size[0] % patch or size[1] % patch:
    raise ValueError(
      f'an image of {size[0]} x {size[1]} is not divisible into patches of '
      f'{patch} x {patch}; choose a patch that divides both sides, or set the '
      "data's image_size to a multiple of it"
    )
