"""MaskGen: equal to the official code over codes and over vectors, and taught.

`tests/golden/make_maskgen.py` says what made the golden file. Tolerances are
relative to the standard deviation of the official output.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import maskgen_case
import numpy as np
import optax
import pytest
from redraw import redraw, unpack

from tokpress_jax import generators, quantize, tokenizers, types
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.generators import condition, diffusion, maskgen_keys, sampling
from tokpress_jax.io import export, keymap
from tokpress_jax.train.tasks import GeneratorTask

C = maskgen_case.SMALL
KINDS = ('vq', 'kl')
every_kind = pytest.mark.parametrize('kind', KINDS)
SAMPLERS = {
  'vq': generators.Sampler(
    guidance=maskgen_case.CODES['guidance_scale'],
    schedule='cosine',
    temperature=maskgen_case.CODES['randomize_temperature'],
    choice_temperature=maskgen_case.CODES['randomize_temperature'],
    annealing='noise+softmax',
    steps=maskgen_case.CODES['num_sample_steps'],
  ),
  'kl': generators.Sampler(
    guidance=maskgen_case.VECTORS['cfg'],
    schedule='revealed',
    temperature=maskgen_case.VECTORS['temperature'],
    steps=maskgen_case.VECTORS['num_iter'],
  ),
}


@functools.cache
def golden():
  with np.load(maskgen_case.GOLDEN / 'maskgen.npz') as file:
    return dict(file)


def tensors(kind):
  return redraw(unpack(golden()[f'{kind}_shapes']), rules=maskgen_case.RULES)


@functools.cache
def official(kind):
  config = maskgen_keys.config_of(unpack(golden()[f'{kind}_shapes']))
  config = dataclasses.replace(config, draws=C['draws'])
  variables = keymap.convert(
    maskgen_keys.prepare(tensors(kind)),
    maskgen_keys.RULES,
    maskgen_keys.expected(config),
  )
  spec = types.Spec(name='', family='generator', config=config)
  return types.Loaded(config.build(), variables, spec)


def text(rows=3, **changes):
  given = maskgen_case.texts()
  of_rows = {k: given.pop(k)[:rows] for k in ('features', 'pooled', 'score')}
  return generators.text(
    of_rows.pop('features'), of_rows.pop('pooled'), **of_rows, **given
  ).replace(**changes)


def noised():
  return generators.Noised(
    **{k: jnp.asarray(x) for k, x in maskgen_case.vector_inputs().items()}
  )


def close(ours, theirs, tolerance=1e-4):
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


def tame(monkeypatch):
  """See `tamed` in make_maskgen.py."""
  plain = diffusion.sample

  def sample(schedule, predict, noise, **options):
    signal = jnp.asarray(schedule.signal, jnp.float32)

    def forward(x, k):
      guess, place = jnp.split(predict(x, k), 2, axis=-1)
      guess = jnp.sqrt(1 - signal[k]) * x + jnp.sqrt(signal[k]) * guess
      return jnp.concatenate([guess, place], axis=-1)

    return plain(schedule, forward, noise, **options)

  monkeypatch.setattr(diffusion, 'sample', sample)


@every_kind
def test_config_is_read_off_the_shapes(kind):
  config = official(kind).module.config
  assert (config.width, config.depth, config.heads) == (64, 3, 16)
  assert (config.tokens, config.boundaries) == (7, (7,))
  assert (config.text_features, config.score_features) == (20, 8)
  assert config.mlp_ratio == 4
  if kind == 'vq':
    assert config.head == 'categorical' and config.codebook_size == 24
  else:
    assert config.head == 'diffusion' and config.channels == 3
    assert (config.head_width, config.head_depth) == (32, 2)


def test_logits_are_the_official_ones():
  codes, _ = maskgen_case.code_inputs()
  model = official('vq')
  close(
    jax.jit(model.module.apply)(model.variables, codes, text()),
    golden()['vq_logits'],
  )


def test_the_weight_of_the_logits_may_stand_for_the_embeddings():
  given = tensors('vq')
  given['lm_head.weight'] = given.pop('embeddings.weight')
  shapes = {name: x.shape for name, x in given.items()}
  assert maskgen_keys.config_of(shapes).codebook_size == 24
  same = maskgen_keys.prepare(given)['tokens']
  np.testing.assert_array_equal(
    same, official('vq').variables['params']['token_embed']['embedding']
  )
  assert same.shape == (25, 64)


def test_codes_drawn_with_the_same_noise_are_the_official_ones(monkeypatch):
  rng = jax.random.key(0)
  noise = jnp.asarray(maskgen_case.code_inputs()[1][:, :2])
  fold = jax.vmap(lambda i: jax.random.fold_in(rng, i))
  keys = jax.random.key_data(fold(jnp.arange(len(noise))))

  def given(key, rows, slots, size):
    assert (rows, len(slots), size) == noise.shape[1:]
    same = (keys == jax.random.key_data(key)[None]).all(axis=1)
    return noise[jnp.argmax(same)]

  monkeypatch.setattr(sampling, 'token_gumbel', given)
  # The official sampler has one score for all.
  score = jnp.full((2,), maskgen_case.SCORE)
  drawn = generators.sample(
    official('vq'), text(2, score=score), rng=rng, sampler=SAMPLERS['vq']
  )
  np.testing.assert_array_equal(drawn.codes[..., 0], golden()['vq_codes'])


def test_features_and_losses_of_vectors_are_the_official_ones():
  model, inputs = official('kl'), noised()

  @jax.jit
  def run(model, inputs, text):
    read = model.read(text)
    z = model.trunk(inputs.values, read, ~inputs.masked)
    output = model(inputs, text)
    each = diffusion.losses(
      diffusion.cosine_schedule(),
      output,
      inputs.values[:, :, None],
      inputs.noise,
      inputs.time,
    )
    return z, each, model.module.config.loss(output, inputs)

  z, each, mean = run(model, inputs, text())
  close(z, golden()['kl_features'])
  close(each, golden()['kl_losses'])
  np.testing.assert_allclose(mean, golden()['kl_loss'], rtol=1e-5)


def test_the_head_draws_the_official_vectors(monkeypatch):
  tame(monkeypatch)
  model = official('kl')
  z = jnp.asarray(golden()['kl_features'])
  noise = maskgen_case.vector_noise()[1][0]
  schedule = diffusion.cosine_schedule(maskgen_case.DIFFUSION_STEPS)

  def draw(module, z, noise):
    times = module.head.embed_time(schedule.timesteps)
    cond = module.head.embed_features(z)

    def predict(x, k):
      both = jnp.stack([x, x])
      output = module.head.denoise(both, cond + times[k][None, None])
      return diffusion.guide(*output, maskgen_case.VECTORS['cfg'] - 1)

    return diffusion.sample(
      schedule,
      predict,
      jnp.moveaxis(noise, 1, 0),
      temperature=maskgen_case.VECTORS['temperature'],
    )

  run = jax.jit(lambda v, *x: model.module.apply(v, *x, method=draw))
  close(run(model.variables, z[:2], noise), golden()['kl_drawn'])


def test_vectors_drawn_with_the_same_noise_are_the_official_ones(monkeypatch):
  tame(monkeypatch)
  orders, noise = (jnp.asarray(x[:2]) for x in maskgen_case.vector_noise())
  rows = jnp.arange(2)[:, None]
  # The last of the official order is the first that is drawn.
  scores = (
    jnp.zeros(orders.shape)
    .at[rows, orders]
    .set(jnp.arange(7.0)[None].repeat(2, 0))
  )

  def given(key, slots, shape):
    assert slots.shape[0] == 2 and shape in ((), noise.shape[2:])
    return (noise if shape else scores)[rows, slots]

  monkeypatch.setattr(sampling, 'token_normal', given)
  drawn = generators.sample(
    official('kl'), text(2), rng=jax.random.key(0), sampler=SAMPLERS['kl']
  )
  assert drawn.codes is None and drawn.images is None
  close(drawn.embeddings, golden()['kl_vectors'])


@every_kind
def test_weights_go_back_to_the_released_names(kind):
  prepared = maskgen_keys.prepare(tensors(kind))
  back = keymap.invert(official(kind).variables, maskgen_keys.RULES, prepared)
  unread = {k for k in prepared if k.startswith('last.attn.add_q_proj.')}
  assert len(unread) == 2 and back.keys() == prepared.keys() - unread
  for name, x in back.items():
    np.testing.assert_array_equal(prepared[name], x, err_msg=name)


def test_a_foreign_checkpoint_is_refused():
  with pytest.raises(UserError, match=r'lacks cond_pooled_proj.weight'):
    maskgen_keys.config_of({'text_embed_proj.weight': (64, 20)})


@every_kind
def test_training_lowers_the_loss_and_reaches_every_parameter(kind):
  """A few fixed texts and their tokens, from the module's own start."""
  rng = np.random.default_rng(0)
  small = {
    'width': 32,
    'depth': 2,
    'heads': 2,
    'tokens': 6,
    'text_features': 5,
    'score_features': 4,
  }
  config = generators.MaskGenConfig(
    codebook_size=9,
    head='categorical' if kind == 'vq' else 'diffusion',
    channels=3,
    head_width=32,
    head_depth=2,
    class_dropout=0.1,
    **small,
  )
  draw = lambda *shape: rng.normal(size=shape)
  read = generators.text(
    draw(8, 3, 5), draw(8, 5), null_features=draw(3, 5), null_pooled=draw(5)
  )
  tokens = jnp.asarray(rng.integers(9, size=(8, 6, 1)))
  if kind == 'kl':
    tokens = jnp.asarray(draw(8, 6, 3), jnp.float32)
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(0), *config.example_inputs())
  optimizer = optax.adam(1e-2)

  def loss(params, key):
    inputs_rng, rng = jax.random.split(key)
    inputs = config.train_inputs(tokens, None, inputs_rng)
    output = module.apply(
      {'params': params},
      inputs,
      read,
      deterministic=False,
      rngs={'dropout': rng},
    )
    codes = tokens[..., 0]
    options = {'smoothing': 0.1, 'unmasked_weight': 0.1}
    return config.loss(output, inputs, codes, **options)

  @jax.jit
  def step(params, state, key):
    value, grads = jax.value_and_grad(loss)(params, key)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value, grads

  params, found = variables['params'], []
  state = optimizer.init(params)
  keys = jax.random.split(jax.random.key(1), 4)  # of masks and noise
  for k in range(80):
    params, state, value, grads = step(params, state, keys[k % 4])
    found.append(float(value))
  first, last = np.mean(found[:4]), np.mean(found[-4:])
  assert np.isfinite(found).all() and last < 0.5 * first, (first, last)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all() and np.any(grad), jax.tree_util.keystr(path)


def test_masks_of_vectors_follow_the_schedule():
  config = generators.MaskGenConfig(head='diffusion', tokens=20, draws=1)
  inputs = config.train_inputs(
    jnp.ones((4000, 20, 16)), None, jax.random.key(0)
  )
  count = np.asarray(config.counted(inputs)).sum(axis=1)
  assert count.min() == 1 and count.max() == 20
  # E arccos(t) 2 / pi = 2 / pi, and half a token more by rounding up.
  np.testing.assert_allclose(count.mean(), 20 * 2 / np.pi + 0.5, atol=0.3)
  np.testing.assert_allclose(inputs.values, config.scale)
  assert inputs.time.min() < 10 and inputs.time.max() > 989


def test_a_task_says_that_no_data_has_texts(tmp_path):
  config = tokenizers.TiTokConfig(
    tokens=3,
    image_size=8,
    patch=4,
    encoder=tokenizers.TowerConfig(width=16, depth=1, heads=2),
    decoder=tokenizers.TowerConfig(width=16, depth=1, heads=2),
    quantizer=quantize.VQConfig(codebook_size=16, dim=4),
  )
  pixels = jnp.zeros((1, 8, 8, 3))
  variables = jax.jit(config.build().init)(jax.random.key(0), pixels)
  export.export(config.build(), variables, tmp_path / 'model')
  task = GeneratorTask(
    model=generators.MaskGenConfig(), tokenizer=str(tmp_path / 'model')
  )
  info = DatasetInfo(
    name='tiny',
    split='train',
    num_records=1,
    image_size=8,
    channels=3,
    num_classes=0,
  )
  with pytest.raises(UserError, match='no data set here has texts'):
    task.bind(info)


def test_the_large_matrices_of_the_layers_are_cut_on_a_mesh():
  config = maskgen_keys.released_config('diffusion', 1024, 16)
  shapes = maskgen_keys.expected(config)['params']
  rules = GeneratorTask.sharding_rules
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    name = ''.join(f'/{key.key}' for key in path)
    axes = [a for rule, a in rules if re.search(rule, name)]
    inside = '/layers/' in name or '/last/' in name
    assert bool(axes) == (inside and name.endswith('/kernel')), name
    assert not axes or len(axes[0]) == x.ndim, name


def test_bad_requests_are_refused_in_words():
  rng = jax.random.key(0)
  refuse = lambda message: pytest.raises(UserError, match=message)
  with refuse('draws texts: give the features .* got ndarray'):
    generators.sample(official('vq'), np.array([1]), rng=rng)
  with refuse(r'null_pooled \(3, 20\) \(expected \(2, 20\)\)'):
    wrong = text(2, null_pooled=text(3).null_pooled)
    generators.sample(official('vq'), wrong, rng=rng)
  with refuse('top_k, annealing: of a generator that draws codes'):
    sampler = generators.Sampler(top_k=3, annealing='noise')
    generators.sample(official('kl'), text(), rng=rng, sampler=sampler)
  with refuse('draws vectors, there are no codes to keep'):
    forced = jnp.full((3, 7), -1)
    generators.sample(official('kl'), text(), rng=rng, forced=forced)
  with refuse("head='flow' is not one of"):
    generators.MaskGenConfig(head='flow')
  with refuse(r'features of texts are \[B, M, F\] .* got \[3, 5\]'):
    generators.text(
      np.zeros((3, 5)), np.zeros(5), null_features=0, null_pooled=0
    )
  with refuse(r'pooled of 2 texts .* is \[2, 5\], got \[3, 5\]'):
    generators.text(
      np.zeros((2, 4, 5)),
      np.zeros((3, 5)),
      null_features=np.zeros((4, 5)),
      null_pooled=np.zeros(5),
    )
  with refuse('draws classes: give labels'):
    generators.MaskGITConfig().check_condition(text())


def test_a_text_drops_its_own_rows_alone():
  many = jax.tree.map(lambda x: jnp.repeat(x, 200, axis=0), text(1))
  dropped = many.dropped(jax.random.key(0), 0.25)
  gone = (dropped.features == many.null_features).all(axis=(1, 2))
  np.testing.assert_array_equal(
    gone, (dropped.pooled == many.null_pooled).all(axis=1)
  )
  assert 0.15 < gone.mean() < 0.35
  np.testing.assert_array_equal(dropped.features[~gone], many.features[~gone])
  np.testing.assert_array_equal(dropped.score, many.score)
  both = condition.Text.with_null(many)
  assert both.batch == 400
  np.testing.assert_array_equal(both.features[200:], many.null_features)
