"""RAR: equal to the official code, and what its orders promise.

`tests/golden/make_rar.py` says what made the golden file.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rar_case
from redraw import redraw, unpack

from tokpress_jax import generators, losses, released, types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import rar_keys, sampling
from tokpress_jax.io import keymap, safetensors

C = rar_case.SMALL
CODES, LABELS, ORDERS, NOISE = rar_case.inputs(C)
RANKS = np.argsort(ORDERS, axis=1).astype(np.int32)
SAMPLER = generators.Sampler(
  guidance=4.0, schedule='power-cosine', power=2.75, temperature=1.5
)


@functools.cache
def golden():
  with np.load(rar_case.GOLDEN / 'rar.npz') as file:
    return dict(file)


@functools.cache
def tensors():
  return redraw(unpack(golden()['shapes']), rules=rar_case.RULES)


@functools.cache
def official():
  config = rar_keys.config_of(unpack(golden()['shapes']))
  variables = keymap.convert(
    rar_keys.prepare(tensors()), rar_keys.RULES, rar_keys.expected(config)
  )
  spec = types.Spec(name='', family='generator', config=config)
  return types.Loaded(config.build(), variables, spec)


@functools.cache
def compiled():
  return jax.jit(official().module.apply)


def logits_of(codes, rank, labels):
  rank = jnp.broadcast_to(jnp.asarray(rank, jnp.int32), codes.shape)
  ranked = generators.Ranked(codes=jnp.asarray(codes), rank=rank)
  return np.asarray(compiled()(official().variables, ranked, labels))


def sample(**kwargs):
  options = {'rng': jax.random.key(0), 'sampler': SAMPLER} | kwargs
  return generators.sample(official(), jnp.asarray(LABELS[:2]), **options)


def test_config_is_read_off_the_shapes():
  config = official().module.config
  assert (config.codebook_size, config.num_classes) == (24, 5)
  assert (config.tokens, config.boundaries) == (9, (9,))
  assert (config.width, config.depth, config.heads) == (64, 2, 4)
  assert config.mlp_ratio == 1.5


def test_logits_of_raster_and_random_orders_are_the_official_ones():
  theirs = golden()['logits']  # by slot; ours are by position
  assert (RANKS[0] == np.arange(9)).all() and (RANKS[1] != RANKS[2]).any()
  ours = np.take_along_axis(
    logits_of(CODES, RANKS, LABELS), ORDERS[..., None], axis=1
  )
  assert np.abs(ours - theirs).max() < 1e-4 * theirs.std()


def test_codes_drawn_with_the_same_noise_are_the_official_ones(monkeypatch):
  def noise(rng, rows, slots, size):
    assert (rows, size) == (2, 24)
    return jnp.asarray(NOISE[:2])[:, slots]

  monkeypatch.setattr(sampling, 'token_gumbel', noise)
  codes = sample().codes[..., 0]
  np.testing.assert_array_equal(codes, golden()['codes'])


def test_guided_probabilities_are_those_of_the_official_sampler():
  """The whole pass on its codes, guided, against what its cache gave."""
  codes, theirs = golden()['codes'], golden()['log_probs']
  none = np.full(2, C['classes'])
  raster = np.arange(9)
  cond, uncond = (logits_of(codes, raster, y) for y in (LABELS[:2], none))
  t = np.asarray(SAMPLER.weights(9))[None, :, None]
  assert t[0, 0] == 0 and 2 < t[0, -1] < 3
  logits = ((1 + t) * cond - t * uncond) / 1.5
  ours = np.asarray(jax.nn.log_softmax(logits))
  assert np.abs(ours - theirs).max() < 1e-4 * theirs.std()


def test_a_code_depends_on_lower_ranks_alone():
  base = logits_of(CODES, RANKS, LABELS)
  for position in range(9):
    other = CODES.copy()
    other[:, position] = (other[:, position] + 1) % 24
    moved = np.abs(logits_of(other, RANKS, LABELS) - base).max(axis=-1) > 1e-6
    lower = RANKS[:, position, None] < RANKS
    np.testing.assert_array_equal(moved, lower)


def test_loss_is_that_of_the_official_order_and_reaches_every_row():
  model = official()
  ranked = generators.Ranked(codes=jnp.asarray(CODES), rank=jnp.asarray(RANKS))

  def loss(params):
    logits = model.module.apply({'params': params}, ranked, LABELS)
    return losses.cross_entropy(logits, ranked.codes)

  value, grads = jax.jit(jax.value_and_grad(loss))(model.variables['params'])
  theirs = np.asarray(jax.nn.log_softmax(golden()['logits']))
  targets = np.take_along_axis(CODES, ORDERS, axis=1)
  nats = -np.take_along_axis(theirs, targets[..., None], axis=-1).mean()
  np.testing.assert_allclose(value, nats, rtol=1e-5)
  for name in ('positions', 'targets', 'times', 'start'):
    assert (np.abs(grads[name]['table']).max(axis=1) > 0).all(), name


def test_orders_are_random_at_first_and_raster_at_last():
  config = generators.RARConfig(codebook_size=7, tokens=6, anneal=(100, 300))
  shares = [config.random_share(s) for s in (0, 100, 150, 200, 300, 10**6)]
  np.testing.assert_allclose(shares, [1, 1, 0.75, 0.5, 0, 0])
  codes = jnp.tile(jnp.arange(6)[None, :, None], (4000, 1, 1))
  ranks = jax.jit(
    lambda step: config.train_inputs(codes, None, jax.random.key(0), step=step)
  )
  for step, share in ((0, 1.0), (200, 0.5), (300, 0.0)):
    found = ranks(jnp.int32(step))
    np.testing.assert_array_equal(found.codes, codes[..., 0])
    rank = np.asarray(found.rank)
    np.testing.assert_array_equal(np.sort(rank, axis=1), codes[..., 0])
    permuted = (rank != np.arange(6)).any(axis=1)
    np.testing.assert_allclose(permuted.mean(), share * 719 / 720, atol=0.03)
    if share == 1:  # Each position is at each slot equally often.
      for slot in range(6):
        often = (rank == slot).mean(axis=0)
        np.testing.assert_allclose(often, 1 / 6, atol=0.03)
  judged = config.train_inputs(codes, None, jax.random.key(0))
  np.testing.assert_array_equal(judged.rank, codes[..., 0])
  never = generators.RARConfig(anneal=(0, 0))
  assert never.random_share(0) == 0
  sudden = generators.RARConfig(anneal=(5, 5))
  assert [sudden.random_share(s) for s in (4, 5)] == [1, 0]


def test_given_codes_stay_and_the_rest_follows():
  given = jnp.where(jnp.arange(9)[None] < 4, CODES[:2], -1)
  codes = sample(forced=given).codes[..., 0]
  np.testing.assert_array_equal(codes[:, :4], given[:, :4])
  free = sample(forced=jnp.full((2, 9), -1)).codes[..., 0]
  assert (codes[:, 4:] != free[:, 4:]).any()


def test_weights_go_back_to_the_official_names():
  prepared = rar_keys.prepare(tensors())
  back = keymap.invert(official().variables, rar_keys.RULES, prepared)
  assert back.keys() == prepared.keys()
  for name, value in prepared.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_what_is_left_out_of_released_files_is_what_nothing_reads():
  """The official classes have these many parameters."""
  official_counts = {
    'rar-b': 260_923_648,
    'rar-l': 461_668_352,
    'rar-xl': 955_425_024,
    'rar-xxl': 1_498_520_704,
  }
  # A mask; of the tables 1280, 1280 and 356 long, all but 258, 256 and 257.
  unread = 1 + 1022 + 1024 + 99
  for name, count in official_counts.items():
    row = released.RELEASED[name]
    width = row.make_config().width
    assert row.parameters == count - unread * width
  ours = safetensors.flatten(official().variables)
  small = sum(x.size for x in ours.values())
  theirs = sum(x.size for x in tensors().values())
  assert small == theirs - unread * C['width']


def test_bad_settings_are_refused_in_words():
  refuse = lambda message: pytest.raises(UserError, match=message)
  with refuse(r'first and the last step of a fall.*got \(5, 3\)'):
    generators.RARConfig(anneal=(5, 3))
  with refuse('power must not be negative, got -1.0'):
    generators.Sampler(power=-1.0)
  with refuse('it lacks blocks.0.attn.q_norm.weight'):
    shapes = unpack(golden()['shapes'])
    del shapes['blocks.0.attn.q_norm.weight']
    rar_keys.config_of(shapes)
  long = generators.Ranked(
    codes=jnp.zeros((1, 10), jnp.int32), rank=jnp.arange(10)[None]
  )
  with pytest.raises(ValueError, match='10 codes do not fit a generator of 9'):
    official()(long, jnp.zeros(1, jnp.int32))
