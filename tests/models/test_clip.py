"""CLIP: its parts are its towers, and its logits those of transformers."""

import dataclasses

import host_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from redraw import redraw

import tokpress_jax as tp
from tokpress_jax import losses, models, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import convert, export

WORDS = ('red', 'disc')
IMAGE = models.ViTConfig(
  image_size=8, patch=4, width=16, depth=2, heads=2, classes=0, features=12
)
TEXT = models.ClipTextConfig(
  vocabulary=5, length=6, width=8, depth=2, heads=2, features=12
)
CONFIG = models.CLIPConfig(image=IMAGE, text=TEXT, words=WORDS, bias=-3.0)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def loaded():
  module = CONFIG.build()
  codes = CONFIG.codes(['red disc', 'disc'])
  variables = jax.jit(module.init)(jax.random.key(0), IMAGES, codes)
  spec = types.Spec(name='small', family='model', config=CONFIG)
  return types.Loaded(module, variables, spec)


def test_logits_are_scaled_cosines_of_its_towers(loaded):
  codes = CONFIG.codes(['red disc', 'disc red red'])
  got = jax.jit(lambda m: m(IMAGES, codes))(loaded)
  assert got.shape == (3, 2) and got.dtype == jnp.float32
  image, text = models.clip_towers(loaded)
  assert (image.spec.family, text.spec.family) == ('model', 'encoder')
  assert isinstance(image.module, models.ViT)
  a = np.asarray(jax.jit(lambda m: m(IMAGES).pooled)(image))
  b = np.asarray(jax.jit(lambda m: m(codes).pooled)(text))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  want = unit(a) @ unit(b).T / 0.07 - 3
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_pruners_read_its_image_tower(loaded):
  image, _ = models.clip_towers(loaded)

  @jax.jit
  def run(model):
    tokens, signals = model.observe(
      IMAGES, needs=frozenset({'attention_row'}), layer=-2, special='keep'
    )
    return (
      tokens.features,
      signals.attention_row,
      model.finish(tokens, layer=-2).pooled,
      model.project_tokens(tokens),
    )

  for got, want in zip(run(loaded), run(image), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-6)
  whole = jax.jit(lambda m: m.encode_image(IMAGES))(loaded)
  pooled = run(loaded)[2]
  unit = pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True)
  np.testing.assert_allclose(unit, whole, atol=1e-5)


def test_the_scale_ends_where_the_config_says(loaded):
  params = {**loaded.variables['params'], 'log_scale': jnp.float32(9.0)}
  at = lambda config, x: config.build().apply(
    {'params': params}, x, x, method='compare'
  )
  x = jnp.eye(12)[:2]
  np.testing.assert_allclose(at(CONFIG, x)[0], [97, -3], rtol=1e-5)
  free = dataclasses.replace(CONFIG, most_scale=None, bias=None)
  np.testing.assert_allclose(at(free, x)[0], [np.exp(9), 0], rtol=1e-5)


def test_a_model_directory_keeps_its_words(loaded, tmp_path):
  export.export(loaded.module, loaded.variables, tmp_path / 'clip')
  again = tp.load(tmp_path / 'clip')
  assert again.module.config == CONFIG
  np.testing.assert_array_equal(
    again.module.config.codes(['red']), [[1, 2, 4, 0, 0, 0]]
  )
  with pytest.raises(UserError, match='unknown words: cat'):
    again.module.config.codes(['red cat'])


def test_what_does_not_fit_is_refused(loaded):
  with pytest.raises(UserError, match='12 features and the text tower 7'):
    models.CLIPConfig(image=IMAGE, text=dataclasses.replace(TEXT, features=7))
  with pytest.raises(UserError, match='1 words take 4 codes'):
    models.CLIPConfig(image=IMAGE, text=TEXT, words=('red',))
  image = models.clip_towers(loaded)[0]
  with pytest.raises(UserError, match='only a CLIP has two towers'):
    models.clip_towers(image)
  assert models.image_tower(image) is image
  assert models.image_tower(loaded).spec == image.spec


_SIZE = {
  'hidden_size': 128,
  'intermediate_size': 192,
  'num_hidden_layers': 3,
  'num_attention_heads': 2,
}
_VISION = {**_SIZE, 'image_size': 12, 'patch_size': 4}
_WORDS = {**_SIZE, 'vocab_size': 50, 'max_position_embeddings': 9}


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['clip', 'siglip'])
def test_logits_and_losses_are_those_of_transformers(kind, tmp_path):
  """Both key maps, put together by the names of a CLIP's variables."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  if kind == 'clip':
    ends = {'bos_token_id': 48, 'eos_token_id': 2}
    official = transformers.CLIPModel(
      transformers.CLIPConfig(
        vision_config=_VISION, text_config={**_WORDS, **ends}, projection_dim=24
      )
    )
  else:
    official = transformers.SiglipModel(
      transformers.SiglipConfig(
        vision_config=_VISION, text_config={**_WORDS, 'projection_size': 128}
      )
    )
  shapes = {k: tuple(v.shape) for k, v in official.state_dict().items()}
  rules = (*host_cases.RULES, ('logit_scale', 0, 1.5), ('logit_bias', 0, -2))
  weights = redraw(shapes, rules=rules)
  weights = {k: np.asarray(v) for k, v in weights.items()}
  official.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
  official.eval().save_pretrained(tmp_path)
  file = tmp_path / 'model.safetensors'
  image, text = (
    convert.convert(file, kind),
    convert.convert(file, f'{kind}-text'),
  )
  config = models.CLIPConfig(
    image=image.module.config,
    text=text.module.config,
    most_scale=None,
    bias=-10.0 if kind == 'siglip' else None,
  )
  joint = {'log_scale': weights['logit_scale'].reshape(())}
  if kind == 'siglip':
    joint['bias'] = weights['logit_bias'].reshape(())
  towers = {'image': image, 'text': text}
  joint |= {name: tower.variables['params'] for name, tower in towers.items()}
  images = RNG.uniform(-1, 1, (3, 12, 12, 3)).astype(np.float32)
  codes = RNG.integers(0, 48, (3, 9)).astype(np.int32)
  codes[:, -1] = 49
  mean, std = (np.array(x) for x in (config.image.mean, config.image.std))
  pixels = (((images + 1) / 2 - mean) / std).transpose(0, 3, 1, 2)
  with torch.inference_mode():
    want = official(
      input_ids=torch.from_numpy(codes).long(),
      pixel_values=torch.from_numpy(pixels.astype(np.float32)),
      return_loss=True,
    )
  got = jax.jit(config.build().apply)({'params': joint}, images, codes)
  logits = want.logits_per_image.numpy()
  assert np.abs(got - logits).max() < 1e-4 * logits.std()
  measure = {'clip': losses.clip_loss, 'siglip': losses.siglip_loss}[kind]
  np.testing.assert_allclose(measure(got), want.loss.item(), rtol=1e-5)
