"""VAR's two algorithms against loops in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.nn.resize import resize_matrix
from tokpress_jax.quantize import MultiScaleVQConfig, VQConfig
from tokpress_jax.quantize.base import CodebookStats
from tokpress_jax.quantize.multi_scale import (
  phi_index,
  update_scales,
)

SCALES = (1, 2, (2, 3), 4)
CONFIG = MultiScaleVQConfig(
  vq=VQConfig(codebook_size=24, dim=3), scales=SCALES, phi=2, phi_ratio=0.4
)


@pytest.fixture(scope='module')
def model():
  module = CONFIG.build()
  z = jax.random.normal(jax.random.key(1), (3, 4, 4, 3))
  variables = jax.jit(module.init)(jax.random.key(0), z)
  # A fresh bias is zero and would hide its absence.
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
    variables['params'],
  )
  return module, {'params': params}, z


@functools.partial(jax.jit, static_argnums=0, static_argnames='scales')
def _lookup(module, variables, codes, scales=None):
  return module.apply(variables, codes, scales=scales, method='lookup')


@functools.partial(jax.jit, static_argnums=0)
def _next_inputs(module, variables, codes):
  return module.apply(variables, codes, method='next_inputs')


@functools.partial(jax.jit, static_argnums=(0, 4))
def _accumulate(module, variables, f_hat, codes, scale):
  return module.apply(variables, f_hat, codes, scale, method='accumulate')


def _resize(x, grid, method):
  rows = np.float64(resize_matrix(x.shape[1], grid[0], method))
  columns = np.float64(resize_matrix(x.shape[2], grid[1], method))
  return np.einsum('ph,qw,bhwc->bpqc', rows, columns, x)


def _conv(x, kernel, bias):
  """A 3x3 convolution with zero padding, tap by tap."""
  height, width = x.shape[1:3]
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  out = np.zeros_like(x) + bias
  for i in range(3):
    for j in range(3):
      out += padded[:, i : i + height, j : j + width] @ kernel[i, j]
  return out


def _oracle(params, z, used=(True,) * 4, centre=None, gain=None, books=None):
  """Codes, the sum after each scale, the next inputs."""
  params = jax.tree.map(np.float64, params)
  z = np.float64(z)
  rest, f_hat = z.copy(), np.zeros_like(z)
  codes, sums, inputs = [], [], []
  for k, grid in enumerate(CONFIG.grids):
    small = _resize(rest, grid, 'area')
    if gain is not None:
      small = (small - centre[k]) / gain[k]
    book = params['vq']['codebook'] if books is None else np.float64(books[k])
    square = ((small[..., None, :] - book) ** 2).sum(-1)
    code = square.argmin(-1) * used[k]
    h = book[code]
    if gain is not None:
      h = centre[k] + gain[k] * h
    h = _resize(h, (4, 4), 'bicubic')
    phi = params[f'phi_{[0, 0, 1, 1][k]}']
    h = 0.6 * h + 0.4 * _conv(h, phi['kernel'], phi['bias'])
    f_hat, rest = f_hat + h * used[k], rest - h * used[k]
    codes.append(code.reshape(len(z), -1))
    sums.append(f_hat)
    if k + 1 < len(SCALES):
      small = _resize(f_hat, CONFIG.grids[k + 1], 'area')
      inputs.append(small.reshape(len(z), -1, 3))
  return np.concatenate(codes, 1), sums, np.concatenate(inputs, 1)


def test_matches_numpy(model):
  module, variables, z = model
  codes, sums, inputs = _oracle(variables['params'], z)
  out = jax.jit(module.apply)(variables, z)
  np.testing.assert_array_equal(out.codes[..., 0], codes)
  np.testing.assert_allclose(out.embeddings, sums[-1], atol=2e-5)
  error = np.mean([((z - s) ** 2).mean() for s in sums])
  np.testing.assert_allclose(out.losses['codebook'], error, rtol=1e-5)
  np.testing.assert_allclose(out.losses['commitment'], error / 4, rtol=1e-5)
  found = _next_inputs(module, variables, out.codes)
  np.testing.assert_allclose(found, inputs, atol=2e-5)


def test_every_prefix_of_scales_is_looked_up(model):
  module, variables, z = model
  codes, sums, _ = _oracle(variables['params'], z)
  codes = jnp.asarray(codes)[..., None]
  for k, end in enumerate(CONFIG.boundaries, start=1):
    whole = _lookup(module, variables, codes, scales=k)
    np.testing.assert_allclose(whole, sums[k - 1], atol=2e-5)
    prefix = _lookup(module, variables, codes[:, :end])
    np.testing.assert_array_equal(prefix, whole)


def test_accumulating_step_by_step_equals_teacher_forcing(model):
  module, variables, z = model
  codes = jax.jit(module.apply)(variables, z).codes
  inputs = _next_inputs(module, variables, codes)
  f_hat, start, steps = jnp.zeros_like(z), 0, []
  for k, end in enumerate(CONFIG.boundaries):
    f_hat, step = _accumulate(module, variables, f_hat, codes[:, start:end], k)
    start = end
    steps.append(step)
  assert steps.pop() is None
  np.testing.assert_allclose(jnp.concatenate(steps, 1), inputs, atol=1e-6)
  np.testing.assert_allclose(
    f_hat, _lookup(module, variables, codes), atol=1e-6
  )


def test_dropped_scales_neither_add_nor_count(model):
  module, variables, z = model
  keep = jnp.array([1, 4, 2])
  out = jax.jit(lambda v, z, k: module.apply(v, z, keep=k))(variables, z, keep)
  codes, sums, _ = _oracle(variables['params'], z)
  for row, k in enumerate(keep.tolist()):
    np.testing.assert_allclose(out.embeddings[row], sums[k - 1][row], atol=2e-5)
    end = CONFIG.boundaries[k - 1]
    np.testing.assert_array_equal(out.codes[row, :end, 0], codes[row, :end])
    assert not out.codes[row, end:].any()
  np.testing.assert_array_equal(out.stats.count.sum(1), [3, 8, 6, 16])


def test_any_scales_may_be_dropped(model):
  module, variables, z = model
  used = jnp.array([[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]], bool)
  run = jax.jit(lambda v, z, k: module.apply(v, z, keep=k))
  out = run(variables, z, used)
  # A scale that is left out is left to the ones after it.
  for row, scales in enumerate(np.asarray(used)):
    codes, sums, _ = _oracle(variables['params'], z[row : row + 1], scales)
    np.testing.assert_allclose(out.embeddings[row], sums[-1][0], atol=2e-5)
    np.testing.assert_array_equal(out.codes[row, :, 0], codes[0])
  np.testing.assert_array_equal(out.stats.count.sum(1), [2, 8, 12, 32])
  # A prefix is a special case.
  some = run(variables, z, jnp.arange(4)[None] < jnp.array([[1], [4], [2]]))
  same = run(variables, z, jnp.array([1, 4, 2]))
  np.testing.assert_array_equal(some.codes, same.codes)


def test_both_parts_learn_from_the_sum(model):
  module, variables, z = model
  grads = jax.grad(lambda p: module.apply({'params': p}, z).losses['codebook'])(
    variables['params']
  )
  for leaf in jax.tree.leaves(grads):
    assert np.abs(leaf).max() > 0
  zero = jax.grad(
    lambda p: module.apply({'params': p}, z).losses['commitment']
  )(variables['params'])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))


STANDARD = dataclasses.replace(CONFIG, standardize='scale')


def _standard(model):
  _, variables, z = model
  rng = np.random.default_rng(0)
  centre = rng.normal(size=(4, 3)).astype(np.float32)
  gain = rng.uniform(0.2, 2, size=4).astype(np.float32)
  book = {'centre': jnp.asarray(centre), 'gain': jnp.asarray(gain)}
  return STANDARD.build(), {**variables, 'codebook': book}, z, centre, gain


def test_standardized_scales_match_numpy(model):
  module, variables, z, centre, gain = _standard(model)
  codes, sums, inputs = _oracle(
    variables['params'], z, centre=centre, gain=gain
  )
  out = jax.jit(module.apply)(variables, z)
  np.testing.assert_array_equal(out.codes[..., 0], codes)
  np.testing.assert_allclose(out.embeddings, sums[-1], atol=5e-5)
  found = _next_inputs(module, variables, out.codes)
  np.testing.assert_allclose(found, inputs, atol=5e-5)
  whole = _lookup(module, variables, out.codes)
  np.testing.assert_allclose(whole, sums[-1], atol=5e-5)
  # The sums that the codebook learns from are those of standardised tokens.
  rest = module.apply(variables, z, out.codes, method='residuals')
  for k, x in enumerate(rest):
    x = (np.asarray(x).reshape(-1, 3) - centre[k]) / gain[k]
    np.testing.assert_allclose(
      out.stats.total[k].sum(0), x.sum(0), rtol=1e-3, atol=2e-4
    )
    np.testing.assert_allclose(
      out.stats.square[k].sum(), (x**2).sum(), rtol=1e-3
    )


def test_running_averages_of_the_scales():
  """Two batches: the averages of the raw tokens, the first in full."""
  config = dataclasses.replace(
    STANDARD, vq=VQConfig(codebook_size=5, dim=3, decay=0.8), scales=(1, 2, 2)
  )
  rng = np.random.default_rng(0)
  state = {
    'seen': jnp.zeros(3),
    'frequency': jnp.zeros((3, 5)),
    'centre': jnp.zeros((3, 3)),
    'gain': jnp.ones(3),
  }
  update = jax.jit(lambda *args: update_scales(*args, config))
  mean, variance, frequency = 0.0, 0.0, 0.0
  for step, rate in enumerate((1.0, 0.2 / 0.36)):
    raw = rng.normal(size=(3, 200, 3)) * 0.1 + step + 1
    codes = rng.integers(5, size=(3, 200))
    x = (raw - np.asarray(state['centre'])[:, None]) / np.asarray(
      state['gain']
    ).reshape(3, 1, 1)
    # The last scale is dropped in the second batch.
    alive = np.array([1.0, 1.0, step == 0]).reshape(3, 1, 1)
    hot = np.eye(5)[codes] * alive  # [S, n, V]
    sums = hot.sum(1), np.einsum('snv,snd->svd', hot, x)
    sums = (*sums, np.einsum('snv,snd->sv', hot, x**2))
    stats = CodebookStats(*(jnp.asarray(y, jnp.float32) for y in sums))
    state = update(state, stats)
    mean += rate * (raw.mean(1) - mean)
    variance += rate * (raw.var(1).mean(-1) - variance)
    frequency += rate * (hot.mean(1) - frequency)
    if step == 0:
      last = state
  for k in (0, 1):
    np.testing.assert_allclose(state['centre'][k], mean[k], rtol=1e-4)
    np.testing.assert_allclose(state['gain'][k] ** 2, variance[k], rtol=1e-3)
    np.testing.assert_allclose(state['frequency'][k], frequency[k], rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[2], b[2]), state, last
  )
  alone = CodebookStats(  # One token has no spread.
    count=jnp.eye(3, 5), total=jnp.ones((3, 5, 3)) / 5, square=jnp.eye(3, 5)
  )
  assert (update(state, alone)['gain'] > 0).all()


def test_codebooks_of_their_own(model):
  """Each scale chooses among its own codes, and they learn from its tokens."""
  _, variables, z = model
  config = dataclasses.replace(
    CONFIG,
    codebooks='scale',
    vq=dataclasses.replace(CONFIG.vq, revive_below=0.1, decay=0.5),
  )
  module = config.build()
  fresh = jax.jit(module.init)(jax.random.key(0), z)
  phi = {k: v for k, v in variables['params'].items() if k != 'vq'}
  params = fresh['params'] | phi
  books = [np.asarray(params[f'vq_{k}']['codebook']) for k in range(4)]
  assert not np.allclose(books[0], books[1])
  codes, sums, inputs = _oracle(params, z, books=books)
  out = jax.jit(module.apply)({'params': params}, z)
  np.testing.assert_array_equal(out.codes[..., 0], codes)
  np.testing.assert_allclose(out.embeddings, sums[-1], atol=5e-5)
  whole = _lookup(module, {'params': params}, out.codes)
  np.testing.assert_allclose(whole, sums[-1], atol=5e-5)
  found = _next_inputs(module, {'params': params}, out.codes)
  np.testing.assert_allclose(found, inputs, atol=5e-5)
  hot = jax.nn.one_hot(out.codes[:, :1, 0], 24)
  mixed = module.apply({'params': params}, hot, 0, method='mix')
  np.testing.assert_allclose(mixed[:, 0], books[0][codes[:, 0]], rtol=1e-6)
  new = jax.jit(lambda v, s: config.update(v, s, rng=jax.random.key(2)))(
    fresh | {'params': params}, out.stats
  )
  for k in range(4):
    count = out.stats.count[k]
    usage = 0.5 + 0.5 * count * 24 / count.sum()
    # What the busy give goes to the dead, so that the sum stays.
    np.testing.assert_allclose(
      new['codebook'][f'vq_{k}']['usage'].sum(), usage.sum(), rtol=1e-5
    )


def test_update_goes_to_scales_and_codebook():
  config = MultiScaleVQConfig(
    vq=VQConfig(codebook_size=6, dim=2, learning='ema', decay=0.5),
    scales=(1, 2),
    phi=0,
    standardize='scale',
  )
  module = config.build()
  z = jax.random.normal(jax.random.key(1), (8, 2, 2, 2))
  variables = {
    k: {'inner': v} for k, v in module.init(jax.random.key(0), z).items()
  }
  bare = {k: v['inner'] for k, v in variables.items()}
  stats = module.apply(bare, z).stats
  new = config.update(variables, stats, rng=jax.random.key(0), path=('inner',))
  usage = config.usage(new, path=('inner',))
  np.testing.assert_allclose(
    usage, stats.count / stats.count.sum(1, keepdims=True), rtol=1e-6
  )
  np.testing.assert_allclose(
    new['codebook']['inner']['vq']['usage'],
    0.5 + 0.5 * stats.count.sum(0) * 6 / 40,
    rtol=1e-5,
  )
  assert (new['codebook']['inner']['gain'] != 1).all()


def test_shared_convolutions_follow_the_published_table():
  assert [phi_index(k, 10, 4) for k in range(10)] == [
    *(0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
  ]
  assert [phi_index(k, 14, 4) for k in range(14)] == [
    *(0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3)
  ]
  assert [phi_index(k, 5, 5) for k in range(5)] == [0, 1, 2, 3, 4]
  assert phi_index(0, 1, 1) == 0


def test_published_lengths():
  config = MultiScaleVQConfig()
  assert config.boundaries == (1, 5, 14, 30, 55, 91, 155, 255, 424, 680)
  big = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
  assert dataclasses.replace(config, scales=big).boundaries[-1] == 2240


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'scales': ()}, 'scales is empty'),
    ({'scales': (1, 4, 2)}, 'scale 4x4 does not fit into the last'),
    (
      {'scales': (1, 2), 'phi': 3},
      'phi=3 shared convolutions are more than the 2 scales',
    ),
    ({'codebooks': 'own'}, "codebooks='own' is not one of"),
    ({'standardize': 'yes'}, "standardize='yes' is not one of"),
  ],
)
def test_bad_config(fields, message):
  with pytest.raises(ValueError, match=message):
    MultiScaleVQConfig(**{'phi': 0, **fields})


def test_codes_must_end_with_a_scale(model):
  module, variables, _ = model
  codes = jnp.zeros((1, 6, 1), jnp.int32)
  with pytest.raises(ValueError, match='6 codes and scales=None do not fit'):
    module.apply(variables, codes, method='lookup')
  with pytest.raises(ValueError, match='3 scales need 11 codes; got 6'):
    module.apply(variables, codes, scales=3, method='lookup')
