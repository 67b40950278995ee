"""Key maps: there and back, and one report of all that does not fit."""

import jax
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import CONV, LINEAR, Rule

RULES = (
  Rule(r'patch\.weight', 'params/embed/kernel', CONV),
  Rule(r'blocks\.(\d+)\.fc\.weight', r'params/stack/fc/kernel[\1]', LINEAR),
  Rule(r'blocks\.(\d+)\.fc\.bias', r'params/stack/fc/bias[\1]'),
  Rule(
    r'heads\.weight',
    'params/heads',
    keymap.chain(LINEAR, keymap.reshape((4, 6), (4, 2, 3))),
  ),
  Rule(r'.*\.index', None),
)


def released():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  tensors = {'patch.weight': draw(5, 3, 2, 2), 'heads.weight': draw(6, 4)}
  for i in range(11):  # Row 10 sorts before row 2 as text.
    tensors[f'blocks.{i}.fc.weight'] = draw(7, 5)
    tensors[f'blocks.{i}.fc.bias'] = draw(7)
  return tensors


def expected():
  shape = lambda *s: jax.ShapeDtypeStruct(s, np.float32)
  return {
    'params': {
      'embed': {'kernel': shape(2, 2, 3, 5)},
      'stack': {'fc': {'kernel': shape(11, 5, 7), 'bias': shape(11, 7)}},
      'heads': shape(4, 2, 3),
    }
  }


def test_there_and_back():
  tensors = released()
  with_index = {**tensors, 'blocks.0.index': np.zeros(3)}
  variables = keymap.convert(with_index, RULES, expected())
  params = variables['params']
  np.testing.assert_array_equal(
    params['stack']['fc']['kernel'][10], tensors['blocks.10.fc.weight'].T
  )
  np.testing.assert_array_equal(
    params['embed']['kernel'][1, 0, 2, 4], tensors['patch.weight'][4, 2, 1, 0]
  )
  back = keymap.invert(variables, RULES, with_index)
  assert back.keys() == tensors.keys()
  for name in tensors:
    np.testing.assert_array_equal(back[name], tensors[name])


def test_one_report_of_everything():
  tensors = released()
  tensors['surplus.weight'] = tensors.pop('heads.weight')
  tensors['patch.weight'] = tensors['patch.weight'][:4]
  del tensors['blocks.3.fc.bias']
  with pytest.raises(UserError) as error:
    keymap.convert(tensors, RULES, expected(), where='var.safetensors')
  text = str(error.value)
  for part in (
    'var.safetensors',
    'params/heads (4, 2, 3)',
    'surplus.weight',
    'params/embed/kernel: (2, 2, 3, 4) there, (2, 2, 3, 5) expected',
    'params/stack/fc/bias',
  ):
    assert part in text


def test_two_sources_for_one_target():
  rules = (Rule(r'a|b', 'params/x'),)
  arrays = {'a': np.zeros(2), 'b': np.ones(2)}
  shapes = {'params': {'x': jax.ShapeDtypeStruct((2,), np.float32)}}
  with pytest.raises(UserError, match=r'b .also params/x'):
    keymap.convert(arrays, rules, shapes)


def test_invert_reports():
  with pytest.raises(UserError, match=r'other\.weight'):
    keymap.invert({'params': {}}, RULES, ['other.weight', 'heads.weight'])
