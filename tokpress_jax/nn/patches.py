"""Images and videos as rows of patches, and back.

Dimension letters: B batch, T frames, H rows, W columns, C channels, f frames of
a patch, p its side, t = T / f, h = H / p, w = W / p.
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


def patchify_video(video: Array, frames: int, patch: int) -> Array:
  """Cuts videos into boxes of pixels.

  Args:
    video: [B, T, H, W, C].
    frames: f.
    patch: p.

  Returns:
    [B, t, h, w, f * p * p * C]; within a box frames, rows, columns, channels.

  Raises:
    ValueError: if boxes do not tile the video.
  """
  batch, length, height, width, channels = video.shape
  check_patch((height, width), patch)
  if frames < 1 or length % frames:
    raise ValueError(
      f'a video of {length} frames is not divisible into boxes of {frames} '
      'frames; cut it or repeat its last frame'
    )
  t, h, w = length // frames, height // patch, width // patch
  x = video.reshape(batch, t, frames, h, patch, w, patch, channels)
  return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t, h, w, -1)


def unpatchify_video(boxes: Array, frames: int, patch: int) -> Array:
  """Joins boxes [B, t, h, w, f * p * p * C] into videos [B, T, H, W, C]."""
  batch, t, h, w, features = boxes.shape
  channels = features // (frames * patch**2)
  x = boxes.reshape(batch, t, h, w, frames, patch, patch, channels)
  x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(batch, t * frames, h * patch, w * patch, channels)


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
