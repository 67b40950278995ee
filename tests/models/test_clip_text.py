"""CLIP's text encoder against transformers, and the codes of texts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from redraw import redraw

from tokpress_jax import models, released
from tokpress_jax.errors import UserError
from tokpress_jax.io import convert, keymap, safetensors
from tokpress_jax.models import clip_text_keys

SIZE = {
  'vocab_size': 50,
  'hidden_size': 128,
  'intermediate_size': 192,
  'num_hidden_layers': 3,
  'num_attention_heads': 2,
  'max_position_embeddings': 9,
  'projection_dim': 24,
}
CODES = np.array(
  [[48, 3, 7, 20, 49, 0, 0, 0, 0], [48, 9, 9, 1, 2, 30, 31, 5, 49]], np.int32
)


@pytest.mark.parity
def test_features_equal_those_of_transformers(tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  ends = {'bos_token_id': 48, 'eos_token_id': 2}
  config = transformers.CLIPTextConfig(**SIZE, **ends)
  theirs = transformers.CLIPTextModelWithProjection(config).eval()
  shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
  rules = (('embedding.weight', 3, 0),)
  weights = redraw(shapes, rules=rules)
  theirs.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
  with torch.inference_mode():
    want = theirs(torch.from_numpy(CODES).long(), output_hidden_states=True)
  # All of CLIP's file, the image encoder included.
  image = {'vision_model.post_layernorm.weight': np.ones(3, np.float32)}
  safetensors.save(tmp_path / 'clip.safetensors', {**weights, **image})
  model = convert.convert(tmp_path / 'clip.safetensors', 'clip-text')
  assert model.spec.family == 'encoder'
  assert model.spec.config == models.ClipTextConfig(
    vocabulary=50,
    length=9,
    width=128,
    depth=3,
    heads=2,
    mlp_ratio=1.5,
    features=24,
  )
  got = jax.jit(lambda model, codes: model(codes))(model, CODES)
  for ours, official in (
    (got.before_last, want.hidden_states[-2]),
    (got.last, want.last_hidden_state),
    (got.pooled, want.text_embeds),
  ):
    official = official.numpy()
    assert ours.shape == official.shape
    error = np.abs(np.asarray(ours) - official).max() / official.std()
    assert error < 1e-5, error
  # A shorter stack's `before_last` is an earlier layer's.
  shallow = dataclasses.replace(model.spec.config, depth=2).build()
  params = dict(model.variables['params'])
  params['stack'] = jax.tree.map(lambda x: x[:2], params['stack'])
  early = jax.jit(shallow.apply)({'params': params}, CODES).before_last
  official = want.hidden_states[1].numpy()
  assert np.abs(np.asarray(early) - official).max() < 1e-5 * official.std()
  back = keymap.invert(
    model.variables,
    clip_text_keys.RULES,
    clip_text_keys.prepare(weights),
  )
  assert len(back) == len(weights) - 4 * 3  # Joined, of weights and biases.


def test_the_released_encoder_has_its_size():
  row = released.RELEASED['clip-text-l14']
  shapes = clip_text_keys.expected(row.make_config())
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert count == row.parameters
  out = jax.eval_shape(
    row.make_config().build().apply, shapes, jnp.zeros((2, 77), jnp.int32)
  )
  assert out.before_last.shape == out.last.shape == (2, 77, 768)
  assert out.pooled.shape == (2, 768)


def test_what_follows_is_not_seen_and_long_rows_are_refused():
  config = models.ClipTextConfig(
    vocabulary=50, length=9, width=16, depth=2, heads=2, features=4
  )
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(0), CODES)
  run = jax.jit(module.apply)
  got = run(variables, CODES)
  changed = CODES.copy()
  changed[0, 6:] = 11
  other = run(variables, changed)
  np.testing.assert_array_equal(other.last[0, :6], got.last[0, :6])
  np.testing.assert_array_equal(other.pooled, got.pooled)
  assert np.abs(other.last[0, 6:] - got.last[0, 6:]).max() > 0.01
  with pytest.raises(ValueError, match=r'n at most 9, .*got int32 \(1, 10\)'):
    module.apply(variables, np.zeros((1, 10), np.int32))
  with pytest.raises(ValueError, match='got list'):
    module.apply(variables, ['a cat'])
  with pytest.raises(ValueError, match=r'got float32 \(1, 3\)'):
    module.apply(variables, np.zeros((1, 3), np.float32))
  for code in (-1, 10**6):
    with pytest.raises(ValueError, match="another vocabulary's"):
      module.apply(variables, np.full((1, 3), code))
  with pytest.raises(ValueError, match='depth must be at least 2'):
    models.ClipTextConfig(depth=1)


@pytest.mark.parity
def test_texts_become_codes(tmp_path):
  pytest.importorskip('tokenizers')
  path = tmp_path / 'tokenizer.json'
  number = tiny_models.clip_vocabulary(path)
  start, end = number['<|startoftext|>'], number['<|endoftext|>']
  cat, at, a = number['cat</w>'], number['at</w>'], number['a</w>']
  codes = models.clip_codes(
    ['A  cat\n at', '', 'a &amp;gt;', 'cat ' * 9], vocabulary=path, length=6
  )
  assert codes.dtype == np.int32
  np.testing.assert_array_equal(
    codes,
    [
      [start, a, cat, at, end, 0],
      [start, end, 0, 0, 0, 0],
      [start, a, number['></w>'], end, 0, 0],
      [start, cat, cat, cat, cat, end],
    ],
  )
  with pytest.raises(UserError, match='got one str'):
    models.clip_codes('a cat', vocabulary=path)
  path.write_text('{}')
  with pytest.raises(UserError, match=r'is no tokenizer\.json of CLIP'):
    models.clip_codes(['a'], vocabulary=path)
  with pytest.raises(UserError, match='there is no file'):
    models.clip_codes(['a'], vocabulary=path.with_name('none.json'))
