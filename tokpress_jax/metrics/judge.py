"""An independent classifier that has never seen our models.

It tells whether a class-conditional sample shows its class, and gives the
feature space of the Fréchet distance and of precision and recall where no
published network fits (8x8 scans). A few small multilayer perceptrons are
trained together on the training images with shifts, turns, scalings and
noise; their probabilities are averaged. Seconds on two CPU cores, and the
same result for the same seed on the same machine.

Dimensions: B batch, H W C images, K classes, M members, F features.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from tokpress_jax.losses import cross_entropy
from tokpress_jax.nn import resize as resize_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
  """Size and training of the judge.

  Attributes:
    members: M, networks in the ensemble.
    hidden: width of the two hidden layers.
    features: F, width of the last hidden layer.
    max_size: larger images are shrunk to this side first (area).
    steps: of training.
    batch_size: images a step, for each member.
    learning_rate: peak of a cosine schedule.
    shift: largest shift, as a fraction of the side.
    turn: largest turn, in radians.
    scale: largest relative change of size.
    noise: standard deviation of pixel noise, images being in [-1, 1].
    flip: whether a mirrored image is of the same class.
  """

  members: int = 3
  hidden: int = 256
  features: int = 64
  max_size: int = 16
  steps: int = 400
  batch_size: int = 128
  learning_rate: float = 3e-3
  shift: float = 0.12
  turn: float = 0.25
  scale: float = 0.12
  noise: float = 0.2
  flip: bool = False


class _Network(nn.Module):
  config: JudgeConfig
  num_classes: int

  @nn.compact
  def __call__(self, images):
    c = self.config
    height, width = (min(s, c.max_size) for s in images.shape[1:3])
    x = resize_lib.resize(images, (height, width), method='area')
    x = x.reshape(len(x), -1)
    for size in (c.hidden, c.hidden, c.features):
      x = nn.gelu(nn.LayerNorm()(nn.Dense(size)(x)))
    return nn.Dense(self.num_classes)(x), x


@struct.dataclass
class Judge:
  """A trained judge; all methods take float images in [-1, 1].

  Attributes:
    params: of all members, stacked on the first axis.
    config: how it was made.
    num_classes: K.
  """

  params: Any
  config: JudgeConfig = struct.field(pytree_node=False)
  num_classes: int = struct.field(pytree_node=False)

  def probabilities(self, images: np.ndarray | Array) -> Array:
    """The members' mean probabilities: [B, H, W, C] to float32 [B, K]."""
    return _judge(self, jnp.asarray(images))[0]

  def predict(self, images: np.ndarray | Array) -> Array:
    """The most probable class, int32 [B]."""
    return jnp.argmax(self.probabilities(images), axis=-1)

  def features(self, images: np.ndarray | Array) -> Array:
    """The first member's last hidden layer, float32 [B, F]."""
    return _judge(self, jnp.asarray(images))[1]


@jax.jit
def _judge(judge: Judge, images: Array) -> tuple[Array, Array]:
  network = _Network(judge.config, judge.num_classes)
  logits, features = jax.vmap(network.apply, in_axes=(0, None))(
    judge.params, images.astype(jnp.float32)
  )
  return jnp.mean(jax.nn.softmax(logits), axis=0), jnp.asarray(features)[0]


def class_agreement(
  judge: Judge, images: np.ndarray | Array, labels: np.ndarray | Array
) -> float:
  """The fraction of images that the judge gives their label.

  On held-out real images this is the judge's accuracy, the ceiling of what a
  generator's samples can be expected to reach.

  Args:
    judge: trained on the same classes.
    images: float [B, H, W, C] in [-1, 1].
    labels: int [B], the classes that were asked for.

  Returns:
    A fraction in [0, 1].
  """
  return float(np.mean(np.asarray(judge.predict(images)) == labels))


def train_judge(
  images: np.ndarray | Array,
  labels: np.ndarray | Array,
  *,
  num_classes: int,
  seed: int = 0,
  config: JudgeConfig | None = None,
) -> Judge:
  """Trains a judge from nothing.

  Args:
    images: float [N, H, W, C] in [-1, 1], training images only.
    labels: int [N] in [0, K).
    num_classes: K.
    seed: of initialisation, order and augmentation.
    config: size and training; None for the defaults.

  Returns:
    The judge.

  Raises:
    ValueError: if the images are not floats in [-1, 1] or a label is out of
      range.
  """
  low, high = float(np.min(images)), float(np.max(images))
  if np.asarray(images).dtype.kind != 'f' or max(-low, high) > 1:
    raise ValueError(
      f'Expected float images in [-1, 1]; got {images.dtype} in '
      f'[{low}, {high}]. uint8 images become floats by x / 127.5 - 1.'
    )
  first, last = int(np.min(labels)), int(np.max(labels))
  if first < 0 or last >= num_classes:
    raise ValueError(
      f'Labels lie in {first} .. {last}; expected 0 .. {num_classes - 1}.'
    )
  config = config or JudgeConfig()
  keys = jax.random.split(jax.random.key(seed), config.members)
  params = _train(
    jnp.asarray(images, jnp.float32),
    jnp.asarray(labels, jnp.int32),
    keys,
    config,
    num_classes,
  )
  return Judge(params=params, config=config, num_classes=num_classes)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _train(images, labels, keys, config, num_classes):
  """All members at once; one compiled loop."""
  network = _Network(config, num_classes)
  schedule = optax.cosine_onecycle_schedule(config.steps, config.learning_rate)
  optimizer = optax.adamw(schedule, weight_decay=0.02)

  def member_step(params, state, key):
    pick, change = jax.random.split(key)
    index = jax.random.randint(pick, (config.batch_size,), 0, len(images))
    batch = jax.vmap(functools.partial(augment, config=config))(
      images[index], jax.random.split(change, config.batch_size)
    )

    def loss(params):
      logits, _ = network.apply(params, batch)
      return cross_entropy(logits, labels[index], smoothing=0.05)

    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  def step(carry, index):
    at_step = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
    return jax.vmap(member_step)(carry[0], carry[1], at_step), None

  params = jax.vmap(lambda key: network.init(key, images[:1]))(keys)
  state = jax.vmap(optimizer.init)(params)
  (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(config.steps))
  return params


def augment(image: Array, key: Array, *, config: JudgeConfig) -> Array:
  """Moves, turns, scales and blurs one image with noise.

  Args:
    image: [H, W, C].
    key: a key.
    config: how much.

  Returns:
    [H, W, C]; the edge is repeated where the image does not reach.
  """
  keys = jax.random.split(key, 5)
  height, width, channels = image.shape
  size = jnp.array([height, width], jnp.float32)
  shift = config.shift * size * jax.random.uniform(keys[0], (2,), minval=-1)
  turn = config.turn * jax.random.uniform(keys[1], minval=-1)
  zoom = jnp.exp(config.scale * jax.random.uniform(keys[2], (2,), minval=-1))
  cos, sin = jnp.cos(turn), jnp.sin(turn)
  matrix = jnp.array([[cos, -sin], [sin, cos]]) * zoom[:, None]
  if config.flip:
    side = jnp.where(jax.random.bernoulli(keys[4]), 1.0, -1.0)
    matrix = matrix * jnp.stack([jnp.ones(()), side])[None]
  grid = jnp.stack(
    jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij')
  ).astype(jnp.float32)
  centre = ((size - 1) / 2)[:, None, None]
  where = jnp.einsum('ij,jhw->ihw', matrix, grid - centre) + centre
  where = where + shift[:, None, None]
  moved = jnp.stack(
    [
      jax.scipy.ndimage.map_coordinates(
        image[..., c], list(where), order=1, mode='nearest'
      )
      for c in range(channels)
    ],
    axis=-1,
  )
  noise = config.noise * jax.random.normal(keys[3], image.shape)
  return moved + noise
