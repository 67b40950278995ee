"""Training a CLIP: the two towers come to agree, whichever loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tokpress_jax import models
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io.words import WordCodec
from tokpress_jax.models import clip
from tokpress_jax.train.tasks import ContrastiveTask

B, SIZE = 6, 8
CODEC = WordCodec(words=('black', 'grey', 'white'), length=4)
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=SIZE,
  channels=1,
  num_classes=3,
  codec=CODEC,
)
LABELS = np.arange(B) % 3
BATCH = {
  'image': np.broadcast_to(
    (100 * LABELS)[:, None, None, None], (B, SIZE, SIZE, 1)
  ).astype(np.uint8),
  'text': np.asarray(CODEC.encode([CODEC.words[i] for i in LABELS])),
  'valid': np.array([True] * 5 + [False]),
}


def make(loss, **fields):
  config = models.CLIPConfig(
    image=models.ViTConfig(
      image_size=SIZE,
      channels=1,
      patch=4,
      classes=0,
      features=8,
      width=16,
      depth=2,
      heads=2,
      mlp_ratio=1.0,
    ),
    text=models.ClipTextConfig(
      width=16, depth=2, heads=2, mlp_ratio=1.0, features=8
    ),
    **fields,
  )
  return ContrastiveTask(model=config, loss=loss)


@pytest.mark.parametrize(
  ('loss', 'bias'), [('softmax', None), ('sigmoid', -3.0)]
)
def test_towers_come_to_agree(loss, bias):
  task = make(loss, bias=bias).bind(INFO)
  assert task.model.words == CODEC.words
  (program,) = task.programs()
  optimiser = optax.adam(3e-3)
  key = jax.random.key(0)

  @jax.jit
  def step(variables, state):
    value = lambda v: program.loss(v, BATCH, key, jnp.int32(0))[:2]
    (total, found), gradient = jax.value_and_grad(value, has_aux=True)(
      variables
    )
    change, state = optimiser.update(gradient, state)
    return optax.apply_updates(variables, change), state, total, found

  variables = jax.jit(task.init)(key)
  state = optimiser.init(variables)
  first = None
  for _ in range(60):
    variables, state, total, found = step(variables, state)
    first = total if first is None else first
  assert total < 0.6 * first
  assert found['image_to_text'] == found['text_to_image'] == 1
  measured = jax.jit(task.evaluate)(variables, BATCH, key)
  assert all(float(a) == float(b) == 5 for a, b in measured.values())

  # What is exported compares typed texts with images.
  loaded = task.export(variables)
  image, text = models.clip_towers(loaded)
  pictures = image(jnp.asarray(BATCH['image'][:3] / 127.5 - 1, jnp.float32))
  codes = loaded.module.config.codes(['white', 'black', 'grey'])
  alike = clip.unit(pictures.pooled) @ clip.unit(text(codes).pooled).T
  np.testing.assert_array_equal(alike.argmax(axis=1), [1, 2, 0])


def test_padding_does_not_count():
  task = make('softmax').bind(INFO)
  variables = jax.jit(task.init)(jax.random.key(0))
  (program,) = task.programs()
  other = BATCH | {'image': BATCH['image'].copy()}
  other['image'][5] = 255 - other['image'][5]
  run = jax.jit(
    lambda batch: program.loss(variables, batch, jax.random.key(1), 0)[0]
  )
  np.testing.assert_allclose(run(BATCH), run(other), rtol=1e-6)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match=r'has no texts.*scenes'):
    make('softmax').bind(dataclasses.replace(INFO, codec=None))
  with pytest.raises(UserError, match=r'needs a bias.*model\.bias=-10'):
    make('sigmoid').bind(INFO)
