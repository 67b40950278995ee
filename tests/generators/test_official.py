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

from tokpress_jax import generators, types
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


def test_tokenizer_latents_codes_loss_and_every_prefix():
  want, model = golden('var'), vqvae()
  lengths = np.repeat(np.array(model.boundaries, np.int32), 2)

  @jax.jit
  def run(model, images, codes):
    latents = model.latents(images)
    whole = jnp.full((2,), model.num_tokens)
    quantized = model.quantize(latents, whole)
    painted = model.decode_codes(codes, length=lengths)
    return latents, quantized.codes, quantized.loss, painted

  codes = np.tile(want['codes'][..., None], (len(model.boundaries), 1, 1))
  latents, found, loss, painted = run(model, NHWC(IMAGES), codes)
  close(latents, NHWC(want['latents']))
  np.testing.assert_array_equal(found[..., 0], want['codes'])
  np.testing.assert_allclose(loss, want['vq_loss'], rtol=1e-5)
  for k, prefix in enumerate(np.split(painted[:, ::8, ::8], 5)):
    close(prefix, NHWC(want['painted'][k]))


@pytest.mark.parametrize('name', ['block', 'shared', 'mvar'])
def test_teacher_forced_logits(name):
  file, key = ('mvar', '') if name == 'mvar' else ('var', f'{name}_')
  model = generator(name)
  codes = var_case.some_codes(C)[..., None]

  @jax.jit
  def taught(model):
    latents = model.tokenizer.next_inputs(codes)
    parts = [
      model(latents, LABELS, scales=scales)
      for scales in model.module.config.passes
    ]
    return jnp.concatenate(parts, axis=1), model(latents, LABELS)

  for logits in taught(model):  # in passes, and all at once
    close(logits[..., ::3], golden(file)[f'{key}taught'])


@pytest.mark.parametrize('name', ['block', 'shared', 'mvar'])
def test_sampling_with_given_noise(name, monkeypatch):
  """Logits of every scale, codes and image; caches, guidance, filters, sums."""
  file, key = ('mvar', '') if name == 'mvar' else ('var', f'{name}_')
  want, seen = golden(file), []
  kept = generators.Sampler.draw

  def draw(self, logits, noise):
    seen.append(logits)
    return kept(self, logits, noise)

  monkeypatch.setattr(sampling, 'token_gumbel', lambda *_: NOISE[0])
  monkeypatch.setattr(generators.Sampler, 'draw', draw)
  model = generator(name)

  @jax.jit
  def sample(model):
    seen.clear()
    drawn = model.sample_codes(
      LABELS, rng=jax.random.key(0), sampler=SAMPLER, tokenizer=model.tokenizer
    )
    image = None
    if name == 'block':
      image = model.tokenizer.decode_total(drawn.totals[-1])
    return drawn, image, jnp.concatenate(seen, axis=1)

  drawn, image, logits = sample(model)
  np.testing.assert_array_equal(drawn.codes, want[f'{key}codes'])
  close(logits[..., ::3], want[f'{key}logits'])
  if name == 'mvar':
    close(drawn.totals[-1], NHWC(want['total']))
  if name == 'block':
    close((image[:, ::8, ::8] + 1) / 2, NHWC(want['block_image']))


def test_smooth_samples(monkeypatch):
  """The mixture of codes in place of the drawn one ("more smooth")."""
  noises = iter(NOISE)
  monkeypatch.setattr(sampling, 'token_gumbel', lambda *_: next(noises))
  model = generator('block')
  smooth = dataclasses.replace(SAMPLER, smooth=True)
  drawn = jax.jit(
    lambda model: model.sample_codes(
      LABELS,
      rng=jax.random.key(0),
      sampler=smooth,
      tokenizer=model.tokenizer,
      num_tokens=14,
    )
  )(model)
  close(drawn.totals[2], NHWC(golden('var')['block_smooth_total']), 1e-3)


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
