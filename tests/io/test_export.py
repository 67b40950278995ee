"""Model directories: written, read, and refused when they do not fit."""

import json

import jax
import numpy as np
import pytest
import tiny_models

from tokpress_jax.errors import UserError
from tokpress_jax.io import export, images, safetensors
from tokpress_jax.io import load as load_lib


def write(model, path, **options):
  return export.export(
    model.module,
    model.variables,
    path,
    tokenizer=model.tokenizer,
    licence='CC0-1.0',
    **options,
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_tokenizer_round_trip(tmp_path, capsys):
  model = tiny_models.one_d()
  write(model, tmp_path / 'm', name='tiny digits', facts={'Steps': 7})
  again = load_lib.load(tmp_path / 'm')
  assert 'licence of the weights: CC0-1.0' in capsys.readouterr().out
  assert again.spec.config == model.spec.config
  assert again.spec.name == 'tiny digits'
  assert_equal(again.variables, model.variables)
  assert_equal(
    again.encode(tiny_models.IMAGES).codes,
    model.encode(tiny_models.IMAGES).codes,
  )
  assert_equal(load_lib.load_variables(tmp_path / 'm'), model.variables)
  file = tmp_path / 'm' / load_lib.MODEL
  assert_equal(load_lib.load_variables(file), model.variables)
  card = (tmp_path / 'm' / 'README.md').read_text()
  assert 'license: CC0-1.0' in card and '- Steps: 7' in card


def test_generator_brings_its_tokenizer(tmp_path):
  model = tiny_models.scale_wise()
  write(model, tmp_path)
  again = load_lib.load(tmp_path)
  assert_equal(again.variables, model.variables)
  assert_equal(again.tokenizer.variables, model.tokenizer.variables)
  assert load_lib.load(tmp_path / 'tokenizer').spec.family == 'tokenizer'


@pytest.mark.parametrize('name', ['one_d', 'scale_wise', 'vit'])
def test_the_card_runs(tmp_path, monkeypatch, name):
  model = getattr(tiny_models, name)()
  export.export(
    model.module, model.variables, tmp_path, tokenizer=model.tokenizer
  )
  card = (tmp_path / 'README.md').read_text()
  assert 'license: other\n' in card
  monkeypatch.chdir(tmp_path)
  photo = images.encode_png(np.zeros((9, 12, 3), np.uint8))
  (tmp_path / 'photo.jpg').write_bytes(photo)
  program = card.split('```python\n')[1].split('```')[0]
  *lines, last = program.replace('PATH', '.').splitlines()
  names = {}
  exec('\n'.join(lines), names)
  shape = (2, 8, 8, 1) if name == 'scale_wise' else (1, 8, 8, 1)
  if name == 'vit':
    shape = (1, 3)
  assert eval(last, names).shape == shape


def test_weights_of_another_model_list_every_key(tmp_path):
  write(tiny_models.one_d(), tmp_path / 'a')
  write(tiny_models.vit(), tmp_path / 'b')
  for name in ('a', 'b'):
    other = tmp_path / ('b' if name == 'a' else 'a') / load_lib.MODEL
    (tmp_path / name / 'kept').write_bytes(other.read_bytes())
  (tmp_path / 'a' / 'kept').replace(tmp_path / 'a' / load_lib.MODEL)
  with pytest.raises(UserError, match='another model') as error:
    load_lib.load(tmp_path / 'a')
  assert 'params/head/kernel' in str(error.value)
  assert 'params/from_code/kernel' in str(error.value)


def test_changed_weights_are_noticed(tmp_path):
  write(tiny_models.one_d(), tmp_path)
  file = tmp_path / load_lib.MODEL
  data = bytearray(file.read_bytes())
  data[-3] ^= 8
  file.write_bytes(data)
  with pytest.raises(UserError, match='damaged'):
    load_lib.load(tmp_path)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda body: body['model'].update(type='os'), "'os'"),
    (lambda body: body['model'].update(tokenz=3), "Did you mean 'tokens'"),
    (lambda body: body.pop('arrays'), 'arrays'),
  ],
)
def test_bad_config(tmp_path, change, message):
  write(tiny_models.one_d(), tmp_path)
  file = tmp_path / load_lib.CONFIG
  body = json.loads(file.read_text())
  change(body)
  file.write_text(json.dumps(body))
  with pytest.raises(UserError, match=message):
    load_lib.load(tmp_path)


def test_foreign_directories(tmp_path):
  (tmp_path / 'photo.jpg').touch()
  with pytest.raises(UserError, match='no model directory'):
    write(tiny_models.one_d(), tmp_path)
  with pytest.raises(UserError, match='neither a model directory'):
    load_lib.load(tmp_path)


def test_writing_again_replaces(tmp_path):
  write(tiny_models.one_d(), tmp_path)
  write(tiny_models.vit(), tmp_path)
  assert load_lib.load(tmp_path).spec.family == 'model'
  flat = safetensors.load_flat(tmp_path / load_lib.MODEL)
  assert 'params/head/kernel' in flat
