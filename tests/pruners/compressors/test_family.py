"""What every learned compressor promises; a new one joins by a row in ROWS."""

import dataclasses
import functools
import inspect
from typing import Any

import compressors_case as case
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError
from tokpress_jax.io import safetensors
from tokpress_jax.pruners import compressors

BATCH, SIDE, WIDTH, LEVELS, TEXT = 8, 8, 8, 12, 6
GRID = (SIDE, SIDE)


def draw(name, *shape):
  return jnp.asarray(case.draw(name, *shape))


def image(width=WIDTH, sides=GRID):
  return draw(f'image{width}', BATCH, int(np.prod(sides)), width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A small module, and the published one.

  Attributes:
    module: small.
    inputs: of the small one.
    options: static ones of the call, for both.
    published: the published one.
    shapes: of its inputs, without a batch.
    out: of its output.
    parameters: their official number, or where it is in the golden file.
    masked: of the inputs, what a mask hides; None without a mask.
  """

  module: nn.Module
  inputs: tuple[Any, ...]
  published: nn.Module
  shapes: tuple[tuple[int, ...], ...]
  out: tuple[int, int]
  parameters: str | int
  options: tuple[tuple[str, Any], ...] = ()
  masked: int | None = 0


SMALL = {'grid': GRID, 'width': WIDTH, 'heads': 2}
VIDEO = {'grid': (2, 4, 8), 'width': WIDTH, 'out': 6, 'heads': 2}
ROWS = {
  'm3_projector': Row(
    module=compressors.M3Projector(grid=GRID, width=WIDTH, out=6),
    inputs=(image(),),
    published=compressors.M3Projector(),
    shapes=((576, 1024),),
    out=(16, 4096),
    parameters=1024 * 4096 + 4096 + 4096**2 + 4096,  # LLaVA's two layers
    masked=None,
    options=(('count', 16),),
  ),
  'mqt': Row(
    module=compressors.MQT(side=3, out=6, **SMALL),
    inputs=(image(),),
    published=compressors.MQT(),
    shapes=((576, 1024),),
    out=(256, 4096),
    parameters='mqt/parameters',
  ),
  'token_packer': Row(
    module=compressors.TokenPacker(stride=4, joined=LEVELS, out=6, **SMALL),
    inputs=(image(), image(LEVELS)),
    published=compressors.TokenPacker(),
    shapes=((576, 1024), (576, 4096)),
    out=(144, 4096),
    parameters='packer/parameters',
    masked=1,
  ),
  'quecc': Row(
    module=compressors.QueCC(stride=4, joined=LEVELS, text=TEXT, **SMALL),
    inputs=(image(), image(LEVELS), draw('text', BATCH, TEXT)),
    published=compressors.QueCC(),
    shapes=((576, 1024), (576, 4096), (4096,)),
    out=(36, 1024),
    parameters='quecc/parameters',
    masked=1,
  ),
  'slime': Row(
    module=compressors.SliMEResampler(side=3, **SMALL),
    inputs=(image(),),
    published=compressors.SliMEResampler(),
    shapes=((576, 1024),),
    out=(144, 1024),
    parameters='slime/parameters',
  ),
  'token_flex': Row(
    module=compressors.TokenFLEX(grid=GRID, width=WIDTH, out=6),
    inputs=(image(),),
    published=compressors.TokenFLEX(),
    shapes=((729, 1152),),
    out=(25, 3584),
    parameters='flex/parameters',
    options=(('side', 5),),
    masked=None,
  ),
  'hicom_local': Row(
    module=compressors.HIComLocal(
      sizes=(2, 3, 3), text=WIDTH, guide='coarse', adapt='qkvg', **VIDEO
    ),
    inputs=(image(), draw('guide', BATCH, WIDTH)),
    published=compressors.HIComLocal(),
    shapes=((32 * 729, 1152), (1152,)),
    out=(8 * 81, 3584),
    parameters='hicom/local/parameters',
  ),
  'hicom_global': Row(
    module=compressors.HIComGlobal(
      queries=3, text=TEXT, guide='fine', adapt='g', **VIDEO
    ),
    inputs=(image(), draw('words', BATCH, 5, TEXT)),
    published=compressors.HIComGlobal(),
    shapes=((32 * 729, 1152), (1152,)),
    out=(32, 3584),
    parameters='hicom/global/parameters',
  ),
}
# Added to all keys of a softmax alike: it is blind to them.
BLIND = ("['k']['bias']", "['norm_k']['bias']", "['adapt_k']['norm']['bias']")
every = pytest.mark.parametrize('name', ROWS)


@functools.cache
def variables(name):
  """Redrawn: fresh biases and gates are 0."""
  row = ROWS[name]
  init = functools.partial(row.module.init, **dict(row.options))
  shapes = jax.eval_shape(init, jax.random.key(0), *row.inputs)
  leaves, tree = jax.tree.flatten(shapes)
  drawn = [0.5 * draw(f'{name}{i}', *x.shape) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, drawn)


@functools.cache
def program(name):
  row = ROWS[name]
  return jax.jit(functools.partial(row.module.apply, **dict(row.options)))


@functools.cache
def output(name):
  return program(name)(variables(name), *ROWS[name].inputs)


def test_every_learned_compressor_has_a_row():
  found = {type(row.module) for row in ROWS.values()}
  parts = {compressors.Attend, compressors.Compressor, compressors.Projector}
  modules = {
    cls
    for cls in vars(compressors).values()
    if inspect.isclass(cls) and issubclass(cls, nn.Module)
  }
  assert modules - parts == found


@every
def test_jit_is_eager(name):
  row = ROWS[name]
  run = functools.partial(row.module.apply, **dict(row.options))
  eager = run(variables(name), *row.inputs)
  np.testing.assert_allclose(output(name), eager, atol=1e-5)
  assert output(name).std() > 0.01


@every
def test_a_row_does_not_depend_on_its_batch_and_vmap(name):
  row = ROWS[name]
  run = functools.partial(row.module.apply, **dict(row.options))
  alone = jax.vmap(
    lambda *row: run(variables(name), *(x[None] for x in row))[0]
  )
  got = jax.jit(alone)(*row.inputs)
  np.testing.assert_allclose(got, output(name), atol=1e-5)


@every
def test_devices_equal_one(name):
  count = jax.device_count()
  assert count == BATCH
  axes = (AxisType.Auto,)
  mesh = jax.make_mesh((count,), ('data',), axis_types=axes)
  put = lambda x, *spec: jax.device_put(
    x, NamedSharding(mesh, PartitionSpec(*spec))
  )
  got = program(name)(put(variables(name)), *put(ROWS[name].inputs, 'data'))
  assert len(got.sharding.device_set) == count
  assert not got.sharding.is_fully_replicated
  np.testing.assert_allclose(got, output(name), atol=1e-5)


@every
def test_bfloat16(name):
  row = ROWS[name]
  half = row.module.clone(dtype=jnp.bfloat16)
  y = jax.jit(functools.partial(half.apply, **dict(row.options)))(
    variables(name), *(x.astype(jnp.bfloat16) for x in row.inputs)
  )
  assert y.dtype == jnp.bfloat16
  want = output(name)
  error = np.abs(np.asarray(y, np.float32) - want)
  assert error.mean() < 0.05 * want.std()


@every
def test_gradients_reach_every_parameter_and_token(name):
  inputs = ROWS[name].inputs
  loss = lambda v, x: jnp.sum(program(name)(v, x, *inputs[1:]) ** 2)
  grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
  found, tokens = grad(variables(name), inputs[0])
  for path, gradient in jax.tree_util.tree_leaves_with_path(found['params']):
    at = jax.tree_util.keystr(path)
    if at.endswith(BLIND):
      continue
    assert np.abs(gradient).max() > 1e-3, at
  assert np.isfinite(tokens).all()
  reached = np.abs(tokens).max(axis=-1) > 0
  # Resizing to half and less, without a filter, passes tokens by.
  assert reached.all() or name == 'token_packer'


@every
def test_save_and_restore(name, tmp_path):
  file = tmp_path / 'weights.safetensors'
  safetensors.save(file, variables(name))
  got = program(name)(safetensors.load(file), *ROWS[name].inputs)
  np.testing.assert_array_equal(got, output(name))


@every
def test_published_size(name):
  row = ROWS[name]
  module, options = row.published, dict(row.options)
  inputs = [jax.ShapeDtypeStruct((2, *s), jnp.float32) for s in row.shapes]
  init = functools.partial(module.init, **options)
  params = jax.eval_shape(init, jax.random.key(0), *inputs)
  out = jax.eval_shape(
    functools.partial(module.apply, **options), params, *inputs
  )
  assert out.shape == (2, *row.out)
  want = row.parameters
  if isinstance(want, str):
    with np.load(case.GOLDEN) as file:
      want = file[want]
  assert sum(x.size for x in jax.tree.leaves(params)) == want


def masked(name):
  """A mask, and the inputs with junk where it hides them."""
  row = ROWS[name]
  mask = np.ones((BATCH, SIDE**2), bool)
  mask[:, SIDE * SIDE // 2 :: 3] = False
  mask[3, 9:] = False  # a row that has few
  junk = list(row.inputs)
  hide = jnp.asarray(mask)[..., None]
  junk[row.masked] = jnp.where(hide, row.inputs[row.masked], 50.0)
  return jnp.asarray(mask), tuple(junk)


HAS_MASK = [name for name, row in ROWS.items() if row.masked is not None]


@pytest.mark.parametrize('name', HAS_MASK)
def test_what_a_mask_hides_is_not_read(name):
  module, inputs = ROWS[name].module, ROWS[name].inputs
  mask, junk = masked(name)
  run = jax.jit(lambda mask, *x: module.apply(variables(name), *x, mask=mask))
  got = run(mask, *inputs)
  np.testing.assert_allclose(got, run(mask, *junk), atol=1e-5)
  assert np.abs(got - output(name)).max() > 0.01
  np.testing.assert_allclose(
    run(jnp.ones_like(mask), *inputs), output(name), atol=1e-5
  )
  # Nothing at all to look at, as a crop that is missing has.
  assert np.isfinite(run(jnp.zeros_like(mask), *inputs)).all()


# Bad input: what is broken of the inputs, and what is said.


def nan(x):
  return x.at[2, 5].set(jnp.nan)


TOKENS = {
  'fewer tokens': (
    lambda x: x[:, 1:],
    r'a grid of .* has 64 tokens.*, 63, 8\)',
  ),
  'no batch': (lambda x: x[0], r'got \(64, 8\)'),
  'an image': (lambda x: x.reshape(BATCH, 8, 8, -1), r'got \(8, 8, 8, 8\)'),
  'a list': (lambda x: [0.5], 'got list'),
  'other features': (lambda x: x[..., 1:], '7 features, and width=8|widths'),
  'NaN': (nan, r'tokens of rows \[2\] hold NaN or infinity'),
}


@every
@pytest.mark.parametrize('broken', TOKENS)
def test_other_tokens_are_refused(name, broken):
  row = ROWS[name]
  change, message = TOKENS[broken]
  inputs = (change(row.inputs[0]), *row.inputs[1:])
  with pytest.raises(UserError, match=message):
    row.module.apply(variables(name), *inputs, **dict(row.options))


WORDS = draw('words', BATCH, 5, TEXT)
ARGUMENTS = [
  ('mqt', {'text': WORDS}, r"MQT takes x, count, mask.*'text'.*reads no text"),
  ('slime', {'text': WORDS}, 'SliMEResampler reads no text'),
  ('token_packer', {'text': WORDS}, 'TokenPacker reads no text'),
  ('token_flex', {'text': WORDS}, 'TokenFLEX reads no text'),
  ('token_packer', {1: None}, r"missing .*'levels'|levels"),
  ('token_packer', {1: image(LEVELS)[1:]}, r'levels are \[B, N, J\]'),
  ('token_packer', {1: image(LEVELS)[:, 1:]}, r'levels are \[B, N, J\]'),
  ('token_packer', {1: image(LEVELS)[..., 1:]}, 'levels have 11 .*joined=12'),
  ('token_packer', {1: nan(image(LEVELS))}, r'levels of rows \[2\]'),
  ('quecc', {2: None}, r'one text of \[8, 6\].*got None'),
  ('quecc', {2: 'a cat'}, "got 'a cat'"),
  ('quecc', {2: draw('text', 2, TEXT)}, r'got \(2, 6\); repeat it'),
  ('quecc', {2: WORDS}, r'one text of \[8, 6\].*got \(8, 5, 6\)'),
  ('quecc', {2: draw('text', BATCH, 5)}, r'one text of \[8, 6\].*got \(8, 5\)'),
  ('hicom_local', {1: None}, r'\[B, E\], pooled, with B=8 and E=8, got None'),
  ('hicom_local', {1: WORDS}, r'\[B, E\], pooled'),
  ('hicom_local', {1: draw('text', BATCH, 5)}, r'E=8, got \(8, 5\)'),
  ('hicom_local', {'joint': image()[:, 1:]}, 'joint holds keys'),
  ('hicom_global', {1: WORDS[:, 0]}, r'\[B, M, E\], the words'),
  ('hicom_global', {1: WORDS[..., 1:]}, r'E=6, got \(8, 5, 5\)'),
  ('hicom_global', {'text_valid': jnp.ones((BATCH, 4), bool)}, 'text_valid is'),
  (
    'hicom_global',
    {'text_valid': jnp.ones((BATCH, 5), bool).at[1].set(False)},
    r'text_valid of rows \[1\] has no word',
  ),
  ('mqt', {'count': 10}, 'there are 1 to 9 queries, .*count=10'),
  ('mqt', {'count': 2.5}, r'count=2\.5'),
  ('mqt', {'count': '3'}, "count='3'"),
  ('token_flex', {'side': 0}, 'whole number from 1 on, got 0'),
  ('token_flex', {'side': 2.5}, r'got 2\.5'),
  *(
    (name, {'mask': mask}, r'mask must be bool \[B, N\], \[8, 64\], got')
    for name in HAS_MASK
    for mask in (jnp.ones((BATCH, 64)), jnp.ones((BATCH, 63), bool), True)
  ),
]


@pytest.mark.parametrize(('name', 'given', 'message'), ARGUMENTS)
def test_other_arguments_are_refused(name, given, message):
  row = ROWS[name]
  inputs = [given.get(i, x) for i, x in enumerate(row.inputs)]
  named = {k: v for k, v in given.items() if isinstance(k, str)}
  if name == 'token_flex' and 'text' in given:
    named['side'] = 5
  with pytest.raises(UserError, match=message):
    jax.eval_shape(
      lambda v: row.module.apply(v, *inputs, **named), variables(name)
    )


def test_without_a_side_token_flex_takes_the_largest():
  row = ROWS['token_flex']
  run = functools.partial(
    row.module.apply, variables('token_flex'), *row.inputs
  )
  largest = max(row.module.sides)
  np.testing.assert_array_equal(run(), run(side=largest))
  assert run().shape[1] == largest**2


def test_a_guide_that_is_off_reads_no_text():
  module = ROWS['hicom_local'].module.clone(guide='off', adapt='')
  key = jax.random.key(0)
  jax.eval_shape(module.init, key, image())
  with pytest.raises(UserError, match="'off' reads no text; leave it out"):
    jax.eval_shape(module.init, key, *ROWS['hicom_local'].inputs)


FUNCTIONS = [
  (lambda: compressors.pooling_matrix(GRID, 0), 'from 1 on, got 0'),
  (
    lambda: compressors.nested_pool(image(), grid=GRID, scales=(3,)),
    'become 3',
  ),
  (lambda: compressors.nested_pool(image(), grid=GRID, scales=(4.0,)), '4.0'),
  (lambda: compressors.nested_pool(image(), grid=(4, 4)), 'has 16 tokens'),
  (lambda: compressors.random_prefix(0), 'typed key.*rng 0'),
  (
    lambda: compressors.random_prefix(jax.random.key(0), queries=2, step=3),
    'a step of 1 to 2',
  ),
  (
    lambda: compressors.TokenFLEX().apply({}, 0, method='draw'),
    'rng must be a typed key, got 0',
  ),
  (lambda: compressors.Curriculum().at('1300'), "whole number, got '1300'"),
]


@pytest.mark.parametrize(('call', 'message'), FUNCTIONS)
def test_other_arguments_of_functions_are_refused(call, message):
  with pytest.raises(UserError, match=message):
    call()
