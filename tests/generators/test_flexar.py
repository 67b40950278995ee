"""FlexAR: equal to the official classes, and what it reads.

`tests/golden/make_flexar.py` says what made the golden file.
"""

import functools

import flexar_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from redraw import redraw, unpack

from tokpress_jax import generators, released, types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import flexar_keys, sampling
from tokpress_jax.io import convert, keymap, safetensors

C = case.SMALL
CODES, LABELS, FEATURES, VALID, NOISE = case.inputs()
every = pytest.mark.parametrize('kind', case.KINDS)


@functools.cache
def golden(kind):
  with np.load(case.GOLDEN / 'flexar.npz') as file:
    return {
      k.removeprefix(f'{kind}/'): v
      for k, v in file.items()
      if k.startswith(f'{kind}/')
    }


@functools.cache
def tensors(kind):
  return redraw(unpack(golden(kind)['shapes']), rules=case.RULES)


@functools.cache
def official(kind):
  config = flexar_keys.config_of(unpack(golden(kind)['shapes']))
  variables = keymap.convert(
    flexar_keys.prepare(tensors(kind)),
    flexar_keys.RULES,
    flexar_keys.expected(config),
  )
  spec = types.Spec(name='', family='generator', config=config)
  return types.Loaded(config.build(), variables, spec)


def texts(rows):
  rows = np.asarray(rows)
  return generators.text(
    FEATURES[rows],
    null_features=FEATURES[3],
    valid=VALID[rows],
    null_valid=VALID[3],
  )


def condition(kind, rows=(0, 1, 3)):
  """Two of a class or a text, and one of none."""
  if kind == 'text':
    return texts(rows)
  return jnp.asarray(LABELS)[: len(rows)]


@functools.cache
def compiled(kind):
  return jax.jit(official(kind).module.apply)


def logits_of(kind, codes=CODES, cond=None):
  cond = condition(kind) if cond is None else cond
  return np.asarray(compiled(kind)(official(kind).variables, codes, cond))


def test_configs_are_read_off_the_shapes():
  text, label = (official(kind).module.config for kind in case.KINDS)
  for config in (text, label):
    assert (config.codebook_size, config.tokens) == (24, 8)
    assert (config.width, config.depth, config.heads) == (128, 2, 2)
    assert (config.norm, config.norm_affine) == ('layer', True)
  assert text.reads_text and text.text_features == 12
  assert (text.activation, text.bias) == ('swiglu', 'nowhere')
  assert text.qk_norm == 'layer' and round(128 * text.mlp_ratio) == 344
  assert not label.reads_text and label.num_classes == 5
  assert (label.activation, label.bias) == ('gelu', 'all')
  assert label.qk_norm is None and label.mlp_ratio == 3
  shapes = unpack(golden('class')['shapes'])
  plain = flexar_keys.config_of(shapes, qk_norm='standard')
  assert plain.qk_norm == 'standard'
  with pytest.raises(UserError, match='neither a cross-attention nor classes'):
    flexar_keys.config_of(
      {k: s for k, s in shapes.items() if 'cls_embedding' not in k}
    )


@every
def test_logits_are_the_official_ones(kind):
  theirs = golden(kind)['logits']
  error = np.abs(logits_of(kind) - theirs).max() / theirs.std()
  assert error < 1e-5, error
  assert theirs.std() > 0.3


@every
def test_codes_drawn_with_the_same_noise_are_the_official_ones(
  kind, monkeypatch
):
  def noise(rng, rows, slots, size):
    assert (rows, size) == (2, 24)
    return jnp.asarray(NOISE[:2])[:, slots]

  monkeypatch.setattr(sampling, 'token_gumbel', noise)
  sampler = generators.Sampler(
    guidance=case.GUIDANCE[kind], schedule='constant'
  )
  drawn = generators.sample(
    official(kind),
    condition(kind, (0, 1)),
    rng=jax.random.key(0),
    sampler=sampler,
  )
  theirs = golden(kind)['codes']
  np.testing.assert_array_equal(drawn.codes[..., 0], theirs)
  assert len(np.unique(theirs)) > 5
  free = generators.sample(
    official(kind),
    condition(kind, (0, 1)),
    rng=jax.random.key(0),
    sampler=generators.Sampler(),
  )
  assert np.any(free.codes[..., 0] != theirs)


@every
def test_a_code_depends_on_those_before_it_alone(kind):
  base = logits_of(kind)
  for position in range(C['tokens']):
    other = CODES.copy()
    other[:, position] = (other[:, position] + 1) % C['codes']
    moved = np.abs(logits_of(kind, other) - base).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, np.arange(C['tokens']) > position)


def test_padding_of_a_text_is_not_read():
  base = logits_of('text')
  rows = [0, 1, 3]
  junk = np.where(VALID[rows][..., None], FEATURES[rows], 7.0)
  text = texts(rows).replace(features=jnp.asarray(junk))
  np.testing.assert_array_equal(logits_of('text', cond=text), base)
  text = text.replace(valid=jnp.ones((3, 5), bool))
  moved = np.abs(logits_of('text', cond=text) - base).max(axis=(1, 2))
  # The first text has no padding.
  assert moved[0] == 0 and (moved[1:] > 1e-3).all()
  # The null of a text is the empty one.
  null = logits_of('text', cond=texts(rows).null())
  np.testing.assert_allclose(
    null[0], logits_of('text', CODES[[0, 0, 0]], texts([3, 3, 3]))[0], atol=1e-6
  )


def test_texts_that_do_not_fit_are_refused():
  model = official('text')
  with pytest.raises(UserError, match='give the features of a text encoder'):
    model.module.config.check_condition(jnp.array([0]))
  with pytest.raises(UserError, match='give both, or none'):
    generators.text(FEATURES[:1], null_features=FEATURES[3], valid=VALID[:1])
  text = texts([0, 1])
  with pytest.raises(UserError, match=r'null_valid \(\) \(expected \(2, 5\)\)'):
    text.replace(null_valid=None).check(12)
  with pytest.raises(UserError, match='draws texts, not classes'):
    generators.FlexARConfig(num_classes=3)
  with pytest.raises(UserError, match='dropout and drop_path are 0'):
    generators.FlexARConfig(dropout=0.1)


@every
def test_a_released_file_is_converted(kind, tmp_path):
  path = tmp_path / 'model.safetensors'
  rest = {
    'models.image_tokenizer.flextok_model.decoder.x': np.ones(2),
    'models.text_encoder.t5_embedder.model.shared.weight': np.ones((2, 2)),
  }
  safetensors.save(path, tensors(kind) | rest)
  model = convert.convert(path, 'flexar')
  assert model.module.config == official(kind).module.config
  jax.tree.map(
    np.testing.assert_array_equal, model.variables, official(kind).variables
  )
  # What a released name does not say is read off the tensors.
  name = {'text': 'flexar-3b-t2i', 'class': 'flexar-1b-c2i'}[kind]
  assert released.RELEASED[name].repository.startswith('EPFL-VILAB/FlexAR-')
  assert convert.convert(path, name).module.config == model.module.config
  short = {k: x for k, x in tensors(kind).items() if 'mlp.fc2' not in k}
  safetensors.save(path, short)
  with pytest.raises(UserError, match='missing'):
    convert.convert(path, 'flexar')


def test_texts_are_drawn_in_the_released_tokens():
  row = released.RELEASED['flexar-3b-t2i']
  tokenizer = released.RELEASED[row.tokenizer].make_config()
  flexar_keys.sized('3b').check_tokenizer(tokenizer)


@pytest.mark.parametrize(
  ('name', 'kind', 'count', 'matrices'),
  [
    ('113m', 'text', 217_635_584, 113_246_208),
    ('382m', 'text', 536_702_336, 382_205_952),
    ('1b', 'text', 1_373_166_208, 1_151_817_472),
    ('3b', 'text', 3_362_630_912, 3_057_647_616),
    ('1b', 'class', 1_079_176_320, 863_852_288),
  ],
)
def test_released_sizes(name, kind, count, matrices):
  """The published 113M to 3.06B are the matrices of the blocks."""
  config = flexar_keys.sized(name, kind)
  params = flexar_keys.expected(config)['params']
  total = sum(x.size for x in jax.tree.leaves(params))
  layers = params['stack']['layers']
  own = sum(x.size for x in jax.tree.leaves(layers) if x.ndim > 2)
  assert (total, own) == (count, matrices)
