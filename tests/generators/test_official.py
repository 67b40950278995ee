"""VAR and MVAR against the official code, by golden files with redrawn weights.

`tests/golden/make_var.py` says what made the files. Tolerances are relative to
the standard deviation of the official output.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import var_case
from redraw import redraw, unpack

from tokpress_jax import generators, nn, types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import sampling, scale_wise_keys
from tokpress_jax.io import keymap
from tokpress_jax.tokenizers import var_keys

C = var_case.SMALL
IMAGES, LABELS, NOISE = var_case.inputs(C, 2)
SAMPLER = generators.Sampler(
  top_k=C['top_k'], top_p=C['top_p'], guidance=C['guidance']
)


@functools.cache
def golden(name):
  with np.load(var_case.GOLDEN / f'{name}.npz') as file:
    return dict(file)


def close(ours, theirs, tolerance=1e-4):
  """Compares float arrays in units of the official output's deviation."""
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


def weights_of(shapes):
  shapes = {k: s for k, s in shapes.items() if not var_case.is_fixed(k)}
  return redraw(shapes, rules=var_case.RULES)


def converted(keys, shapes, change=lambda config: config):
  config = change(keys.config_of(shapes, scales=C['scales']))
  variables = keymap.convert(
    weights_of(shapes), keys.RULES, keys.expected(config)
  )
  spec = types.Spec(name='', family=type(config).family, config=config)
  return types.Loaded(config.build(), variables, spec)


@functools.cache
def vqvae():
  return converted(var_keys, unpack(golden('var')['vae_shapes']))


@functools.cache
def generator(name):
  tokenizer = vqvae()
  if name == 'mvar':
    shapes = unpack(golden('mvar')['shapes'])
    kernels = (None,) * C['refine'] + (C['kernel'],) * 2
    change = lambda config: dataclasses.replace(
      config, sees='own', kernels=kernels
    )
    loaded = converted(scale_wise_keys, shapes, change)
  else:
    loaded = converted(scale_wise_keys, unpack(golden('var')[f'{name}_shapes']))
  return dataclasses.replace(loaded, tokenizer=tokenizer)


NHWC = lambda x: np.moveaxis(x, -3, -1)


def test_tokenizer_latents_codes_and_every_prefix():
  want, model = golden('var'), vqvae()
  images = NHWC(IMAGES)
  close(jax.jit(model.latents)(images), NHWC(want['latents']))
  encode = jax.jit(model.encode)
  np.testing.assert_array_equal(encode(images).codes[..., 0], want['codes'])
  decode = jax.jit(model.decode_codes)
  for k, length in enumerate(model.boundaries):
    painted = decode(want['codes'][..., None], length=jnp.int32(length))
    close(painted[:, ::4, ::4], NHWC(want['painted'][k]))


def test_tokenizer_training_loss():
  model = vqvae()
  quantize = lambda model, images: model.quantize(
    model.latents(images), jnp.full((2,), model.num_tokens)
  )
  found = jax.jit(quantize)(model, NHWC(IMAGES))
  np.testing.assert_allclose(found.loss, golden('var')['vq_loss'], rtol=1e-5)


@pytest.mark.parametrize('name', ['block', 'shared', 'mvar'])
def test_teacher_forced_logits(name):
  want = golden('mvar')['taught'] if name == 'mvar' else None
  want = golden('var')[f'{name}_taught'] if want is None else want
  model = generator(name)
  codes = var_case.some_codes(C)[..., None]
  latents = model.tokenizer.next_inputs(codes)

  @jax.jit
  def taught(model):
    parts = [
      model(latents, LABELS, scales=scales)
      for scales in model.module.config.passes
    ]
    return jnp.concatenate(parts, axis=1), model(latents, LABELS)

  in_passes, at_once = taught(model)
  close(in_passes, want)
  close(at_once, want)


@pytest.mark.parametrize('name', ['block', 'shared', 'mvar'])
def test_sampling_with_given_noise(name, monkeypatch):
  """Logits of every scale, codes and image; caches, guidance, filters, sums."""
  want = golden('mvar' if name == 'mvar' else 'var')
  prefix = '' if name == 'mvar' else f'{name}_'
  codes = want['codes' if name == 'mvar' else f'{name}_drawn_codes']
  seen = []

  def draw(self, logits, noise):
    seen.append(logits)
    return SAMPLER_DRAW(self, logits, noise)

  monkeypatch.setattr(sampling, 'token_gumbel', lambda *_: NOISE[0])
  monkeypatch.setattr(generators.Sampler, 'draw', draw)
  model = generator(name)

  @jax.jit
  def sample(model):
    seen.clear()
    drawn = model.sample_codes(
      LABELS, rng=jax.random.key(0), sampler=SAMPLER, tokenizer=model.tokenizer
    )
    image = model.tokenizer.decode_total(drawn.totals[-1])
    return drawn, image, jnp.concatenate(seen, axis=1)

  drawn, image, logits = sample(model)
  np.testing.assert_array_equal(drawn.codes, codes)
  close(logits, want[f'{prefix}logits'])
  if name == 'mvar':
    close(drawn.totals[-1], NHWC(want['total']))
  else:
    close((image[:, ::4, ::4] + 1) / 2, NHWC(want[f'{name}_drawn_image']))


SAMPLER_DRAW = generators.Sampler.draw


@pytest.mark.parametrize('name', ['block', 'shared'])
def test_smooth_samples(name, monkeypatch):
  """The mixture of codes in place of the drawn one ("more smooth")."""
  want = golden('var')
  noises = iter(NOISE)
  monkeypatch.setattr(sampling, 'token_gumbel', lambda *_: next(noises))
  model = generator(name)
  smooth = dataclasses.replace(SAMPLER, smooth=True)

  @jax.jit
  def sample(model):
    drawn = model.sample_codes(
      LABELS, rng=jax.random.key(0), sampler=smooth, tokenizer=model.tokenizer
    )
    return drawn.codes, model.tokenizer.decode_total(drawn.totals[-1])

  codes, image = sample(model)
  np.testing.assert_array_equal(codes, want[f'{name}_smooth_codes'])
  # A mixture at tau = 0.005 magnifies the logits' error 400 times.
  close((image[:, ::4, ::4] + 1) / 2, NHWC(want[f'{name}_smooth_image']), 1e-3)


def test_split_layers_sample_the_same():
  model = generator('block')
  split = dataclasses.replace(model, variables=nn.unstack(model.variables))
  draw = lambda model: generators.sample(
    model, LABELS, rng=jax.random.key(3), sampler=SAMPLER
  )
  np.testing.assert_array_equal(draw(split).codes, draw(model).codes)


def test_weights_go_back_to_the_released_names():
  shapes = unpack(golden('var')['shared_shapes'])
  weights = weights_of(shapes)
  model = generator('shared')
  back = keymap.invert(model.variables, scale_wise_keys.RULES, shapes)
  assert back.keys() == weights.keys()
  for name, x in weights.items():
    np.testing.assert_array_equal(back[name], x, err_msg=name)


def test_a_foreign_checkpoint_is_refused_with_the_full_list():
  shapes = unpack(golden('var')['block_shapes'])
  weights = weights_of(shapes)
  config = scale_wise_keys.config_of(shapes, scales=C['scales'])
  deeper = dataclasses.replace(config, depth=config.depth + 1, num_classes=7)
  del weights['word_embed.bias']
  with pytest.raises(UserError) as caught:
    keymap.convert(
      weights, scale_wise_keys.RULES, scale_wise_keys.expected(deeper)
    )
  text = str(caught.value)
  assert '1 missing' in text and 'latent_embed/bias' in text
  assert '(6, 64) there, (8, 64) expected' in text
  assert '(3, 64, 192) there, (4, 64, 192) expected' in text
