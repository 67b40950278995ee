"""Released projectors: out of a language model's shards, there and back."""

import json
import sys
import types

import compressor_weights as weights
import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import run
from scipy import special

import tokpress_jax as tp
from tokpress_jax import registry, released
from tokpress_jax.errors import UserError
from tokpress_jax.io import (
  convert,
  export,
  keymap,
  load,
  safetensors,
  stablehlo,
)
from tokpress_jax.pruners import compressors
from tokpress_jax.pruners.compressors import parts

MQT = {**case.MQT, 'width': 32, 'heads': 16}
HICOM = {'width': 8, 'text': 8, 'out': 6, 'heads': 1}
WIDE = {**HICOM, 'width': 16}


def projector(start, out, width, first=0):
  """Names and shapes of the two layers that LLaVA has."""
  return {
    **case.layer(f'{start}.{first}', out, width),
    **case.layer(f'{start}.{first + 2}', out, out),
  }


def own(kind, shapes):
  return {weights.PLACES[kind] + name: s for name, s in shapes.items()}


# Case -> its kind, names and shapes in the checkpoint, and the config of these.
CASES = {
  'm3': (
    'm3',
    projector('mm_projector', 6, 8),
    compressors.M3ProjectorConfig(width=8, out=6),
  ),
  'mqt': (
    'mqt',
    own('mqt', case.mqt_shapes(MQT)),
    compressors.MQTConfig(side=4, width=32, out=12),
  ),
  'token-packer': (
    'token-packer',
    own('token-packer', case.packer_shapes()),
    compressors.TokenPackerConfig(width=8, joined=24, heads=1, out=12),
  ),
  'quecc-alone': (
    'quecc',
    own('quecc', case.quecc_shapes(2)),
    compressors.QueCCConfig(stride=2, width=16, joined=24, text=12),
  ),
  'quecc': (
    'quecc',
    own('quecc', case.quecc_shapes(4)) | projector('mm_projector', 6, 16, 1),
    compressors.QueCCConfig(stride=4, width=16, joined=24, text=12, out=6),
  ),
  'token-flex': (
    'token-flex',
    own('token-flex', case.flex_shapes()),
    compressors.TokenFLEXConfig(width=8, out=6),
  ),
  'slime-alone': (
    'slime',
    own('slime', case.slime_shapes()),
    compressors.SliMEResamplerConfig(side=3, width=8, heads=1),
  ),
  'slime': (
    'slime',
    own('slime', case.slime_shapes())
    | projector('mm_projector.projection', 6, 8),
    compressors.SliMEResamplerConfig(side=3, width=8, heads=1, out=6),
  ),
  **{
    f'hicom-local-{name}': (
      'hicom-local',
      own('hicom-local', case.local_shapes(guide, adapt)),
      compressors.HIComLocalConfig(**HICOM, guide=guide, adapt=adapt),
    )
    for name, (guide, adapt, _) in case.HICOM_LOCAL.items()
    if guide != 'off'
  },
  **{
    f'hicom-global-{name}': (
      'hicom-global',
      own('hicom-global', case.global_shapes(guide, adapt)),
      compressors.HIComGlobalConfig(
        **WIDE, queries=case.HICOM_QUERIES, guide=guide, adapt=adapt
      ),
    )
    for name, (guide, adapt, _) in case.HICOM_GLOBAL.items()
    if guide != 'off'
  },
}
every = pytest.mark.parametrize('name', CASES)
# What surrounds a projector, in a shard that is not there.
AROUND = ('lm_head.weight', 'model.norm.weight', 'model.vision_tower.probe')


def tensors_of(name):
  """Redrawn tensors of a case, with codes of places where there are some."""
  kind, shapes, _ = CASES[name]
  drawn = weights.redraw(shapes, rules=weights.RULES.get(kind, ()))
  if kind in ('mqt', 'slime'):
    number, width = shapes[weights.PLACES[kind] + 'query']
    codes = parts.codes((int(number**0.5),) * 2, width)
    drawn[weights.PLACES[kind] + 'pos_embed'] = np.asarray(codes)
  return drawn


def write(folder, tensors, *, lead='model.', description=None):
  """Shards of half precision and their index, which is returned."""
  place = {}
  for i in range(2):
    some = dict(list(tensors.items())[i::2])
    half = {lead + name: np.float16(x) for name, x in some.items()}
    safetensors.save(folder / f'model-{i}.safetensors', half)
    place |= dict.fromkeys(half, f'model-{i}.safetensors')
  place |= dict.fromkeys(AROUND, 'model-2.safetensors')
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': place}))
  if description is not None:
    (folder / 'config.json').write_text(json.dumps(description))
  return index


def prepared(kind, tensors):
  """Tensors as the rules name them."""
  keys = released.KINDS[kind]
  return keys.attribute('prepare')(tensors) if keys.prepare else tensors


@every
def test_names_there_and_back(name, tmp_path, capsys):
  kind, _, config = CASES[name]
  tensors = tensors_of(name)
  lead = '' if kind == 'token-flex' else 'model.'
  model = convert.convert(write(tmp_path, tensors, lead=lead), kind)
  said = capsys.readouterr().out
  assert f'{len(tensors)} tensors are those of {kind}; 3 others' in said
  assert model.spec.config == config and model.module.config == config
  assert model.spec.licence == released.KINDS[kind].licence
  assert {x.dtype.name for x in jax.tree.leaves(model.variables)} == {'float32'}
  want = prepared(kind, {k: np.float16(x) for k, x in tensors.items()})
  rules = released.KINDS[kind].attribute('RULES')
  back = keymap.invert(model.variables, rules, want)
  assert back.keys() == want.keys()
  for key, x in want.items():
    np.testing.assert_array_equal(back[key], np.float32(x))


def test_cases_are_of_every_kind_of_compressor():
  kinds = {k.name for k in released.KINDS.values() if 'compressors' in k.keys}
  assert kinds == {kind for kind, *_ in CASES.values()} == set(weights.PLACES)
  assert {registry.name_of(type(config)) for *_, config in CASES.values()} == {
    entry.name for entry in registry.entries('compressor')
  }


@pytest.mark.parametrize('name', ['m3', 'mqt', 'quecc', 'hicom-local-coarse'])
def test_one_report_of_all_that_does_not_fit(name, tmp_path):
  kind, _, _ = CASES[name]
  tensors = tensors_of(name)
  place = weights.PLACES[kind]
  lost = sorted(k for k in tensors if k.endswith('bias'))[0]
  wrong = sorted(k for k in tensors if k.endswith('bias'))[-1]
  del tensors[lost]
  tensors[wrong] = np.zeros(99, np.float32)
  tensors[f'{place}extra.weight'] = np.zeros(3, np.float32)
  with pytest.raises(UserError) as error:
    convert.convert(write(tmp_path, tensors), kind)
  said = str(error.value)
  for part in (
    'missing:\n',
    '/bias (',
    f'not used:\n    {place}extra.weight',
    'of another shape:\n',
  ):
    assert part in said, said
  rows = 33 if 'in_proj' in wrong else 99
  assert f'({rows},) there' in said


def test_shards_that_are_missing_or_wrong(tmp_path):
  index = write(tmp_path, tensors_of('m3'))
  with pytest.raises(UserError, match="no tensor is called 'query_abs"):
    convert.convert(index, 'mqt')
  (tmp_path / 'model-1.safetensors').unlink()
  with pytest.raises(UserError, match=r'beside it: model-1\.safetensors\. Put'):
    convert.convert(index, 'm3')
  safetensors.save(tmp_path / 'model-1.safetensors', {'x': np.zeros(1)})
  with pytest.raises(UserError, match='lacks what its index says'):
    convert.convert(index, 'm3')
  for text in ('[]', '{"weight_map": {"a": "../x"}}', '{'):
    index.write_text(text)
    with pytest.raises(UserError, match='is no index of shards'):
      convert.convert(index, 'm3')


def test_what_is_saved_of_a_projector_alone(tmp_path, capsys):
  tensors = {f'model.{k}': x for k, x in tensors_of('m3').items()}
  file = tmp_path / 'mm_projector.safetensors'
  safetensors.save(file, tensors)
  model = convert.convert(file, 'm3')
  assert not capsys.readouterr().out
  x = case.draw('x', 2, 576, 8)
  pooled = jax.jit(lambda m, x: m(x, count=36))(model, x)
  every = jax.jit(lambda m, x: m(x))(model, x)
  assert every.shape == (2, 576, 6)
  (want,) = compressors.nested_pool(every, grid=(24, 24), scales=(36,))
  np.testing.assert_allclose(pooled, want, atol=1e-6)
  hidden = x @ tensors['model.mm_projector.0.weight'].T
  hidden = hidden + tensors['model.mm_projector.0.bias']
  hidden = hidden * special.ndtr(hidden)  # the exact GELU
  want = hidden @ tensors['model.mm_projector.2.weight'].T
  want = want + tensors['model.mm_projector.2.bias']
  np.testing.assert_allclose(every, want, atol=1e-5)


def test_codes_of_places_must_be_sines(tmp_path):
  tensors = tensors_of('mqt')
  name = 'query_abstractor.pos_embed'
  want = convert.convert(write(tmp_path, tensors), 'mqt').variables
  # As a model in bfloat16 has them, or one whose start went wrong.
  for codes in (
    np.float32(jnp.asarray(tensors[name], jnp.bfloat16)),
    np.full_like(tensors[name], np.nan),
  ):
    index = write(tmp_path, tensors | {name: codes})
    again = convert.convert(index, 'mqt').variables
    assert jax.tree.all(jax.tree.map(np.array_equal, want, again))
  index = write(tmp_path, tensors | {name: 0.9 * tensors[name]})
  with pytest.raises(UserError, match='sines and cosines of 4 x 4'):
    convert.convert(index, 'mqt')
  del tensors[name]
  tensors['query_abstractor.query'] = np.zeros((15, 32), np.float32)
  with pytest.raises(UserError, match='15 queries, which are no square'):
    convert.convert(write(tmp_path, tensors), 'mqt')


def test_what_no_tensor_says_is_in_the_config_json(tmp_path):
  file = write(
    tmp_path, tensors_of('token-packer'), description={'scale_factor': 3}
  )
  assert convert.convert(file, 'token-packer').module.stride == 3
  said = {'use_guide': None, 'mm_projector_type': 'local43_global32'}
  for changes, guide, sizes in (
    ({}, 'off', (4, 3, 3)),
    ({'use_guide': 'direct'}, 'direct', (4, 3, 3)),
    ({'mm_projector_type': 'local29_guidedirect'}, 'direct', (2, 9, 9)),
    ({'mm_projector_type': 'global9_guidefine_local112'}, 'off', (1, 12, 12)),
  ):
    file = write(
      tmp_path, tensors_of('hicom-local-direct'), description=said | changes
    )
    config = convert.convert(file, 'hicom-local').module.config
    assert (config.guide, config.sizes) == (guide, sizes)
  said['mm_projector_type'] = 'global32'
  file = write(tmp_path, tensors_of('hicom-local-direct'), description=said)
  with pytest.raises(UserError, match="'global32', which has no local"):
    convert.convert(file, 'hicom-local')
  # What the tensors are not of is not followed in silence.
  said = {'use_guide': 'direct', 'mm_projector_type': 'global32'}
  file = write(tmp_path, tensors_of('hicom-global-coarse'), description=said)
  with pytest.raises(UserError, match='guide/modulation'):
    convert.convert(file, 'hicom-global')


def test_a_logit_scale_of_hicom_is_named(tmp_path):
  tensors = tensors_of('hicom-local-direct')
  tensors['mm_projector.local_logit_scale'] = np.zeros(1, np.float32)
  with pytest.raises(UserError, match=r'mm_projector\.local_logit_scale'):
    convert.convert(write(tmp_path, tensors), 'hicom-local')


def test_a_converted_compressor_is_loaded_and_exported(tmp_path, capsys):
  index, out = write(tmp_path, tensors_of('mqt')), tmp_path / 'mqt.safetensors'
  assert run('convert', 'mqt', index, '--out', out) == 0
  assert 'mqt, 5,312 parameters' in capsys.readouterr().out
  model = tp.load(out)
  assert 'mqt (compressor)' in capsys.readouterr().out
  assert model.module == compressors.MQT(side=4, width=32, out=12)
  x = case.draw('x', 2, 576, 32)
  few = jax.jit(lambda m, x: m(x, count=5))(model, x)
  assert few.shape == (2, 5, 12)
  tp.export(model.module, model.variables, tmp_path / 'model')
  again = load.load(tmp_path / 'model')
  assert again.spec.config == model.spec.config
  np.testing.assert_array_equal(
    jax.jit(lambda m, x: m(x, count=5))(again, x), few
  )
  card = (tmp_path / 'model' / 'README.md').read_text()
  assert 'A `mqt` compressor' in card and '# x: float32 [B, 576, 32]' in card
  stablehlo.export_programs(model, tmp_path, batch_size=2)
  (program,) = stablehlo.load_programs(tmp_path).values()
  np.testing.assert_allclose(program(x)[:, :5], few, atol=1e-4)
  half = tp.for_inference(model, dtype=jnp.bfloat16)
  got = jax.jit(lambda m, x: m(x, count=5))(half, x)
  assert got.dtype == jnp.bfloat16
  assert np.abs(np.float32(got) - few).mean() < 0.05 * few.std()


def test_cards_say_what_is_read(tmp_path):
  for name in ('quecc', 'hicom-global-fine'):
    *_, config = CASES[name]
    kind = released.KINDS[CASES[name][0]]
    shapes = kind.attribute('expected')(config)
    filled = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    export.export(config.build(), filled, tmp_path / name)
    card = (tmp_path / name / 'README.md').read_text()
    assert load.load(tmp_path / name).spec.config == config
    assert 'text)  # [B, K, F]' in card
  assert '# text: float32 [B, 1, 8]' in card


def test_known_sizes():
  rows = {r.name: r for r in released.list_released()}
  with np.load(case.GOLDEN) as file:
    official = {k: int(file[k]) for k in file.files if 'parameters' in k}
  two = lambda out, width: out * (width + 1) + out * (out + 1)
  assert rows['llava-v1.5-7b-m3'].parameters == two(4096, 1024)
  assert rows['mqt-llava-7b'].parameters == official['mqt/parameters']
  small, large = (
    rows[f'tokenpacker-{n}-144token'].parameters for n in ('7b', '13b')
  )
  assert small == official['packer/parameters']
  assert large - small == two(5120, 1024) - two(4096, 1024)
  for name, out in (('vicuna-7b', 4096), ('vicuna-13b', 5120)):
    count = rows[f'slime-{name}'].parameters
    assert count == official['slime/parameters'] + two(out, 1024)
  local, everywhere = (
    rows[f'hicom-7b-{n}'].parameters for n in ('local', 'global')
  )
  assert local == official['hicom/local/parameters']
  # Counted with coarse guidance; the published script's has no layers.
  coarse = two(2 * 1152, 1152) + 2 * 1152
  assert everywhere == official['hicom/global/parameters'] - coarse
  assert rows['tokenpacker-hd-13b-16patch-36token'].make_config().stride == 4
  assert not rows['ristretto-3b'].config  # Its sizes are not at hand.


def test_only_the_shards_of_the_projector_are_downloaded(
  tmp_path, monkeypatch, capsys
):
  cache, hub = tmp_path / 'models', tmp_path / 'hub'
  hub.mkdir()
  write(hub, tensors_of('m3'), description={})
  monkeypatch.setenv('TOKPRESS_MODELS', str(cache))
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(UserError, match='with the shards that it names for mm_p'):
    tp.load('llava-v1.5-7b-m3')
  asked = []

  def download(repository, file):
    asked.append(file)
    if not (hub / file).is_file():
      raise OSError(f'no {file}')
    return str(hub / file)

  fake = types.SimpleNamespace(hf_hub_download=download)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', fake)
  real = convert.convert
  monkeypatch.setattr(
    convert, 'convert', lambda source, name: real(source, 'm3')
  )
  assert tp.load('llava-v1.5-7b-m3')(np.zeros((1, 576, 8))).shape == (1, 576, 6)
  shards = [f'model-{i}.safetensors' for i in range(2)]
  assert asked == ['model.safetensors.index.json', *shards, 'config.json']
  assert 'downloading model-1.safetensors' in capsys.readouterr().out


@pytest.mark.parity
def test_shards_of_pytorch(tmp_path):
  torch = pytest.importorskip('torch')
  tensors = tensors_of('slime')
  index = write(tmp_path, tensors)
  want = convert.convert(index, 'slime').variables
  places = json.loads(index.read_text())['weight_map']
  for i in range(2):
    own = safetensors.load_flat(tmp_path / f'model-{i}.safetensors')
    torch.save(
      {k: torch.from_numpy(x) for k, x in own.items()},
      tmp_path / f'pytorch_model-{i}.bin',
    )
    (tmp_path / f'model-{i}.safetensors').unlink()
  renamed = {
    k: p.replace('model', 'pytorch_model').replace('safetensors', 'bin')
    for k, p in places.items()
  }
  index = tmp_path / 'pytorch_model.bin.index.json'
  index.write_text(json.dumps({'weight_map': renamed}))
  got = convert.convert(index, 'slime').variables
  assert jax.tree.all(jax.tree.map(np.array_equal, want, got))
