"""ViT, DeiT, CLIP and SigLIP against transformers, through its saved files."""

import dataclasses

import host_cases
import jax
import numpy as np
import pytest
from redraw import check_sensitive, redraw

from tokpress_jax.io import convert

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity

TOLERANCE = 2e-5  # In deviations of what transformers gives.
_SIZE = {
  'hidden_size': 128,
  'intermediate_size': 192,
  'num_hidden_layers': 3,
  'num_attention_heads': 2,
}
_IMAGES = {**_SIZE, 'image_size': 12, 'patch_size': 4}
_CLASSES = {**_IMAGES, 'num_labels': 7}
_TEXTS = {
  **_SIZE,
  'vocab_size': 50,
  'max_position_embeddings': 9,
  'projection_size': 24,
  'bos_token_id': 48,
  'eos_token_id': 49,
  'pad_token_id': 1,
}
MODELS = {  # class, its config's class, the config
  'vit': ('ViTForImageClassification', 'ViTConfig', _CLASSES),
  'vit-tower': ('ViTModel', 'ViTConfig', _IMAGES),
  'deit': ('DeiTForImageClassificationWithTeacher', 'DeiTConfig', _CLASSES),
  'deit-one': ('DeiTForImageClassification', 'DeiTConfig', _CLASSES),
  'clip': (
    'CLIPVisionModelWithProjection',
    'CLIPVisionConfig',
    {**_IMAGES, 'projection_dim': 24},
  ),
  'clip-tower': ('CLIPVisionModel', 'CLIPVisionConfig', _IMAGES),
  'siglip': ('SiglipVisionModel', 'SiglipVisionConfig', _IMAGES),
  'siglip-text': ('SiglipTextModel', 'SiglipTextConfig', _TEXTS),
}
# Adding the same to all keys changes no attention; the others are not read.
FIXED = ('key.bias', 'k_proj.bias', 'pooler.', 'mask_token')


def build(name):
  """The official model, redrawn, and its weights by its own names."""
  cls, config, sizes = MODELS[name]
  config = getattr(transformers, config)(**sizes)
  model = getattr(transformers, cls)(config).eval()
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  return model, redraw(shapes, rules=host_cases.RULES)


def run(model, weights, inputs):
  model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
  with torch.inference_mode():
    return model(torch.from_numpy(inputs), output_hidden_states=True)


def read(out):
  """What stands for the whole image or text."""
  for name in ('logits', 'image_embeds', 'pooler_output'):
    if getattr(out, name, None) is not None:
      return getattr(out, name).numpy()
  raise AssertionError(out.keys())


def close(ours, theirs):
  theirs = np.asarray(theirs)
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < TOLERANCE, error


def pixels(images, config):
  """Images in [-1, 1] as transformers takes them, standardised by hand."""
  x = ((images + 1) / 2 - np.array(config.mean)) / np.array(config.std)
  return x.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize('name', [n for n in MODELS if n != 'siglip-text'])
def test_images(name, tmp_path):
  config = host_cases.CONFIGS[name]
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (2, 12, 12, 3)).astype(np.float32)
  given = pixels(images, config)
  theirs, weights = build(name)
  head = read
  if name == 'vit-tower':  # Its pooler is left out.
    head = lambda out: out.last_hidden_state[:, 0].numpy()
  check_sensitive(
    weights,
    lambda w: head(run(theirs, w, given)),
    tolerance=TOLERANCE,
    fixed=FIXED,
  )
  want = run(theirs, weights, given)
  theirs.save_pretrained(tmp_path)
  model = convert.convert(tmp_path / 'model.safetensors', host_cases.kind(name))
  assert model.spec.config == config
  layers = tuple(range(config.depth + 1))
  got = jax.jit(lambda m, x: m(x, hidden=layers))(model, images)
  assert len(want.hidden_states) == len(got.hidden) == len(layers)
  for ours, official in zip(got.hidden, want.hidden_states, strict=True):
    close(ours.features, official)
  close(got.logits if config.classes else got.pooled, head(want))
  if name.startswith(('vit', 'siglip')) and 'last_hidden_state' in want:
    close(got.tokens.features, want.last_hidden_state)


def test_pixels_beyond_the_last_patch(tmp_path):
  cls, config, sizes = MODELS['siglip']
  config = getattr(transformers, config)(**{**sizes, 'image_size': 14})
  theirs = getattr(transformers, cls)(config).eval()
  _, weights = build('siglip')
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (1, 14, 14, 3)).astype(np.float32)
  ours = dataclasses.replace(host_cases.CONFIGS['siglip'], image_size=14)
  want = run(theirs, weights, pixels(images, ours))
  theirs.save_pretrained(tmp_path)
  model = convert.convert(tmp_path / 'model.safetensors', 'siglip')
  got = jax.jit(ours.build().apply)(model.variables, images)
  close(got.pooled, want.pooler_output)


def test_texts_of_siglip(tmp_path):
  codes = np.random.default_rng(0).integers(0, 50, (3, 9))
  theirs, weights = build('siglip-text')
  check_sensitive(
    weights,
    lambda w: read(run(theirs, w, codes)),
    tolerance=TOLERANCE,
    fixed=FIXED,
  )
  want = run(theirs, weights, codes)
  theirs.save_pretrained(tmp_path)
  model = convert.convert(tmp_path / 'model.safetensors', 'siglip-text')
  config = host_cases.CONFIGS['siglip-text']
  assert model.spec.config == config and model.spec.family == 'encoder'
  got = jax.jit(lambda m, x: m(x))(model, codes)
  close(got.before_last, want.hidden_states[-2])
  close(got.last, want.last_hidden_state)
  close(got.pooled, want.pooler_output)
  # A shorter stack's `before_last` is an earlier layer's.
  shallow = dataclasses.replace(config, depth=2).build()
  params = dict(model.variables['params'])
  params['stack'] = jax.tree.map(lambda x: x[:2], params['stack'])
  early = jax.jit(shallow.apply)({'params': params}, codes)
  close(early.before_last, want.hidden_states[1])


def test_both_towers_out_of_one_file(tmp_path):
  parts = {
    'vision_config': MODELS['siglip'][2],
    'text_config': {**MODELS['siglip-text'][2], 'projection_size': 128},
  }
  theirs = transformers.SiglipModel(transformers.SiglipConfig(**parts)).eval()
  shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
  weights = redraw(shapes, rules=host_cases.RULES)
  theirs.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
  theirs.save_pretrained(tmp_path)
  file = tmp_path / 'model.safetensors'
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (2, 12, 12, 3)).astype(np.float32)
  codes = rng.integers(0, 50, (2, 9))
  with torch.inference_mode():
    want = theirs(
      input_ids=torch.from_numpy(codes),
      pixel_values=torch.from_numpy(
        pixels(images, host_cases.CONFIGS['siglip'])
      ),
    )
  image = convert.convert(file, 'siglip')
  text = convert.convert(file, 'siglip-text')
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  close(unit(jax.jit(lambda m: m(images).pooled)(image)), want.image_embeds)
  close(unit(jax.jit(lambda m: m(codes).pooled)(text)), want.text_embeds)
