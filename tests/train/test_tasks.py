"""The tasks without the trainer: losses, updates and measures by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax import quantize, tokenizers
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.generators import MaskGITConfig, NextTokenConfig
from tokpress_jax.io import export
from tokpress_jax.train.tasks import (
  ClassifierTask,
  GeneratorTask,
  TokenizerTask,
)

B, CLASSES = 6, 3
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=8,
  channels=1,
  num_classes=CLASSES,
)
KEY, STEP = jax.random.key(3), jnp.int32(0)
RNG = np.random.default_rng(0)
BATCH = {
  'image': RNG.integers(0, 256, size=(B, 8, 8, 1), dtype=np.uint8),
  'label': np.array([0, 1, 2, 0, 1, 2], np.int32),
  'valid': np.array([True] * 4 + [False] * 2),
  'index': np.arange(B),
}
# The same real images; what is padding holds anything.
JUNK = BATCH | {
  'image': np.where(
    BATCH['valid'][:, None, None, None], BATCH['image'], 255 - BATCH['image']
  ),
  'label': np.where(BATCH['valid'], BATCH['label'], -1).astype(np.int32),
}
IMAGES = (BATCH['image'] / 127.5 - 1).astype(np.float32)


def initial(task):
  """Fresh variables, moved away from zero."""
  variables = jax.jit(task.init)(jax.random.key(0))
  return jax.tree.map(lambda x: x + 0.01, variables)


@functools.cache
def loss_of(task):
  (program,) = task.programs()
  return jax.jit(
    lambda variables, batch: program.loss(variables, batch, KEY, STEP)
  )


@functools.cache
def evaluation_of(task):
  return jax.jit(lambda variables, batch: task.evaluate(variables, batch, KEY))


def apply(module, variables, *args, **kwargs):
  """Compiled: a third of the time of running it operation by operation."""
  return jax.jit(lambda v, *args: module.apply(v, *args, **kwargs))(
    variables, *args
  )


def assert_close(a, b, atol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol), a, b
  )


def cross_entropy(logits, labels):
  """-log softmax at the labels, in float64."""
  logits = np.float64(logits)
  log_z = np.log(np.exp(logits).sum(-1))
  return log_z - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def assert_padding_is_ignored(task, variables):
  """In the loss, its metrics and updates, and in the evaluation."""
  run = loss_of(task)
  want, found = run(variables, BATCH), run(variables, JUNK)
  assert_close(found, want)
  assert np.isfinite(want[0])
  want = evaluation_of(task)(variables, BATCH)
  assert_close(evaluation_of(task)(variables, JUNK), want)


EMA = dataclasses.replace(
  tiny_models.ONE_D,
  quantizer=quantize.VQConfig(
    codebook_size=16, dim=4, learning='ema', decay=0.5, revive_below=0.1
  ),
)


@functools.cache
def tokenizer_task(model=EMA, **options):
  task = TokenizerTask(model=model, **options).bind(INFO)
  return task, initial(task)


def test_tokenizer_loss_is_reconstruction_plus_the_bottleneck():
  task, variables = tokenizer_task(lengths='none', loss_weight=2.0)
  loss, metrics, _ = loss_of(task)(variables, BATCH)
  out = apply(task.model.build(), variables, IMAGES[:4])
  mse = np.mean((np.float64(out.images) - IMAGES[:4]) ** 2)
  np.testing.assert_allclose(metrics['mse'], mse, rtol=1e-4)
  commitment = out.quantized.losses['commitment']
  np.testing.assert_allclose(metrics['commitment'], commitment, rtol=1e-4)
  np.testing.assert_allclose(loss, 2 * mse + commitment, rtol=1e-4)
  codes = np.asarray(out.quantized.codes)
  used = np.unique(codes).size / 16
  np.testing.assert_allclose(metrics['code_usage'], used, rtol=1e-5)
  assert metrics['mean_length'] == 3


def test_tokenizer_loss_runs_through_prefixes():
  task, variables = tokenizer_task(loss='l1', full=0.0)
  length = tokenizers.sample_lengths(KEY, B, (1, 2, 3))
  assert np.unique(length).size > 1
  batch = {k: v for k, v in BATCH.items() if k != 'valid'}
  loss, metrics, updates = loss_of(task)(variables, batch)
  module = task.model.build()
  out = apply(module, variables, IMAGES, length, method='reconstruct')
  want = np.mean(np.abs(np.float64(out.images) - IMAGES)) + out.quantized.loss
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  np.testing.assert_allclose(metrics['mean_length'], length.mean(), rtol=1e-5)
  # Only tokens within a length are counted, and the sums add over a batch.
  assert updates['stats'].count.sum() == length.sum()


def test_tokenizer_ignores_padding():
  task, variables = tokenizer_task()
  assert_padding_is_ignored(task, variables)
  _, _, updates = loss_of(task)(variables, BATCH)
  length = tokenizers.sample_lengths(KEY, B, (1, 2, 3), full=task.full)
  assert updates['stats'].count.sum() == length[:4].sum()


def test_commit_moves_the_codebook_and_nothing_else():
  task, variables = tokenizer_task()
  _, _, updates = loss_of(task)(variables, BATCH)
  new = jax.jit(task.commit)(variables, updates, KEY, STEP)
  assert_close(new['params'], variables['params'], atol=0)
  old = variables['codebook']['quantizer']
  found = new['codebook']['quantizer']
  count, total = updates['stats'].count, updates['stats'].total
  # Half the old average and half this batch; then dead codes split busy ones.
  usage = 0.5 * old['usage'] + 0.5 * count * 16 / count.sum()
  weight = 0.5 * old['weight'] + 0.5 * count
  np.testing.assert_allclose(found['usage'].sum(), usage.sum(), rtol=1e-5)
  np.testing.assert_allclose(found['weight'].sum(), weight.sum(), rtol=1e-5)
  alive = np.asarray(usage >= 0.1)
  mean = (0.5 * old['total'] + 0.5 * total) / weight[:, None]
  np.testing.assert_allclose(
    found['codebook'][alive], mean[alive], rtol=1e-3, atol=1e-4
  )
  assert np.abs(found['codebook'] - old['codebook']).max() > 0.01


def test_commit_without_statistics_changes_nothing():
  task, variables = tokenizer_task()
  _, _, updates = loss_of(task)(variables, BATCH)
  none = jax.tree.map(jnp.zeros_like, updates)
  new = jax.jit(task.commit)(variables, none, KEY, STEP)
  assert_close(new, variables, atol=0)


@pytest.mark.parametrize(
  'model',
  [
    dataclasses.replace(
      tiny_models.ONE_D, quantizer=quantize.FSQConfig(levels=(3, 3, 2))
    ),
    tiny_models.MULTI_SCALE,
  ],
  ids=['fsq', 'multi_scale'],
)
def test_every_bottleneck_passes_through_the_task(model):
  task, variables = tokenizer_task(model)
  loss, metrics, updates = loss_of(task)(variables, BATCH)
  assert np.isfinite(loss) and 0 < metrics['code_usage'] <= 1
  new = jax.jit(task.commit)(variables, updates, KEY, STEP)
  assert jax.tree.structure(new) == jax.tree.structure(variables)
  assert_close(new['params'], variables['params'], atol=0)


def test_continuous_tokens_pass_through_the_task():
  tower = tokenizers.TowerConfig(width=8, depth=1, heads=2)
  model = tokenizers.TiTokConfig(
    image_size=8,
    channels=1,
    patch=4,
    tokens=2,
    encoder=tower,
    decoder=tower,
    quantizer=quantize.GaussianConfig(dim=2, kl_weight=0.1),
  )
  task, variables = tokenizer_task(model)
  loss, metrics, updates = loss_of(task)(variables, BATCH)
  assert np.isfinite(loss) and metrics['kl'] > 0 and not updates
  assert jax.jit(task.commit)(variables, updates, KEY, STEP).keys() == (
    variables.keys()
  )
  found = evaluation_of(task)(variables, BATCH)
  assert 'psnr_2' in found and 'bits_per_pixel' not in found
  texts = dataclasses.replace(task, model=dataclasses.replace(
    model, text_tokens=3))  # fmt: skip
  with pytest.raises(UserError, match='no data set here has texts'):
    texts.bind(INFO)


def test_tokenizer_evaluation_equals_recomputation():
  task, variables = tokenizer_task()
  found = evaluation_of(task)(variables, BATCH)
  module = task.model.build()
  encoded = apply(module, variables, IMAGES, method='encode')
  decode = jax.jit(
    lambda n: module.apply(
      variables, encoded.codes, length=n, method='decode_codes'
    )
  )
  for n in (1, 2, 3):
    again = decode(n)
    mse = np.square((np.float64(again) - IMAGES) / 2).mean(axis=(1, 2, 3))
    want = (-10 * np.log10(mse))[:4].sum()
    np.testing.assert_allclose(found[f'psnr_{n}'], (want, 4), rtol=1e-4)
  assert found['psnr'] == found['psnr_3']
  np.testing.assert_allclose(found['bits_per_pixel'], (4 * 3 * 4 / 64, 4))


def test_bfloat16_task_keeps_float32_variables_and_losses():
  task, variables = tokenizer_task(precision='bfloat16')
  loss, metrics, updates = loss_of(task)(variables, BATCH)
  dtypes = {x.dtype for x in jax.tree.leaves((variables, loss, metrics))}
  assert dtypes == {jnp.dtype('float32')}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, updates)))


@functools.cache
def generator_task(folder, kind='scale_wise', info=INFO):
  if kind == 'scale_wise':
    loaded = tiny_models.scale_wise().tokenizer
    model = dataclasses.replace(
      tiny_models.SCALE_WISE, codebook_size=7, latent_dim=2, num_classes=9
    )
  else:
    loaded = tiny_models.one_d()
    model = NextTokenConfig(width=16, depth=1, heads=2)
  path = export.export(loaded.module, loaded.variables, f'{folder}/{kind}')
  model = dataclasses.replace(model, class_dropout=0.0)
  task = GeneratorTask(model=model, tokenizer=str(path)).bind(info)
  return task, initial(task) | {'frozen': task.constants()}, loaded


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return str(tmp_path_factory.mktemp('tokenizers'))


kinds = pytest.mark.parametrize('kind', ['scale_wise', 'next_token'])


@kinds
def test_generator_is_fitted_to_its_tokenizer_and_data(folder, kind):
  task, variables, loaded = generator_task(folder, kind)
  assert task.model.codebook_size == 16 and task.model.num_classes == CLASSES
  assert task.model.boundaries == loaded.boundaries
  task.model.check_tokenizer(loaded)
  assert_close(variables['frozen'], loaded.variables, atol=0)
  model = task.export(variables)
  assert model.tokenizer.spec.config == loaded.spec.config
  assert 'frozen' not in model.variables


@kinds
def test_generator_loss_is_the_cross_entropy_of_the_codes(folder, kind):
  task, variables, loaded = generator_task(folder, kind)
  loss, metrics, updates = loss_of(task)(variables, BATCH)
  assert updates == {}

  @jax.jit
  def logits_of(params, loaded):
    codes = loaded.encode(IMAGES[:4]).codes
    x = codes[..., 0] if kind == 'next_token' else loaded.next_inputs(codes)
    return codes[..., 0], task.model.build().apply(
      {'params': params}, x, BATCH['label'][:4]
    )

  codes, logits = map(np.asarray, logits_of(variables['params'], loaded))
  want = cross_entropy(logits, codes).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  right = np.mean(np.argmax(logits, -1) == codes)
  np.testing.assert_allclose(metrics['accuracy'], right, rtol=1e-5)
  found = evaluation_of(task)(variables, BATCH)
  count = 4 * codes.shape[1]
  np.testing.assert_allclose(found['loss'], (want * count, count), rtol=1e-4)
  np.testing.assert_allclose(found['accuracy'], (right * count, count))


@kinds
def test_generator_ignores_padding(folder, kind):
  task, variables, _ = generator_task(folder, kind)
  assert_padding_is_ignored(task, variables)


@kinds
def test_a_gradient_step_learns_and_leaves_the_tokenizer(folder, kind):
  task, variables, _ = generator_task(folder, kind)
  (program,) = task.programs()
  value = lambda v: program.loss(v, BATCH, KEY, STEP)[0]
  loss, grads = jax.jit(jax.value_and_grad(value))(variables)
  assert all(not np.any(g) for g in jax.tree.leaves(grads['frozen']))
  params = jax.tree.map(
    lambda p, g: p - 0.1 * g, variables['params'], grads['params']
  )
  assert loss_of(task)(variables | {'params': params}, BATCH)[0] < loss


def test_shown_tokens_of_a_masked_generator_have_a_weight(folder):
  _, _, loaded = generator_task(folder, 'next_token')
  model = MaskGITConfig(
    width=16, depth=1, heads=2, class_dropout=0.0, dropout=0.0
  )
  task = GeneratorTask(
    model=model, tokenizer=f'{folder}/next_token', unmasked_weight=0.1
  ).bind(INFO)
  variables = initial(task) | {'frozen': task.constants()}
  loss, metrics, _ = loss_of(task)(variables, BATCH)

  @jax.jit
  def run(params, loaded):
    codes = loaded.encode(IMAGES).codes
    seen = task.model.train_inputs(codes, None, jax.random.split(KEY)[1])
    module = task.model.build()
    logits = module.apply({'params': params}, seen, BATCH['label'])
    return codes[:4, :, 0], seen[:4], logits[:4]  # The rest is padding.

  codes, seen, logits = map(np.asarray, run(variables['params'], loaded))
  masked = seen == task.model.mask_code
  assert 0 < masked.sum() < masked.size
  weight = np.where(masked, 1.0, 0.1)
  want = (cross_entropy(logits, codes) * weight).sum() / weight.sum()
  np.testing.assert_allclose(loss, want, rtol=1e-4)
  right = (logits.argmax(-1) == codes)[masked].mean()
  np.testing.assert_allclose(metrics['accuracy'], right, rtol=1e-5)


def test_generator_of_unlabelled_data_has_no_classes(folder):
  info = dataclasses.replace(INFO, num_classes=0)
  task, variables, _ = generator_task(folder, 'next_token', info)
  assert task.model.num_classes == 0
  # Labels of -1, as unlabelled data has them, are not looked at.
  batch = BATCH | {'label': np.full(B, -1, np.int32)}
  loss, _, _ = loss_of(task)(variables, batch)
  assert_close(loss_of(task)(variables, BATCH)[0], loss, atol=0)


def test_generator_needs_its_own_kind_of_tokenizer(folder):
  bare = GeneratorTask(model=NextTokenConfig())
  with pytest.raises(UserError, match=r'--task\.tokenizer'):
    bare.bind(INFO)
  with pytest.raises(UserError, match='nowhere'):
    dataclasses.replace(bare, tokenizer='nowhere/at/all').bind(INFO)
  task, _, _ = generator_task(folder, 'next_token')
  wrong = dataclasses.replace(task, model=tiny_models.SCALE_WISE)
  with pytest.raises(UserError, match='a multi-scale tokenizer, this one is'):
    wrong.bind(INFO)


@functools.cache
def classifier_task(**options):
  task = ClassifierTask(model=tiny_models.VIT, **options).bind(INFO)
  return task, initial(task)


def test_classifier_loss_is_smoothed_cross_entropy():
  task, variables = classifier_task(smoothing=0.2)
  loss, metrics, updates = loss_of(task)(variables, BATCH)
  assert updates == {}
  logits = apply(task.model.build(), variables, IMAGES[:4]).logits
  labels = BATCH['label'][:4]
  every = [cross_entropy(logits, np.full(4, v)) for v in range(CLASSES)]
  want = 0.8 * cross_entropy(logits, labels) + 0.2 * np.mean(every, axis=0)
  np.testing.assert_allclose(loss, want.mean(), rtol=1e-4)
  right = np.argmax(logits, -1) == labels
  np.testing.assert_allclose(metrics['accuracy'], right.mean())
  found = evaluation_of(task)(variables, BATCH)
  np.testing.assert_allclose(found['accuracy'], (right.sum(), 4))


def test_classifier_ignores_padding():
  assert_padding_is_ignored(*classifier_task())


def test_classifier_takes_its_classes_from_the_data():
  info = dataclasses.replace(INFO, num_classes=5)
  task = ClassifierTask(model=tiny_models.VIT).bind(info)
  assert task.model.classes == 5
  with pytest.raises(UserError, match="'tiny' has no classes to learn"):
    task.bind(dataclasses.replace(INFO, num_classes=0))


@pytest.mark.parametrize('kind', ['tokenizer', 'generator', 'classifier'])
@pytest.mark.parametrize(
  'change, said',
  [
    ({'image_size': 16}, 'images of side 16 with 1 channels'),
    ({'image_size': None}, 'images of no common size'),
    ({'channels': 3}, 'with 3 channels'),
  ],
)
def test_data_of_another_size_is_refused(folder, kind, change, said):
  task = {
    'tokenizer': lambda: tokenizer_task()[0],
    'generator': lambda: generator_task(folder)[0],
    'classifier': lambda: classifier_task()[0],
  }[kind]()
  with pytest.raises(UserError) as error:
    task.bind(dataclasses.replace(INFO, **change))
  assert 'takes images of side 8 with 1 channels' in str(error.value)
  assert said in str(error.value)
  assert '--data.image-size 8 --data.channels 1' in str(error.value)
