"""Released weights of hosts: names, sizes, layouts, and what is refused."""

import json

import host_cases
import jax
import numpy as np
import pytest
import timm_vit_case
from redraw import redraw

from tokpress_jax import released
from tokpress_jax.errors import UserError
from tokpress_jax.io import convert, export, keymap, load, safetensors


def write(folder, tensors, description=None):
  """A file of weights, with a config.json beside it if one is given."""
  safetensors.save(folder / 'model.safetensors', tensors)
  if description is not None:
    (folder / 'config.json').write_text(json.dumps(description))
  return folder / 'model.safetensors'


def test_known_sizes():
  count = lambda name: released.RELEASED[name].parameters
  # Published: all of CLIP or SigLIP, with the scale (and bias) of its loss.
  assert count('clip-b32') + count('clip-text-b32') + 1 == 151_277_313
  assert count('clip-b16') + count('clip-text-b16') + 1 == 149_620_737
  assert count('clip-l14') + count('clip-text-l14') + 1 == 427_616_513
  assert count('clip-l14-336') + count('clip-text-l14') + 1 == 427_944_193
  assert count('siglip-b16') + count('siglip-text-b16') + 2 == 203_155_970
  both = count('siglip-so400m-384') + count('siglip-text-so400m-384')
  assert both + 2 == 877_960_498
  config = released.RELEASED['siglip-so400m-384'].make_config()
  assert config.num_tokens == 27**2
  assert config.stack.block.attention.features == 72
  assert released.RELEASED['clip-l14-336'].make_config().num_tokens == 577


@pytest.mark.parametrize('name', host_cases.CONFIGS)
def test_names_there_and_back(name, tmp_path):
  weights = host_cases.tensors(name)
  kind = released.KINDS[host_cases.kind(name)]
  # A norm's epsilon stands in no tensor: it is the released one.
  model = convert.convert(write(tmp_path, weights), kind.name)
  assert model.spec.config == host_cases.CONFIGS[name]
  assert model.spec.licence == kind.licence
  own = {'siglip': 'vision_model.', 'siglip-text': 'text_model.'}
  plain = {k.removeprefix(own.get(name, '')): x for k, x in weights.items()}
  want = kind.attribute('prepare')(plain)
  back = keymap.invert(model.variables, kind.attribute('RULES'), want)
  assert back.keys() == want.keys()
  for key, x in want.items():
    np.testing.assert_array_equal(back[key], x)


@pytest.mark.parametrize('name', timm_vit_case.NAMES)
def test_timm_layout_equals_timm(name, tmp_path):
  file = write(tmp_path, timm_vit_case.released(name))
  plain = {'pretrained_cfg': {'mean': [0.5] * 3, 'std': [0.5] * 3}}
  assert len(convert.convert(file, 'vit-timm').spec.config.mean) == (
    3 if name == 'deit' else 1
  )
  write(tmp_path, timm_vit_case.released(name), plain)  # As the images are.
  model = convert.convert(file, 'vit-timm')
  config = model.spec.config
  assert (config.heads, config.classes, config.mlp_ratio) == (2, 7, 1.5)
  got = jax.jit(lambda m, x: m(x, hidden=(0, 1, 2, 3)))(
    model, timm_vit_case.images()
  )
  golden = timm_vit_case.golden()
  hidden = np.stack([x.features[0] for x in got.hidden])
  for ours, want in (
    (got.logits, golden[f'{name}_logits']),
    (hidden, golden[f'{name}_hidden']),
  ):
    assert ours.shape == want.shape
    error = np.abs(np.asarray(ours) - want).max() / want.std()
    assert error < timm_vit_case.TOLERANCE, error


def test_both_layouts_of_a_vit_are_one_model(tmp_path):
  theirs = timm_vit_case.released('deit')
  renamed = {
    'cls_token': 'deit.embeddings.cls_token',
    'dist_token': 'deit.embeddings.distillation_token',
    'pos_embed': 'deit.embeddings.position_embeddings',
  }
  parts = {
    'patch_embed.proj': 'deit.embeddings.patch_embeddings.projection',
    'norm': 'deit.layernorm',
    'head': 'cls_classifier',
    'head_dist': 'distillation_classifier',
  }
  inner = {
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.proj': 'attention.output.dense',
    'mlp.fc1': 'intermediate.dense',
    'mlp.fc2': 'output.dense',
  }
  other = {renamed[k]: theirs[k] for k in renamed}
  for kind in ('weight', 'bias'):
    for a, b in parts.items():
      other[f'{b}.{kind}'] = theirs[f'{a}.{kind}']
    for i in range(3):
      layer = f'deit.encoder.layer.{i}.'
      for a, b in inner.items():
        other[f'{layer}{b}.{kind}'] = theirs[f'blocks.{i}.{a}.{kind}']
      three = np.split(theirs[f'blocks.{i}.attn.qkv.{kind}'], 3)
      for part, x in zip(('query', 'key', 'value'), three, strict=True):
        other[f'{layer}attention.attention.{part}.{kind}'] = x
  models = []
  for kind, weights in (('vit-timm', theirs), ('vit', other)):
    (tmp_path / kind).mkdir()
    models.append(convert.convert(write(tmp_path / kind, weights), kind))
  first, second = models
  assert first.spec.config.distillation_token
  assert jax.tree.all(
    jax.tree.map(np.array_equal, first.variables, second.variables)
  )


def test_a_converted_host_is_loaded_by_its_file(tmp_path, capsys):
  file = write(tmp_path, host_cases.tensors('clip'))
  out = tmp_path / 'clip.safetensors'
  export.save_file(convert.convert(file, 'clip'), out)
  model = load.load(out)
  assert 'licence of the weights: MIT' in capsys.readouterr().out
  assert model.module.config == host_cases.CONFIGS['clip']
  with pytest.raises(UserError, match="Did you mean 'clip-b16'"):
    load.load('clip-b17')


def test_what_a_config_json_says_counts(tmp_path):
  said = {
    'vision_config': {
      'hidden_size': 128,
      'num_attention_heads': 4,
      'hidden_act': 'gelu',
      'layer_norm_eps': 1e-6,
    }
  }
  file = write(tmp_path, host_cases.tensors('clip'), said)
  config = convert.convert(file, 'clip').spec.config
  assert (config.heads, config.activation) == (4, 'gelu')
  assert config.norm_eps == 1e-6
  said['vision_config']['hidden_act'] = 'mish'
  write(tmp_path, host_cases.tensors('clip'), said)
  with pytest.raises(UserError, match="activation 'mish', which is not one of"):
    convert.convert(file, 'clip')
  write(tmp_path, host_cases.tensors('clip'), {'hidden_size': 768})
  with pytest.raises(UserError, match='width of 768, and the tensors of 128'):
    convert.convert(file, 'clip')


@pytest.mark.parametrize(
  ('name', 'kind', 'message'),
  [
    ('clip', 'siglip', "no tensor is called 'head.probe'"),
    ('siglip', 'clip', "or 'pre_layrnorm.weight'"),
    ('vit', 'vit-timm', "no tensor is called 'pos_embed'"),
    ('siglip-text', 'vit', "'vit.layernorm.weight' or 'deit.layernorm"),
    ('siglip', 'vit', 'lacks embeddings.patch_embeddings.projection.weight'),
    ('siglip-text', 'clip-text', 'lacks text_projection.weight'),
    ('siglip', 'siglip-text', "no tensor is called 'final_layer_norm.weight'"),
  ],
)
def test_another_model_is_refused(name, kind, message, tmp_path):
  file = write(tmp_path, host_cases.tensors(name))
  with pytest.raises(UserError) as error:
    convert.convert(file, kind)
  assert message in str(error.value)


def test_one_report_of_all_that_does_not_fit(tmp_path):
  tensors = host_cases.tensors('vit')
  del tensors['vit.layernorm.bias']
  del tensors['vit.encoder.layer.1.attention.attention.key.weight']
  tensors['vit.encoder.layer.2.output.dense.bias'] = np.zeros(5, np.float32)
  tensors['classifier.bias'] = np.zeros(9, np.float32)
  tensors['extra.weight'] = np.zeros(3, np.float32)
  file = write(tmp_path, tensors)
  with pytest.raises(UserError) as error:
    convert.convert(file, 'vit')
  said = str(error.value)
  for part in (
    'missing',
    'params/norm/bias (128,)',
    'not used',
    'extra.weight',
    'attention.attention.query.weight',
    'of another shape',
    'head/bias: (9,) there, (7,) expected',
    'mlp/fc2/bias has rows',
    'attn/qkv/kernel has rows',
  ):
    assert part in said, said
  with pytest.raises(UserError) as error:  # A whole one, of another size.
    convert.convert(write(tmp_path, host_cases.tensors('vit')), 'vit-b16')
  said = str(error.value)
  assert '(10, 128) there, (197, 768) expected' in said
  assert '(3, 128, 384) there, (12, 768, 2304) expected' in said


def test_positions_must_be_square(tmp_path):
  shapes = {**host_cases.SHAPES['siglip']}
  shapes['vision_model.embeddings.position_embedding.weight'] = (8, 128)
  with pytest.raises(UserError, match='8 positions, 0 of them not of patches'):
    convert.convert(write(tmp_path, redraw(shapes)), 'siglip')
