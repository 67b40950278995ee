"""A tokenizer against its adversary: VQGAN's training on tiny images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from lpips_weights import released

from tokpress_jax import losses, tokenizers
from tokpress_jax.config import Config
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io import load as load_lib
from tokpress_jax.io import safetensors
from tokpress_jax.quantize import MultiScaleVQConfig, VQConfig
from tokpress_jax.tokenizers import (
  MultiScaleConfig,
  OneDConfig,
  VARTokenizerConfig,
)
from tokpress_jax.train import tree
from tokpress_jax.train.config import MeshConfig, OptimConfig, TrainConfig
from tokpress_jax.train.job import prepare
from tokpress_jax.train.loop import fit
from tokpress_jax.train.step import compile_program
from tokpress_jax.train.tasks import AdversaryConfig, TokenizerTask
from tokpress_jax.train.tasks.adversary import without

B, SIZE = 8, 8
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=SIZE,
  channels=3,
  num_classes=0,
)
QUANTIZER = MultiScaleVQConfig(
  vq=VQConfig(codebook_size=16, dim=4, learning='ema', decay=0.9),
  scales=(1, 2),
  phi=0,
)
MODEL = MultiScaleConfig(
  image_size=SIZE,
  patch=4,
  width=8,
  heads=1,
  encoder_depth=1,
  decoder_depth=1,
  quantizer=QUANTIZER,
)
CONV = VARTokenizerConfig(
  image_size=SIZE,
  patch=4,
  width=4,
  multipliers=(1, 1, 2),
  blocks=1,
  groups=2,
  attention=False,
  quantizer=QUANTIZER,
)
ADVERSARY = AdversaryConfig(
  weight=0.5,
  scaling='fixed',
  lecam=0.1,
  lecam_decay=0.9,
  network=losses.PatchDiscriminatorConfig(width=4, layers=1, groups=2),
)
TASK = TokenizerTask(model=MODEL, lengths='none', adversary=ADVERSARY)
ADAPTIVE = dataclasses.replace(
  TASK,
  model=CONV,
  adversary=dataclasses.replace(ADVERSARY, scaling='adaptive'),
)


DATA = toys.noise(INFO)


def config(task=TASK, *, mesh=None, **train):
  train = {'steps': 3, 'batch_size': B, 'log_every': 1, **train}
  return Config(
    name='tiny',
    task=task,
    train=TrainConfig(**train),
    # Plain descent, in which a rounding stays one.
    optim=OptimConfig(
      name='sgd', schedule='constant', learning_rate=0.02, clip_norm=None
    ),
    mesh=MeshConfig(**(mesh or {})),
  )


def run(config, *, devices=1):
  """Steps of both programs; the states after each, and the metrics."""
  job = prepare(config, devices=jax.devices()[:devices], data=DATA)
  states, found = [], {}
  with jax.set_mesh(job.mesh):
    state, batches, programs = job.init(), job.stream.batches(0), None
    states.append(jax.device_get(state))
    for step in range(config.train.steps):
      batch = job.put(next(batches))
      programs = programs or [compile_program(job, i, batch) for i in (0, 1)]
      for program, compiled in zip(job.programs, programs, strict=True):
        if program.active(step):
          state, metrics = compiled(state, batch, np.int32(step))
          states.append(jax.device_get(state))
          found |= {
            (program.name, k, step): float(v) for k, v in metrics.items()
          }
  assert [p.compilations for p in programs] == [1, 1]
  return states, found


@functools.cache
def single():
  return run(config())


def changed(a, b):
  """The first words of the names of the leaves that differ."""
  a, b = tree.named(a), tree.named(b)
  return {
    '/'.join(name.split('/')[:2]) for name in a if np.any(a[name] != b[name])
  }


def close(a, b, **tolerance):
  tree.map_named(
    lambda name, x, y: np.testing.assert_allclose(
      x, y, err_msg=name, **tolerance
    ),
    a,
    b,
  )


def test_each_side_changes_its_own_part():
  states, found = single()
  params = {f'params/{p}' for p in states[0].variables['params']}
  ours = params - {'params/discriminator', 'params/quantizer'}
  assert len(ours) >= 4
  assert changed(states[0].variables, states[1].variables) == ours | {
    'codebook/quantizer'
  }
  lecam = {f'lecam/{name}' for name in ('real', 'fake', 'weight')}
  assert changed(states[1].variables, states[2].variables) == lecam | {
    'params/discriminator'
  }
  weight = [s.variables['lecam']['weight'] for s in states[2::2]]
  np.testing.assert_allclose(weight, [0.1, 0.19, 0.271], rtol=1e-5)
  real = states[2].variables['lecam']['real'] / 0.1
  np.testing.assert_allclose(real, found['discriminator', 'real', 0], rtol=1e-4)
  assert found['discriminator', 'lecam', 0] == 0
  assert found['discriminator', 'lecam', 1] > 0


def test_devices_and_microbatches_change_nothing():
  mesh = {'data': 2, 'fsdp': 2, 'fsdp_min_size': 64}
  states, found = run(config(mesh=mesh, accumulate=2), devices=4)
  close(states[-1], single()[0][-1], rtol=2e-4, atol=2e-5)
  for name, value in single()[1].items():
    # Codes in use are counted in each microbatch.
    if not name[1].startswith(('code_', 'grad_', 'update_')):
      assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_resuming_keeps_everything(tmp_path):
  whole = fit(config(steps=4, checkpoint_every=2), tmp_path / 'a', data=DATA)
  fit(config(steps=2, checkpoint_every=2), tmp_path / 'b', data=DATA)
  again = fit(config(steps=4, checkpoint_every=2), tmp_path / 'b', data=DATA)
  same = lambda found: {
    k: v
    for k, v in found.items()
    if k.startswith(('tokenizer/', 'discriminator/', 'eval/'))
  }
  assert same(whole) == same(again) and len(same(whole)) > 20
  a, b = (load_lib.load_variables(tmp_path / name) for name in 'ab')
  close(a, b, rtol=0, atol=0)
  assert 'lecam' in a and 'discriminator' in a['params']
  loaded = TASK.export(a)
  assert set(loaded.variables) == {'params', 'codebook'}
  assert 'discriminator' not in loaded.variables['params']


BATCH = {
  k: jnp.asarray(v)
  for k, v in next(DATA.Stream(None, batch_size=B, seed=1).batches()).items()
}
KEY, STEP = jax.random.key(3), jnp.int32(0)


@functools.cache
def initial(task=ADAPTIVE):
  """Any variables: a fresh start would take seconds to compile."""
  rng = np.random.default_rng(0)
  draw = lambda x: np.float32(rng.normal(size=x.shape) * 0.3)
  variables = jax.eval_shape(task.init, jax.random.key(0))
  return {
    kind: jax.tree.map(
      draw if kind == 'params' else lambda x: 0.5 + abs(draw(x)), tree
    )
    for kind, tree in variables.items()
  }


def images():
  return jnp.asarray(BATCH['image'], jnp.float32) / 127.5 - 1


def test_adaptive_weight_equals_two_backward_passes():
  """Of each loss alone through the whole network, as VQGAN's code does it."""
  variables = initial()
  task, game = ADAPTIVE, ADAPTIVE.adversary
  length = jnp.full((B,), CONV.num_tokens)

  def parts(params):
    own = without({**variables, 'params': params})
    out = CONV.build().apply(own, images(), length, method='reconstruct')
    logits = game.judge(variables, out.images, None, jnp.float32)
    alike = losses.l2(out.images, images())
    return alike, losses.generator_loss(logits), out.quantized.loss

  @jax.jit
  def naive(params):
    last = lambda grads: grads['decoder']['conv_out']['kernel']
    a, b = (
      jnp.linalg.norm(last(jax.grad(lambda p: parts(p)[i])(params)).ravel())  # noqa: B023
      for i in (0, 1)
    )
    weight = 0.5 * jnp.clip(a / (b + 1e-4), 0, 1e4)
    total = lambda p: sum(
      x * y for x, y in zip(parts(p), (1, weight, 1), strict=True)
    )
    return weight, *jax.value_and_grad(total)(params)

  @jax.jit
  def ours(params):
    def loss(params):
      total, found, _ = task.programs()[0].loss(
        {**variables, 'params': params}, BATCH, KEY, STEP
      )
      return total, found

    (total, found), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return found, total, grads

  weight, want, slope = naive(variables['params'])
  found, total, grads = ours(variables['params'])
  assert 0.01 < weight < 100
  np.testing.assert_allclose(found['adversarial_weight'], weight, rtol=1e-4)
  np.testing.assert_allclose(total, want, rtol=1e-5)
  close(
    without({'params': grads}), without({'params': slope}), rtol=1e-3, atol=1e-5
  )
  # No gradient leaks into the discriminator.
  assert not any(x.any() for x in jax.tree.leaves(grads['discriminator']))


def test_before_its_start_the_adversary_is_silent():
  late = dataclasses.replace(
    ADAPTIVE, adversary=dataclasses.replace(ADAPTIVE.adversary, start=5)
  )
  tokenizer, discriminator = late.programs()
  assert discriminator.active_from == 5 and discriminator.active(5)

  @jax.jit
  def step(variables, step):
    loss = lambda v: tokenizer.loss(v, BATCH, KEY, step)[:2]
    return jax.value_and_grad(loss, has_aux=True)(variables)

  def moved(before, number):
    (_, found), grads = step(before, jnp.int32(number))
    return found, grads['params']['decoder']['conv_out']['kernel']

  variables = initial()
  found, early = moved(variables, 4)
  assert found['adversarial'] == found['adversarial_weight'] == 0
  found, playing = moved(variables, 5)
  assert found['adversarial_weight'] > 0
  assert np.abs(playing - early).max() > 1e-5
  # Another discriminator changes nothing before, but all after.
  params = variables['params']
  other = jax.tree.map(lambda x: x[..., ::-1], params['discriminator'])
  other = variables | {'params': params | {'discriminator': other}}
  np.testing.assert_array_equal(moved(other, 4)[1], early)
  assert np.abs(moved(other, 5)[1] - playing).max() > 1e-6


def test_perceptual_loss_and_its_file(tmp_path):
  path = tmp_path / 'lpips.safetensors'
  safetensors.save(path, released())
  model = dataclasses.replace(MODEL, image_size=16, patch=8)
  task = TokenizerTask(
    model=model,
    lengths='none',
    perceptual_weight=0.5,
    perceptual_file=str(path),
  ).bind(dataclasses.replace(INFO, image_size=16))
  variables = initial(task) | {'frozen': task.constants()}
  pixels = np.random.default_rng(0).integers(0, 256, (B, 16, 16, 3), np.uint8)
  batch = {'image': pixels, 'valid': np.arange(B) < 3}
  x = np.float32(pixels) / 127.5 - 1

  @jax.jit
  def measure(variables, batch):
    total, found, _ = task.programs()[0].loss(variables, batch, KEY, STEP)
    out = model.build().apply(without(variables), x)
    both = out.images[:3], x[:3]
    distance = losses.LPIPS().apply(variables['frozen']['perceptual'], *both)
    evaluated = task.evaluate(variables, batch, KEY)['perceptual']
    return total, found, distance, losses.l2(*both), evaluated

  total, found, distance, error, evaluated = measure(variables, batch)
  np.testing.assert_allclose(found['perceptual'], distance.mean(), rtol=1e-4)
  rest = error + found['commitment']
  np.testing.assert_allclose(total, rest + 0.5 * distance.mean(), rtol=1e-4)
  assert evaluated[1] == 3 and evaluated[0] > 0
  loaded = task.export(variables)
  assert set(loaded.variables) == {'params', 'codebook'}
  with pytest.raises(UserError, match='no file'):
    dataclasses.replace(task, perceptual_file='nowhere').constants()


def test_scales_that_are_skipped():
  task = dataclasses.replace(TASK, skip=0.5, lengths='uniform', full=0.0)
  variables = initial(TASK)
  loss = jax.jit(lambda v, k: task.programs()[0].loss(v, BATCH, k, STEP))
  _, _, updates = loss(variables, KEY)
  length = tokenizers.sample_lengths(KEY, B, (1, 5))
  keep = np.asarray(length)[:, None] >= np.array([1, 5])
  skipped = np.array(
    jax.random.bernoulli(jax.random.fold_in(KEY, 1), 0.5, (B, 2))
  )
  for row, kept in zip(skipped, keep, strict=True):
    row[kept.sum() - 1] = False  # the finest of each stays
  used = keep & ~skipped
  assert (used != keep).any() and used.any(1).all()
  np.testing.assert_array_equal(
    updates['stats'].count.sum(1), used.sum(0) * [1, 4]
  )


def test_each_scale_is_reported():
  variables = initial(TASK)
  recent = np.zeros((2, 16), np.float32)
  recent[0, :2], recent[1] = 1 / 2, 1 / 16
  recent[0, 5] = 1e-5  # forgotten
  codebook = variables['codebook']['quantizer'] | {'frequency': recent}
  variables = variables | {'codebook': {'quantizer': codebook}}
  loss = jax.jit(lambda v: TASK.programs()[0].loss(v, BATCH, KEY, STEP)[1])
  found = loss(variables)
  for k, n in enumerate((2, 16), start=1):
    assert found[f'perplexity_{k}'] == pytest.approx(n, rel=1e-3)
    assert found[f'usage_{k}'] == n / 16


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'perceptual_weight': 1.0}, 'LPIPS takes images of 16 pixels or more'),
    ({'skip': 0.1}, 'is of tokenizers with scales'),
    ({'adversary': AdversaryConfig(weight=1.0)}, 'layers, or set'),
  ],
)
def test_what_does_not_fit_is_refused(change, said):
  model = OneDConfig(image_size=8, patch=4, width=8, heads=1)
  info = dataclasses.replace(INFO, image_size=8)
  with pytest.raises(UserError, match=said):
    TokenizerTask(model=model, **change).bind(info)


def test_bad_adversary():
  with pytest.raises(ValueError, match='of 0 or more'):
    AdversaryConfig(weight=-1.0)
