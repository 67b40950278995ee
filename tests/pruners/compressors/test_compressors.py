"""What every learned compressor promises; a new one joins by a row in CASES."""

import functools

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors

ROWS, SIDE, WIDTH, LEVELS, TEXT = 4, 8, 8, 12, 6
GRID = (SIDE, SIDE)


def draw(name, *shape):
  return jnp.asarray(case.draw(name, *shape))


def image(width=WIDTH, sides=GRID):
  return draw(f'image{width}', ROWS, int(np.prod(sides)), width)


# A small module with its inputs, and the published one with the shapes of its
# inputs, of its output, and where its official number of parameters is.
CASES = {
  'mqt': (
    compressors.MQT(side=3, width=WIDTH, heads=2, out=6, grid=GRID),
    (image(),),
    compressors.MQT(),
    ((576, 1024),),
    (256, 4096),
    'mqt/parameters',
  ),
  'token_packer': (
    compressors.TokenPacker(
      stride=4, grid=GRID, width=WIDTH, joined=LEVELS, heads=2, out=6
    ),
    (image(), image(LEVELS)),
    compressors.TokenPacker(),
    ((576, 1024), (576, 4096)),
    (144, 4096),
    'packer/parameters',
  ),
  'quecc': (
    compressors.QueCC(
      stride=4, grid=GRID, width=WIDTH, joined=LEVELS, text=TEXT, heads=2
    ),
    (image(), image(LEVELS), draw('text', ROWS, TEXT)),
    compressors.QueCC(),
    ((576, 1024), (576, 4096), (4096,)),
    (36, 1024),
    'quecc/parameters',
  ),
  'slime': (
    compressors.SliMEResampler(side=3, width=WIDTH, heads=2, grid=GRID),
    (image(),),
    compressors.SliMEResampler(),
    ((576, 1024),),
    (144, 1024),
    'slime/parameters',
  ),
  'hicom_local': (
    compressors.HIComLocal(
      grid=(2, 4, 8),
      sizes=(2, 3, 3),
      width=WIDTH,
      text=WIDTH,
      out=6,
      guide='coarse',
      adapt='qkvg',
      heads=2,
    ),
    (image(), draw('guide', ROWS, WIDTH)),
    compressors.HIComLocal(),
    ((32 * 729, 1152), (1152,)),
    (8 * 81, 3584),
    'hicom/local/parameters',
  ),
  'hicom_global': (
    compressors.HIComGlobal(
      queries=3,
      grid=(2, 4, 8),
      width=WIDTH,
      text=TEXT,
      out=6,
      guide='fine',
      adapt='g',
      heads=2,
    ),
    (image(), draw('words', ROWS, 5, TEXT)),
    compressors.HIComGlobal(),
    ((32 * 729, 1152), (1152,)),
    (32, 3584),
    'hicom/global/parameters',
  ),
}
# Added to all keys of a softmax alike: it is blind to them.
BLIND = ("['k']['bias']", "['norm_k']['bias']", "['adapt_k']['norm']['bias']")
every = pytest.mark.parametrize('name', CASES)


@functools.cache
def variables(name):
  """Redrawn: fresh biases and gates are 0."""
  module, inputs = CASES[name][:2]
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  leaves, tree = jax.tree.flatten(shapes)
  drawn = [0.5 * draw(f'{name}{i}', *x.shape) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, drawn)


@functools.cache
def program(name):
  return jax.jit(CASES[name][0].apply)


@functools.cache
def output(name):
  return program(name)(variables(name), *CASES[name][1])


@every
def test_jit_is_eager(name):
  module, inputs = CASES[name][:2]
  eager = module.apply(variables(name), *inputs)
  np.testing.assert_allclose(output(name), eager, atol=1e-5)
  assert output(name).std() > 0.01


@every
def test_a_row_does_not_depend_on_its_batch_and_vmap(name):
  module, inputs = CASES[name][:2]
  alone = jax.vmap(
    lambda *row: module.apply(variables(name), *(x[None] for x in row))[0]
  )
  np.testing.assert_allclose(jax.jit(alone)(*inputs), output(name), atol=1e-5)


@every
def test_bfloat16(name):
  module, inputs = CASES[name][:2]
  half = module.clone(dtype=jnp.bfloat16)
  y = jax.jit(half.apply)(
    variables(name), *(x.astype(jnp.bfloat16) for x in inputs)
  )
  assert y.dtype == jnp.bfloat16
  want = output(name)
  error = np.abs(np.asarray(y, np.float32) - want)
  assert error.mean() < 0.05 * want.std()


@every
def test_gradients_reach_every_parameter(name):
  inputs = CASES[name][1]
  loss = lambda v: jnp.sum(program(name)(v, *inputs) ** 2)
  found = jax.jit(jax.grad(loss))(variables(name))['params']
  for path, gradient in jax.tree_util.tree_leaves_with_path(found):
    at = jax.tree_util.keystr(path)
    if at.endswith(BLIND):
      continue
    assert np.abs(gradient).max() > 1e-3, at


@every
def test_published_size(name):
  *_, module, shapes, want, key = CASES[name]
  inputs = [jax.ShapeDtypeStruct((2, *s), jnp.float32) for s in shapes]
  params = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  out = jax.eval_shape(module.apply, params, *inputs)
  assert out.shape == (2, *want)
  with np.load(case.GOLDEN) as file:
    assert sum(x.size for x in jax.tree.leaves(params)) == file[key]


@every
def test_another_grid_is_refused(name):
  inputs = CASES[name][1]
  with pytest.raises(UserError, match='grid'):
    program(name)(variables(name), inputs[0][:, 1:], *inputs[1:])


# Regions.


def by_hand(length, size):
  """HICom's balanced parts, one after the other."""
  number = -(-length // size)
  whole = length % number or number
  start, out = 0, []
  for i in range(number):
    new = size - (i >= whole)
    out.append(list(range(start - (i >= whole), start + new)))
    start += new
  return out


@pytest.mark.parametrize(
  ('length', 'size'), [(8, 4), (27, 3), (10, 4), (7, 4), (26, 3), (11, 3)]
)
def test_spans_are_the_balanced_ones(length, size):
  assert compressors.spans(length, size).tolist() == by_hand(length, size)


@pytest.mark.parametrize(('length', 'size'), [(5, 4), (9, 8), (3, 4), (1, 2)])
def test_spans_cover_what_the_official_code_cannot_split(length, size):
  at = compressors.spans(length, size)
  assert len(at) == -(-length // size)
  assert set(at.ravel().tolist()) == set(range(length))


def test_regions_of_a_grid_are_its_windows():
  got = compressors.grid_regions((4, 6), (2, 3))
  index = np.arange(24).reshape(4, 6)
  want = [index[i : i + 2, j : j + 3].ravel() for i in (0, 2) for j in (0, 3)]
  np.testing.assert_array_equal(got, want)
  assert compressors.grid_regions((5, 4, 6), (2, 2, 2)).shape == (18, 8)


def test_masked_tokens_are_not_attended_to():
  module, inputs = CASES['token_packer'][:2]
  mask = np.ones((ROWS, SIDE**2), bool)
  mask[:, SIDE * SIDE // 2 :: 3] = False
  junk = jnp.where(mask[..., None], inputs[1], 50.0)
  run = jax.jit(
    lambda x, y: module.apply(
      variables('token_packer'), x, y, mask=jnp.asarray(mask)
    )
  )
  a, b = run(*inputs), run(inputs[0], junk)
  np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.abs(a - output('token_packer')).max() > 0.01


def test_tokens_of_new_places():
  x = image(3, (2, 3))[:, :6]
  valid = jnp.asarray([True, False, True, True])
  tokens = compressors.as_tokens(x, grid=(4, 6), new_grid=(2, 3), valid=valid)
  np.testing.assert_allclose(tokens.positions[0, :2], [[0.5, 0.5], [0.5, 2.5]])
  np.testing.assert_allclose(tokens.mass[0], 4)
  assert tokens.mass[1].sum() == 0 and not tokens.valid[1].any()
  assert tokens.source_count.tolist() == [24, 0, 24, 24]
  numbered = compressors.as_tokens(x, grid=(4, 6))
  assert numbered.positions[0, :, 0].tolist() == list(range(6))
  with pytest.raises(UserError, match='has 4 places, and 6'):
    compressors.as_tokens(x, grid=(4, 6), new_grid=(2, 2))
