"""The Inception network whose features are the FID's.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision"
(arXiv:1512.00567) as TensorFlow released it on 2015-12-05, with 1008 outputs.
It is not torchvision's Inception: average pooling leaves the padding out of the
mean, the last block pools by the maximum, and the weights are others. A FID is
comparable with published ones with this network alone.

The weights are published as `pt_inception-2015-12-05-6726825d.pth` (the release
`fid_weights` of github.com/mseitzer/pytorch-fid) and, the same file, as
`weights-inception-2015-12-05-6726825d.pth` (the release `v0.2.0` of
github.com/toshas/torch-fidelity); `RULES` reads both.

Everything is float32, convolutions at the highest precision, because bfloat16
passes move a FID in its second digit.

Dimension letters: B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap, safetensors
from tokpress_jax.nn import conv2d

Array = jax.Array

SIZE = 299  # pixels on each side of what the network sees
CLASSES = 1008
POOL_FEATURES = 2048
SPATIAL_CHANNELS = 7
SPATIAL_FEATURES = 17 * 17 * SPATIAL_CHANNELS
FILE = 'pt_inception-2015-12-05-6726825d.pth'
_URL = f'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}'
WHERE = (
  f'The weights are published as {_URL}; make a safetensors file of them:\n'
  f'  tokpress convert inception {FILE} --out inception.safetensors'
)

_CONV = r'(Conv2d_\w+)'
_BRANCH = r'(Mixed_\w+)\.(\w+)'
RULES = (
  *(
    rule
    for name, ours in ((_CONV, r'\1'), (_BRANCH, r'\1/\2'))
    for rule in (
      keymap.Rule(
        rf'{name}\.conv\.weight', f'params/{ours}/kernel', keymap.CONV
      ),
      keymap.Rule(rf'{name}\.bn\.weight', f'params/{ours}/bn/scale'),
      keymap.Rule(rf'{name}\.bn\.bias', f'params/{ours}/bn/bias'),
      keymap.Rule(rf'{name}\.bn\.running_mean', f'batch_stats/{ours}/bn/mean'),
      keymap.Rule(rf'{name}\.bn\.running_var', f'batch_stats/{ours}/bn/var'),
    )
  ),
  keymap.Rule(r'fc\.weight', 'params/fc/kernel', keymap.LINEAR),
  keymap.Rule(r'fc\.bias', 'params/fc/bias'),
  keymap.Rule(r'.*\.num_batches_tracked', None),
)


@struct.dataclass
class InceptionFeatures:
  """What the network says of images; float32.

  Attributes:
    pool: [B, 2048], the mean over places after the last block (`pool_3:0` of
      the TensorFlow graph): the features of FID, precision and recall.
    spatial: [B, 17 * 17 * 7], the features of sFID: the first seven channels of
      `mixed_6/conv:0`, which is the 1x1 branch of `Mixed_6d` after its ReLU (so
      the first channels of that block), by rows, columns, channels.
    logits_unbiased: [B, 1008], of the Inception score: the last layer without
      its bias.
    logits: [B, 1008], with the bias.
    pool_64: [B, 64], the mean after the first maximum pooling.
    pool_192: [B, 192], the mean after the second.
    pool_768: [B, 768], the mean after `Mixed_6e`.
  """

  pool: Array
  spatial: Array
  logits_unbiased: Array
  logits: Array
  pool_64: Array
  pool_192: Array
  pool_768: Array


class Inception(nn.Module):
  """The network; images come in as `pixels.preprocess` leaves them."""

  @nn.compact
  def __call__(self, images: Array) -> InceptionFeatures:
    """Computes all features.

    Args:
      images: float32 [B, 299, 299, 3], about -1 to 1.

    Raises:
      ValueError: if they have another shape.
    """
    if images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3):
      raise ValueError(
        f'The network takes images [B, {SIZE}, {SIZE}, 3]; got {images.shape}. '
        'metrics.preprocess makes them of uint8 images of any size.'
      )
    x = images.astype(jnp.float32)
    x = _Conv(32, (3, 3), 2, name='Conv2d_1a_3x3')(x)
    x = _Conv(32, (3, 3), pad=False, name='Conv2d_2a_3x3')(x)
    x = _Conv(64, (3, 3), name='Conv2d_2b_3x3')(x)
    x = _shrink(x)
    pool_64 = _mean(x)
    x = _Conv(80, (1, 1), name='Conv2d_3b_1x1')(x)
    x = _Conv(192, (3, 3), pad=False, name='Conv2d_4a_3x3')(x)
    x = _shrink(x)
    pool_192 = _mean(x)
    kept = {}
    for name, branches in _BLOCKS.items():
      x = _Mixed(branches, name=name)(x)
      kept[name] = x
    pool = _mean(x)
    spatial = kept['Mixed_6d'][..., :SPATIAL_CHANNELS]
    dense = _Linear(CLASSES, name='fc')
    unbiased, logits = dense(pool)
    return InceptionFeatures(
      pool=pool,
      spatial=spatial.reshape(len(x), -1),
      logits_unbiased=unbiased,
      logits=logits,
      pool_64=pool_64,
      pool_192=pool_192,
      pool_768=_mean(kept['Mixed_6e']),
    )


class _Conv(nn.Module):
  """Convolution, batch normalisation by stored statistics, ReLU."""

  features: int
  kernel: tuple[int, int]
  stride: int = 1
  pad: bool = True

  @nn.compact
  def __call__(self, x):
    rows, columns = self.kernel
    shape = (rows, columns, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    # A halving pads nothing; of the others two do not either.
    if not self.pad or self.stride > 1:
      rows = columns = 1
    padding = ((rows // 2, rows // 2), (columns // 2, columns // 2))
    if self.kernel == (1, 1):  # A quarter faster on a CPU than a convolution.
      x = jnp.matmul(x, kernel[0, 0], precision=jax.lax.Precision.HIGHEST)
    else:
      x = conv2d(x, kernel, stride=self.stride, padding=padding)
    x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name='bn')(x)
    return nn.relu(x)


class _Linear(nn.Module):
  features: int

  @nn.compact
  def __call__(self, x):
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    unbiased = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
    return unbiased, unbiased + bias[None]


class _Mixed(nn.Module):
  """Branches side by side, joined on the channels.

  Attributes:
    branches: each a sequence of steps: a pooling by name, (name, features,
      kernel, stride) for a convolution, or a tuple of such that all read the
      same input.
  """

  branches: tuple[Any, ...]

  @nn.compact
  def __call__(self, x):
    return jnp.concatenate([self._run(x, b) for b in self.branches], axis=-1)

  def _run(self, x, steps):
    for step in steps:
      if isinstance(step, str):
        x = _POOLS[step](x)
      elif isinstance(step[0], str):
        name, *shape = step
        x = _Conv(*shape, name=name)(x)
      else:
        x = jnp.concatenate([self._run(x, (fork,)) for fork in step], axis=-1)
    return x


def expected() -> Any:
  """The shapes of the variables."""
  images = jnp.zeros((1, SIZE, SIZE, 3))
  return jax.eval_shape(Inception().init, jax.random.key(0), images)


@dataclasses.dataclass(frozen=True)
class InceptionWeights:
  """The network's weights, and what tells them from others.

  Attributes:
    variables: of `Inception`.
    file: the name of the file.
    sha256: of the file.
    fingerprint: of names, shapes and values, the same in whatever file.
  """

  variables: Any
  file: str
  sha256: str
  fingerprint: str


def load_inception(path: str | os.PathLike[str]) -> InceptionWeights:
  """Reads the weights.

  Args:
    path: a safetensors file, with our names or with the released ones.

  Raises:
    UserError: if there is no such file, or if it holds other weights.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(f'There is no file {str(path)!r}. {WHERE}')
  if path.suffix in ('.pth', '.pt', '.ckpt', '.pkl', '.pb'):
    raise UserError(f'{path} is not read as it is. {WHERE}')
  flat = safetensors.load_flat(path)
  shapes = expected()
  if any(name.startswith('params/') for name in flat):
    rules = tuple(keymap.Rule(n, n) for n in safetensors.flatten(shapes))
  else:
    rules = RULES
  variables = keymap.convert(flat, rules, shapes, where=str(path))
  variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
  return InceptionWeights(
    variables=variables,
    file=path.name,
    sha256=safetensors.file_sha256(path),
    fingerprint=safetensors.fingerprint(variables),
  )


def _shrink(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), strides=(2, 2))


_POOLS = {
  'shrink': _shrink,
  'max': lambda x: nn.max_pool(x, (3, 3), padding='SAME'),
  'mean': lambda x: nn.avg_pool(
    x, (3, 3), padding='SAME', count_include_pad=False
  ),
}


def _mean(x: Array) -> Array:
  return jnp.mean(x, axis=(1, 2))


def _conv(name: str, features: int, *kernel: int, stride: int = 1):
  """A step; the kernel is 1x1, square, or given by rows and columns."""
  kernel = (kernel or (1,)) * (1 if len(kernel) == 2 else 2)
  return (name, features, kernel, stride)


def _a(pool: int):
  return (
    (_conv('branch1x1', 64),),
    (_conv('branch5x5_1', 48), _conv('branch5x5_2', 64, 5)),
    (
      _conv('branch3x3dbl_1', 64),
      _conv('branch3x3dbl_2', 96, 3),
      _conv('branch3x3dbl_3', 96, 3),
    ),
    ('mean', _conv('branch_pool', pool)),
  )


def _b():
  return (
    (_conv('branch3x3', 384, 3, stride=2),),
    (
      _conv('branch3x3dbl_1', 64),
      _conv('branch3x3dbl_2', 96, 3),
      _conv('branch3x3dbl_3', 96, 3, stride=2),
    ),
    ('shrink',),
  )


def _c(width: int):
  return (
    (_conv('branch1x1', 192),),
    (
      _conv('branch7x7_1', width),
      _conv('branch7x7_2', width, 1, 7),
      _conv('branch7x7_3', 192, 7, 1),
    ),
    (
      _conv('branch7x7dbl_1', width),
      _conv('branch7x7dbl_2', width, 7, 1),
      _conv('branch7x7dbl_3', width, 1, 7),
      _conv('branch7x7dbl_4', width, 7, 1),
      _conv('branch7x7dbl_5', 192, 1, 7),
    ),
    ('mean', _conv('branch_pool', 192)),
  )


def _d():
  return (
    (_conv('branch3x3_1', 192), _conv('branch3x3_2', 320, 3, stride=2)),
    (
      _conv('branch7x7x3_1', 192),
      _conv('branch7x7x3_2', 192, 1, 7),
      _conv('branch7x7x3_3', 192, 7, 1),
      _conv('branch7x7x3_4', 192, 3, stride=2),
    ),
    ('shrink',),
  )


def _e(pooling: str):
  return (
    (_conv('branch1x1', 320),),
    (
      _conv('branch3x3_1', 384),
      (_conv('branch3x3_2a', 384, 1, 3), _conv('branch3x3_2b', 384, 3, 1)),
    ),
    (
      _conv('branch3x3dbl_1', 448),
      _conv('branch3x3dbl_2', 384, 3),
      (
        _conv('branch3x3dbl_3a', 384, 1, 3),
        _conv('branch3x3dbl_3b', 384, 3, 1),
      ),
    ),
    (pooling, _conv('branch_pool', 192)),
  )


_BLOCKS = {
  'Mixed_5b': _a(32),
  'Mixed_5c': _a(64),
  'Mixed_5d': _a(64),
  'Mixed_6a': _b(),
  'Mixed_6b': _c(128),
  'Mixed_6c': _c(160),
  'Mixed_6d': _c(160),
  'Mixed_6e': _c(192),
  'Mixed_7a': _d(),
  'Mixed_7b': _e('mean'),
  'Mixed_7c': _e('max'),
}
