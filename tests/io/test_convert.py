"""Released weights: found, converted, refused."""

import sys
import types

import jax
import maskgen_case
import numpy as np
import pytest
import rar_case
import titok_case
import var_case
from command import run
from PIL import Image
from redraw import redraw, unpack

from tokpress_jax import generators, quantize, released, tokenizers
from tokpress_jax import types as tokpress_types
from tokpress_jax.errors import UserError
from tokpress_jax.io import convert, export, safetensors
from tokpress_jax.io import load as load_lib

SCALES = var_case.SMALL['scales']


def official(name):
  """Tensors with the official names of a small VAR or its tokenizer."""
  with np.load(var_case.GOLDEN / 'var.npz') as file:
    shapes = unpack(file[f'{name}_shapes'])
  return redraw(shapes, rules=var_case.RULES)


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A folder with a small VAR and its tokenizer, official and converted."""
  root = tmp_path_factory.mktemp('weights')
  for name, kind in (('vae', 'var-vqvae'), ('block', 'var')):
    source = root / f'official_{name}.safetensors'
    safetensors.save(source, official(name))
    out = root / f'{kind}.safetensors'
    options = ('--scales', *SCALES, '--out', out)
    assert run('convert', kind, source, *options) == 0
  return root


def test_a_converted_generator_finds_its_tokenizer_and_samples(here, capsys):
  model = load_lib.load(here / 'var.safetensors')
  assert 'licence of the weights: MIT' in capsys.readouterr().out
  assert model.spec.family == 'generator' and model.tokenizer is not None
  assert model.module.config.scales == SCALES
  assert model.module.config.num_classes == var_case.SMALL['classes']
  drawn = generators.sample(model, np.array([1]), rng=jax.random.key(0))
  assert drawn.images.shape == (1, 96, 96, 3)
  assert load_lib.load_variables(here / 'var.safetensors')['params']


def test_another_tokenizer_may_be_given(here, tmp_path):
  alone = tmp_path / 'var.safetensors'
  alone.write_bytes((here / 'var.safetensors').read_bytes())
  model = load_lib.load(alone, tokenizer=here / 'var-vqvae.safetensors')
  assert model.tokenizer.spec.name == 'var-vqvae'


def test_files_that_are_no_model_say_what_they_are(tmp_path):
  for name, message in (
    ('var_d16.pth', 'tokpress convert'),
    ('x.tok', 'give its tokenizer first'),
    ('x.safetensors', 'not a whole safetensors file'),
  ):
    (tmp_path / name).write_bytes(b'something else')
    with pytest.raises(UserError, match=message):
      load_lib.load(tmp_path / name)
  with pytest.raises(UserError, match=r"no 'nowhere\.safetensors'"):
    load_lib.load('nowhere.safetensors')
  with pytest.raises(UserError, match="Did you mean 'var-d16'"):
    load_lib.load('vard16')


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (('var', 'nowhere.safetensors'), 'no file'),
    (('vra', 'official_block.safetensors'), 'Did you mean'),
    (('var', 'official_vae.safetensors'), "no tensor is called 'pos_1LC'"),
    (('var', 'official_block.safetensors'), 'give the sides of the scales'),
    (('var', 'notes.txt'), 'neither a .safetensors file nor a checkpoint'),
  ],
)
def test_what_is_no_such_checkpoint_is_refused(here, argv, message, capsys):
  kind, file = argv
  out = here / 'refused.safetensors'
  assert run('convert', kind, here / file, '--out', out) == 2
  assert message in capsys.readouterr().err
  assert not out.exists()


def test_another_depth_is_refused_with_the_full_list(here, capsys):
  source = here / 'official_block.safetensors'
  out = here / 'refused.safetensors'
  assert run('convert', 'var-d16', source, '--out', out) == 2
  text = capsys.readouterr().err
  assert 'of another shape' in text
  for name in ('positions/table', 'attn/qkv/kernel', 'head/logits/kernel'):
    assert name in text
  assert '(3, 64, 192) there, (16, 1024, 3072) expected' in text
  assert not out.exists()


def test_missing_and_foreign_tensors_are_all_named(here, tmp_path, capsys):
  tensors = official('block')
  del tensors['head.bias'], tensors['blocks.1.ffn.fc2.weight']
  tensors['extra.weight'] = np.zeros(3, np.float32)
  source = tmp_path / 'broken.safetensors'
  safetensors.save(source, tensors)
  argv = ('--scales', *SCALES, '--out', tmp_path / 'x.safetensors')
  assert run('convert', 'var', source, *argv) == 2
  text = capsys.readouterr().err
  for name in ('head/logits/bias', 'mlp/fc2/kernel', 'extra.weight'):
    assert name in text


def test_scales_that_do_not_fit_are_refused(here, capsys):
  source = here / 'official_block.safetensors'
  argv = ('--scales', 1, 2, 3, '--out', here / 'x.safetensors')
  assert run('convert', 'var', source, *argv) == 2
  assert 'positions/table: (66, 64) there' in capsys.readouterr().err


@pytest.mark.parametrize(
  'row',
  [row for row in released.list_released() if row.config],
  ids=lambda r: r.name,
)
def test_published_sizes(row):
  """Parameters of every released file, in millions (the official classes)."""
  millions = {
    'var-vqvae': 108.95,
    'var-vqvae-512': 108.95,
    'var-d16': 310.28,
    'var-d20': 600.92,
    'var-d24': 1033.40,
    'var-d30': 2010.02,
    'var-d36': 2353.89,
    'mvar-d16': 310.28,
    'mvar-finetune-d16': 310.28,
    'mvar-finetune-d20': 600.92,
    'mvar-finetune-d24': 1033.40,
    'maskgit-vqgan': 54.52,
    # As timm and transformers print them; CLIP's with the projections.
    'vit-b16': 86.57,
    'vit-b16-augreg': 86.57,
    'deit-ti16': 5.72,
    'deit-ti16-distilled': 5.91,
    'deit-s16': 22.05,
    'deit-s16-distilled': 22.44,
    'deit-b16': 86.57,
    'deit-b16-distilled': 87.34,
    'clip-b32': 87.85,
    'clip-b16': 86.19,
    'clip-l14': 303.97,
    'clip-l14-336': 304.29,
    'clip-text-b32': 63.43,
    'clip-text-b16': 63.43,
    'clip-text-l14': 123.65,
    'siglip-b16': 92.88,
    'siglip-so400m-384': 428.23,
    'siglip-text-b16': 110.27,
    'siglip-text-so400m-384': 449.73,
    'titok-l32': 641.05,
    'titok-b64': 204.81,
    'titok-s128': 83.67,
    'titok-bl64-vq8k': 390.02,
    'titok-bl128-vq8k': 390.18,
    'titok-sl256-vq8k': 330.26,
    'titok-ll32-vae-c16': 606.88,
    'titok-bl64-vae-c16': 389.42,
    'titok-bl128-vae-c16': 389.58,
    'tatitok-bl32-vq': 390.80,
    'tatitok-bl64-vq': 390.88,
    'tatitok-bl128-vq': 391.05,
    'tatitok-bl32-vae': 390.20,
    'tatitok-bl64-vae': 390.28,
    'tatitok-sl128-vae': 330.28,
    'one-d-piece-s256': 83.87,
    'one-d-piece-b256': 205.26,
    'one-d-piece-l256': 641.74,
    # Less the second kind of text of the official BERT, 0.0015.
    'titok-l32-maskgit': 177.20,
    'titok-b64-maskgit': 177.23,
    'titok-s128-maskgit': 294.99,
    'one-d-piece-s256-maskgit': 177.37,
    'one-d-piece-b256-maskgit': 177.37,
    'one-d-piece-l256-maskgit': 177.37,
    # Less 2,146 rows of the official tables that nothing reads: 260.92, 461.67,
    # 955.43 and 1498.52 with them.
    'rar-b': 259.28,
    'rar-l': 459.47,
    'rar-xl': 952.68,
    'rar-xxl': 1495.50,
    # Less the last block's queries of the text and, over codes, 1,001 rows of
    # the vocabulary: 604.31, 1176.61, 641.36 and 1237.35 with them.
    'maskgen-vq-l': 602.24,
    'maskgen-vq-xl': 1173.69,
    'maskgen-kl-l': 640.31,
    'maskgen-kl-xl': 1235.71,
    # Counted from the official Flax shapes (tests/tokenizers).
    'elastictok-fsq': 210.17,
    'elastictok-vae': 210.57,
    # By hand, from the official layers' shapes; with the 2 x 256 rows of sines
    # that we compute, d18-d18 has the published 949.73.
    'flextok-vae-c4': 83.65,
    'flextok-vae-c8': 83.71,
    'flextok-vae-c16': 83.82,
    'flextok-d12-d12-in1k': 341.26,
    'flextok-d18-d18-in1k': 949.14,
    'flextok-d18-d28-in1k': 2540.13,
    'flextok-d18-d28-dfn': 2540.13,
    # 216.40, 207.53, 174.17 and 409.07, and MAGE's VQGAN, 54.52.
    'karl-small': 270.91,
    'karl-small-continuous': 270.86,
    'alit-small': 262.05,
    'alit-base': 228.69,
    'alit-semilarge': 463.59,
    # As the official classes count; tests/pruners/compressors/test_keys.py.
    'llava-v1.5-7b-m3': 20.98,
    'llava-next-vicuna-7b-m3': 20.98,
    'mqt-llava-7b': 8.66,
    'tokenpacker-7b-144token': 36.72,
    'tokenpacker-13b-144token': 47.21,
    'tokenpacker-hd-7b-9patch-144token': 36.72,
    'tokenpacker-hd-13b-9patch-144token': 47.21,
    'tokenpacker-hd-13b-16patch-144token': 47.21,
    'tokenpacker-hd-13b-16patch-64token': 47.21,
    'tokenpacker-hd-13b-16patch-36token': 47.21,
    'slime-vicuna-7b': 25.33,
    'slime-llama3-8b': 25.33,
    'slime-vicuna-13b': 35.82,
    'hicom-7b-local': 16.98,
    'hicom-7b-global': 22.33,
  }
  kind = released.KINDS[row.kind]
  shapes = kind.attribute('expected')(row.make_config())
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert count == row.parameters
  assert round(count / 1e6, 2) == millions[row.name]
  if row.tokenizer:
    tokenizer = released.RELEASED[row.tokenizer].make_config()
    row.make_config().check_tokenizer(tokenizer)


def test_a_released_name_is_downloaded_and_converted_once(
  here, tmp_path, monkeypatch
):
  monkeypatch.setenv('TOKPRESS_MODELS', str(tmp_path))
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(UserError, match=r'tokpress convert var-d16 var_d16\.pth'):
    load_lib.load('var-d16')
  asked = []

  def download(repository, file):
    asked.append((repository, file))
    name = 'vae' if file.startswith('vae') else 'block'
    return str(here / f'official_{name}.safetensors')

  hub = types.SimpleNamespace(hf_hub_download=download)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  real = convert.convert
  small = lambda source, name: real(
    source, released.RELEASED[name].kind, scales=SCALES
  )
  monkeypatch.setattr(convert, 'convert', small)
  for _ in range(2):
    model = load_lib.load('var-d16')
    assert model.tokenizer is not None
  files = [('FoundationVision/var', name) for name in
           ('var_d16.pth', 'vae_ch160v4096z32.pth')]  # fmt: skip
  assert asked == files


def titok_file(name, folder):
  """A small TiTok with official names; see `titok_case`."""
  file = 'one_d_piece' if name == 'one_d_piece' else 'titok'
  with np.load(titok_case.GOLDEN / f'{file}.npz') as arrays:
    shapes = unpack(arrays[f'{name}/shapes'])
  path = folder / f'{name}.safetensors'
  safetensors.save(path, redraw(shapes, rules=titok_case.RULES))
  return path


def test_a_titok_is_converted_and_loaded(tmp_path, capsys):
  for name, kind in (('vae', 'titok'), ('one_d_piece', 'one-d-piece')):
    out = tmp_path / f'our_{name}.safetensors'
    source = titok_file(name, tmp_path)
    assert run('convert', kind, source, '--out', out) == 0
    model = load_lib.load(out)
    assert 'Apache-2.0' in capsys.readouterr().out
    config = model.module.config
    assert config.layout == ('token' if name == 'vae' else 'legacy')
    assert config.continuous == (name == 'vae')
    assert config.prefixes == ('whole' if name == 'vae' else 'any')
  image = tmp_path / 'image.png'
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(pixels).save(image)
  vae, sheet = tmp_path / 'our_vae.safetensors', tmp_path / 'sheet.png'
  assert run('reconstruct', vae, image, '--out', sheet) == 0
  assert ' 6   continuous ' in capsys.readouterr().out
  assert run('encode', vae, image, '--out', tmp_path / 'x.tok') == 2
  assert 'has continuous tokens' in capsys.readouterr().err
  text = tmp_path / 'text.safetensors'
  assert run('convert', 'titok', titok_file('tatitok', tmp_path), '--out',
             text) == 0  # fmt: skip
  assert run('reconstruct', text, image, '--out', sheet) == 2
  assert 'reads a text: give --text' in capsys.readouterr().err


def test_a_rar_is_converted_and_samples_with_maskgits_vqgan(tmp_path, capsys):
  with np.load(rar_case.GOLDEN / 'rar.npz') as arrays:
    tensors = redraw(unpack(arrays['shapes']), rules=rar_case.RULES)
  source, out = tmp_path / 'small.safetensors', tmp_path / 'rar.safetensors'
  safetensors.save(source, tensors)
  assert run('convert', 'rar', source, '--out', out) == 0
  assert 'Its tokenizer is maskgit-vqgan' in capsys.readouterr().out
  config = tokenizers.MaskGITVQGANConfig(
    image_size=6,
    patch=2,
    width=4,
    multipliers=(1, 2),
    blocks=1,
    groups=2,
    quantizer=quantize.VQConfig(codebook_size=24, dim=4),
  )
  module, pixels = config.build(), np.zeros((1, 6, 6, 3), np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), pixels)
  spec = tokpress_types.Spec(name='', family='tokenizer', config=config)
  tokenizer = tokpress_types.Loaded(module, variables, spec)
  export.save_file(tokenizer, tmp_path / 'maskgit-vqgan.safetensors')
  model = load_lib.load(out)
  assert 'Apache-2.0; for research' in capsys.readouterr().out
  drawn = generators.sample(model, np.array([1]), rng=jax.random.key(0))
  assert drawn.codes.shape == (1, 9, 1) and drawn.images.shape == (1, 6, 6, 3)
  other = '--out', tmp_path / 'refused.safetensors'
  assert run('convert', 'rar-b', source, *other) == 2
  assert 'of another shape' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['vq', 'kl'])
def test_a_maskgen_is_converted_and_its_card_speaks_of_texts(
  kind, tmp_path, capsys
):
  with np.load(maskgen_case.GOLDEN / 'maskgen.npz') as arrays:
    shapes = unpack(arrays[f'{kind}_shapes'])
  source, out = tmp_path / 'small.safetensors', tmp_path / 'maskgen.safetensors'
  safetensors.save(source, redraw(shapes, rules=maskgen_case.RULES))
  assert run('convert', f'maskgen-{kind}', source, '--out', out) == 0
  name = 'tatitok-bl128-vq' if kind == 'vq' else 'tatitok-bl32-vae'
  assert f'Its tokenizer is {name}' in capsys.readouterr().out
  model = convert.convert(source, f'maskgen-{kind}')
  head = 'categorical' if kind == 'vq' else 'diffusion'
  assert model.module.config.head == head
  export.export(model.module, model.variables, tmp_path / 'exported')
  card = (tmp_path / 'exported' / 'README.md').read_text()
  assert 'tp.generators.text(' in card


def test_a_layout_is_an_option_of_titok_alone(here, tmp_path, capsys):
  source = titok_file('legacy', tmp_path)
  found = convert.convert(source, 'titok', layout='token')
  assert found.module.config.layout == 'token'
  assert convert.convert(source, 'titok').module.config.layout == 'legacy'
  out = '--out', tmp_path / 'x.safetensors'
  for argv, message in (
    (('titok', source, '--scales', 1, 2), "'titok', which take layout"),
    (('titok-l32', source, '--layout', 'legacy'), 'whose layout is known'),
    (('maskgit-vqgan', source, '--layout', 'token'), 'which take no option'),
    (('titok-l32', source), 'of another shape'),
    (('titok-bl64-vq8k', source), 'not used'),
    (('maskgit-vqgan', source), "no tensor is called 'encoder.mid.0"),
  ):
    assert run('convert', *argv, *out) == 2
    assert message in capsys.readouterr().err


def test_the_other_name_of_a_file_is_tried(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('TOKPRESS_MODELS', str(tmp_path / 'models'))
  source, asked = titok_file('vq8k', tmp_path), []

  def download(repository, file):
    asked.append((repository, file))
    if file != 'pytorch_model.bin' or repository.startswith('turkeyju'):
      raise OSError(f'no {file}')
    return str(source)

  hub = types.SimpleNamespace(hf_hub_download=download)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  real = convert.convert
  by_shape = lambda file, name: real(file, 'titok')
  monkeypatch.setattr(convert, 'convert', by_shape)
  assert load_lib.load('titok-bl64-vq8k').module.config.tokens == 6
  where = 'yucornetto/tokenizer_titok_bl64_vq8k_imagenet'
  assert asked == [(where, 'model.safetensors'), (where, 'pytorch_model.bin')]
  with pytest.raises(UserError, match=r'not give it: no model\.safetensors'):
    load_lib.load('tatitok-bl32-vq')


def test_where_released_titoks_are():
  places = {r.name: r.repository for r in released.list_released()}
  for name, place in (
    ('titok-l32', 'yucornetto/tokenizer_titok_l32_imagenet'),
    ('titok-b64', 'yucornetto/tokenizer_titok_b64_imagenet'),
    ('tatitok-sl128-vae', 'turkeyju/tokenizer_tatitok_sl128_vae'),
    ('one-d-piece-b256', 'turing-motors/One-D-Piece-B-256'),
    ('maskgit-vqgan', 'fun-research/TiTok'),
  ):
    assert places[name] == place


@pytest.mark.parity
def test_pickles_are_read_without_running_anything(tmp_path):
  torch = pytest.importorskip('torch')
  tensors = {k: torch.from_numpy(x) for k, x in official('block').items()}
  plain = tmp_path / 'var.pth'
  torch.save(tensors, plain)
  found = convert.convert(plain, 'var', scales=SCALES)
  # A trainer's checkpoint: deeper, with a prefix, and in half precision.
  deep = {'trainer': {'var': {f'module.{k}': x.half() for k, x in
                              tensors.items()}, 'step': 3}}  # fmt: skip
  torch.save(deep, tmp_path / 'deep.ckpt')
  again = convert.convert(tmp_path / 'deep.ckpt', 'var', scales=SCALES)
  for a, b in zip(
    jax.tree.leaves(found.variables),
    jax.tree.leaves(again.variables),
    strict=True,
  ):
    assert b.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)

  class Evil:
    def __reduce__(self):
      return print, ('executed',)

  torch.save({'pos_1LC': Evil()}, tmp_path / 'evil.pth')
  with pytest.raises(UserError, match='more than tensors'):
    convert.convert(tmp_path / 'evil.pth', 'var')
