"""The bench of pruners before a language model, on few small tokens."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import bench, registry
from tokpress_jax.bench import compressor_cases, compressors
from tokpress_jax.bench.compressor_inputs import SCENES, Inputs, Scene
from tokpress_jax.bench.learned_cases import Learned
from tokpress_jax.cli import bench as cli
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm
from tokpress_jax.pruners import compressors as learned
from tokpress_jax.types import Tokens

SCENE = Scene(
  image=(6, 12),
  crops=(2, 6, 6),
  layout=(1, 1),
  video=(8, 3, 3),
  tower=(2, 6, 6),
)
CASES = compressor_cases.CASES
# What no row of the bench is of: parts of methods, losses, schedules.
PARTS = {
  'Attend',
  'Compressor',
  'Curriculum',
  'M3Projector',
  'as_tokens',
  'at_budget',
  'attend_in_regions',
  'factor_projector',
  'grid_regions',
  'key_set',
  'layers_of',
  'nested_loss',
  'pooling_matrix',
  'random_prefix',
  'readers',
  'reads_text',
  'spans',
}
# Of those that cannot keep 160 of 2,880: what they keep.
NEAREST = {
  'downsample': 165,
  'projector': 2880,
  'aim': 180,
  'mustdrop': 320,
  'dycoke': 976,  # 6 frames of 144, and 8 of each other one
  'm3_projector': 180,
  'token_packer': 180,
  'token_flex': 180,
  'quecc': 180,
}
EXACT = (
  'divprune',
  'globalcom2',
  'mqt',
  'hicom_local',
  'slime_resampler',
  'zoo_prune',
  'zoo_prune_low_rank',
)
every = pytest.mark.parametrize('name', CASES)


def tiny(**kwargs):
  return Inputs(scene=SCENE, width=16, tower=16, **kwargs)


def shape(name, kept, inputs):
  """Of what a method gives; nothing is computed."""

  def run():
    case = CASES[name]
    if case.build is None:
      function, given = case.program(kept, inputs)
      return function(*given)
    module = Learned(case.build, kept)
    weights = module.init(jax.random.key(0), inputs.given)
    return module.apply(weights, inputs.given)

  out = jax.eval_shape(run)
  return out.features if isinstance(out, Tokens) else out


@pytest.fixture(scope='module')
def small_model():
  """A language model of 2 layers of 64, MLPs of 128."""
  with pytest.MonkeyPatch.context() as patch:
    for name, value in (('LAYERS', 2), ('WIDTH', 64), ('HIDDEN', 128)):
      patch.setattr(compressors, name, value)
    yield


@pytest.fixture(scope='module')
def rows(small_model):
  found = compressors.compare(
    list(CASES.values()), tiny(), (18,), repeats=1, measure_memory=True
  )
  return {row['name'].split('/')[0]: row for row in found}


def test_no_method_is_forgotten():
  behind = [
    entry.name
    for entry in registry.list_pruners()
    if '.before_llm.' in entry.target
  ]
  assert len(behind) == 22
  assert set(behind) | {'random', 'stride'} <= set(CASES)
  registered = {registry.resolve(name).__name__ for name in behind}
  named = {name for case in CASES.values() for name in case.public}
  public = {*before_llm.__all__, *learned.__all__} - PARTS
  public = {name for name in public if not name.endswith('Config')}
  assert named | registered == public
  assert set(compressors.METHODS) <= set(CASES)


@every
def test_every_method_runs(rows, name):
  row = rows[name]
  others = {'projector': 72, 'dycoke': 3 * 9 + 5 * 2}
  assert row['budget'] == 18
  assert row['kept'] == others.get(name, 18)
  assert row['name'] == f'{name}/{row["kept"]} of 72'
  assert row['peak_bytes'] >= row['kept'] * 16 * 4  # the result, at least
  assert row['token_bytes'] == 72 * 16 * 4
  assert row.keys() == rows['random'].keys()


@every
def test_columns_agree(rows, name):
  row = rows[name]
  np.testing.assert_allclose(row['share'], row['seconds'] / row['prefill'])
  assert row['gram'] > 0 and row['bound'] >= 0
  few, dear = row['share'] <= 0.03, row['bound'] > 0.03
  want = 'share' if few else 'gram' if dear and row['gram'] <= 1.5 else 'no'
  assert row['meets'] == want


def test_bound_is_by_operations(rows):
  # Attention of width 64 and three products of 128; 64 are words.
  layer = lambda n: 4 * n * 64**2 + 2 * n**2 * 64 + 3 * n * 64 * 128
  np.testing.assert_allclose(  # one product of all pairs
    rows['divprune']['bound'], 72**2 * 16 / (2 * layer(18 + 64))
  )
  np.testing.assert_allclose(
    rows['projector']['bound'], 72 * 2 * 16**2 / (2 * layer(72 + 64))
  )
  assert rows['stride']['bound'] == 0


def test_verdict():
  def given(share, gram, bound):
    return compressors.verdict({'share': share, 'gram': gram, 'bound': bound})

  assert given(0.03, 9.0, 0.5) == 'share'
  assert given(0.031, 1.5, 0.04) == 'gram'
  assert given(0.031, 1.6, 0.04) == 'no'
  assert given(0.031, 1.0, 0.03) == 'no'  # it could be


def test_summary_names_what_is_too_dear(rows):
  made = [
    dict(rows[name], meets=meets, share=0.05, gram=2.0)
    for name, meets in (
      ('scope', 'no'),
      ('m3_projector', 'gram'),
      ('dtd', 'share'),
    )
  ]
  line = compressors.summary(made)
  assert line.startswith('1 of 3 rows take at most 3%')
  assert line.endswith('neither: scope/18 of 72 (5.0%, 2 products).')
  assert compressors.summary(made[2:]).endswith('neither: none.')
  assert compressors.summary([{'probe': 0.5}]) == ''


@pytest.mark.parametrize('name', (*NEAREST, *EXACT))
def test_numbers_at_the_published_size(name):
  inputs = Inputs(scene=SCENES[2880])
  out = shape(name, 160, inputs)
  assert out.shape[-1] == (1024 if 'zoo_prune' in name else 4096)
  assert out.shape[0] * out.shape[1] == NEAREST.get(name, 160)


@every
def test_batches_and_bfloat16(name):
  out = shape(name, 18, tiny(batch=2, dtype='bfloat16'))
  assert out.dtype == jnp.bfloat16
  alone = shape(name, 18, tiny())
  assert out.shape == (2 * alone.shape[0], *alone.shape[1:])


def test_options_and_the_line_behind_the_table(
  small_model, monkeypatch, tmp_path, capsys
):
  monkeypatch.setitem(compressors.SCENES, 72, SCENE)
  monkeypatch.setitem(compressors.KEPT, 72, (36, 18))
  file = tmp_path / 'report.json'
  words = (
    '--methods m3_projector stride --slots 72 --width 16 --tower 16 --batch 2'
  )
  words += ' --dtype bfloat16 --repeats 1 --measure-memory 0'
  cli.main(['compressors', '--json', str(file), *words.split()])
  report = json.loads(file.read_text())
  names = [row['name'] for row in report['rows']]
  # Of 36 and of 18 the nearest number of windows is the same.
  assert names == [
    'm3_projector/18 of 72',
    'stride/36 of 72',
    'stride/18 of 72',
  ]
  assert {(row['batch'], row['dtype']) for row in report['rows']} == {
    (2, 'bfloat16')
  }
  assert 'peak_bytes' not in report['rows'][0]
  shown = capsys.readouterr().out.splitlines()
  assert shown[-1] == report['summary'] == compressors.summary(report['rows'])


def test_bad_options_are_refused():
  with pytest.raises(UserError, match=r'among \[576, 2880\], got \[100\]'):
    bench.run('compressors', slots=100)
  with pytest.raises(
    UserError, match=r"'divprun' to time\. Did you mean 'divpr"
  ):
    bench.run('compressors', methods=('stride', 'divprun'))
  with pytest.raises(UserError, match='--slots are of what is timed'):
    bench.run('compressors', model='runs/it', slots=576)
  with pytest.raises(UserError, match="'tome'"):  # inside a ViT
    bench.run('compressors', methods='tome')
