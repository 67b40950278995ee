import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.train import optim
from tokpress_jax.train.config import OptimConfig
from tokpress_jax.train.task import Program


def programs(*groups):
  return [Program(name=g, group=g, loss=None) for g in groups]


def test_every_parameter_is_in_a_group():
  names = ['encoder/kernel', 'judge/kernel', 'codes']
  rules = (('judge', 'judge'), ('codes', 'frozen'), ('', 'main'))
  found = optim.assign_groups(names, rules, programs('main', 'judge'))
  assert found == {
    'encoder/kernel': 'main',
    'judge/kernel': 'judge',
    'codes': 'frozen',
  }
  with pytest.raises(UserError, match=r"'main', which\s+holds no parameter"):
    optim.assign_groups(
      names, rules, programs('main', 'judge'), freeze='encoder'
    )
  with pytest.raises(UserError, match=r'judge/kernel \(group judge\)'):
    optim.assign_groups(names, rules, programs('main'))
  with pytest.raises(UserError, match=r'codes \(group None\)'):
    optim.assign_groups(names, (('kernel', 'main'),), programs('main'))
  with pytest.raises(UserError, match=r"train\.freeze holds 'decoder'"):
    optim.assign_groups(
      names, (('', 'main'),), programs('main'), freeze='decoder'
    )


def test_patterns_and_overrides_must_match():
  names, groups = ['encoder/kernel', 'encoder/bias'], ['main']
  optim.check(OptimConfig(multipliers=(('bias', 0.1),)), names, groups)
  for config, words in [
    (OptimConfig(multipliers=(('decoder', 0.1),)), 'optim.multipliers'),
    (OptimConfig(multipliers=(('(', 0.1),)), 'no regular expression'),
    (OptimConfig(weight_decay=0.1, decay_mask='w$'), 'optim.decay_mask'),
    (OptimConfig(groups=(('judge', 'b1', 0.5),)), 'groups are main'),
    (OptimConfig(groups=(('main', 'name', 0.5),)), 'fields learning_rate'),
  ]:
    with pytest.raises(UserError, match=words):
      optim.check(config, names, groups)


def test_schedules():
  config = OptimConfig(learning_rate=2.0, warmup_steps=4, final_scale=0.1)
  rate = optim.make_schedule(config, 24)
  got = [float(rate(i)) for i in (0, 1, 3, 4, 14, 24, 99)]
  np.testing.assert_allclose(got, [0.5, 1, 2, 2, 1.1, 0.2, 0.2], rtol=1e-6)
  constant = optim.make_schedule(
    OptimConfig(learning_rate=2.0, schedule='constant', warmup_steps=4), 2
  )
  np.testing.assert_allclose([constant(0), constant(50)], [0.5, 2.0])
  with pytest.raises(UserError, match='fewer warm-up steps'):
    optim.make_schedule(dataclasses.replace(config, decay_steps=4), 24)


def test_a_run_shorter_than_its_warm_up_still_reaches_the_peak():
  config = OptimConfig(learning_rate=2.0, warmup_steps=50, final_scale=0.1)
  rate = optim.make_schedule(config, 5)
  got = [float(rate(i)) for i in (0, 3, 4, 5)]
  np.testing.assert_allclose(got, [0.5, 2, 2, 0.2], rtol=1e-6)


def official_rate(it, *, peak, warmup, steps, start, end, hold):
  """VAR's 'lin0' (utils/lr_control.py), from its description."""
  if it < warmup:
    return peak * (start + (1 - start) * it / warmup)
  passed = (it - warmup) / (steps - 1 - warmup)
  if passed < hold:
    return peak
  return peak * (end + (1 - end) * (1 - passed) / (1 - hold))


@pytest.mark.parametrize(
  'warmup, steps, start, end, hold',
  [
    (6676, 333_800, 0.005, 0.1, 0.05),
    (4, 50, 0.0, 0.01, 0.3),
    (0, 9, 0.5, 0, 0),
  ],
)
def test_hold_and_line_against_the_official_formula(
  warmup, steps, start, end, hold
):
  config = OptimConfig(
    learning_rate=3e-4,
    schedule='warmup-hold-linear',
    warmup_steps=warmup,
    warmup_scale=start,
    final_scale=end,
    hold=hold,
  )
  rate = jax.jit(optim.make_schedule(config, steps))
  knee = warmup + hold * (steps - 1 - warmup)
  places = [0, 1, warmup // 2, warmup - 1, warmup, warmup + 1, int(knee),
            int(knee) + 1, steps // 2, steps - 2, steps - 1]  # fmt: skip
  for it in [i for i in places if 0 <= i < steps]:
    want = official_rate(
      it,
      peak=3e-4,
      warmup=warmup,
      steps=steps,
      start=start,
      end=end,
      hold=hold,
    )
    np.testing.assert_allclose(rate(it), want, rtol=2e-5, atol=1e-12)
  np.testing.assert_allclose(rate(steps + 5), 3e-4 * end, atol=1e-12)


def test_fractions_of_a_schedule():
  for fields in ({'hold': 1.0}, {'hold': -0.1}, {'warmup_scale': 2.0}):
    with pytest.raises(ValueError, match='expected fractions'):
      OptimConfig(**fields)


def test_weight_decay_moves_along_half_a_cosine():
  config = OptimConfig(
    learning_rate=0.5,
    schedule='constant',
    weight_decay=0.05,
    weight_decay_end=0.08,
  )
  params = {'kernel': jnp.array([2.0]), 'bias': jnp.array([2.0])}
  tx = optim.make_optimizer(
    config, optim.make_schedule(config, 9), params, steps=9
  )
  state, none = tx.init(params), jax.tree.map(jnp.zeros_like, params)
  for it in range(10):
    updates, state = tx.update(none, state, params)
    passed = min(it / 8, 1)
    decay = 0.08 - 0.03 * (0.5 + 0.5 * np.cos(np.pi * passed))
    np.testing.assert_allclose(updates['kernel'], -0.5 * decay * 2, rtol=1e-5)
    assert updates['bias'] == 0


def test_one_update_against_adamw_by_hand():
  config = OptimConfig(
    learning_rate=0.1,
    schedule='constant',
    weight_decay=0.5,
    clip_norm=1.0,
    multipliers=(('slow', 0.25),),
  )
  params = {
    'fast': {'kernel': jnp.array([2.0]), 'bias': jnp.array([2.0])},
    'slow': {'kernel': jnp.array([2.0])},
  }
  grads = {
    'fast': {'kernel': jnp.array([30.0]), 'bias': jnp.array([40.0])},
    'slow': {'kernel': jnp.array([-5.0])},
  }
  schedule = optim.make_schedule(config, 9)
  tx = optim.make_optimizer(config, schedule, params, steps=9)
  updates, _ = tx.update(grads, tx.init(params), params)
  # Adam's first update is the sign; kernels alone decay: 0.5 * 2 = 1.
  expected = {
    'fast': {'kernel': [-0.2], 'bias': [-0.1]},
    'slow': {'kernel': [0.0]},
  }
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    updates,
    jax.tree.map(jnp.array, expected, is_leaf=lambda x: isinstance(x, list)),
  )


@pytest.mark.parametrize('name', ['adamw', 'lion', 'sgd'])
def test_every_optimiser_goes_downhill_and_keeps_its_structure(name):
  params = {'kernel': jnp.array([3.0, -2.0])}
  first = None
  for schedule in ('constant', 'warmup-cosine', 'warmup-hold-linear'):
    config = OptimConfig(
      name=name, learning_rate=0.05, schedule=schedule, clip_norm=None
    )
    rate = optim.make_schedule(config, 100)
    tx = optim.make_optimizer(config, rate, params, steps=100)
    state, x = tx.init(params), params
    first = first or jax.tree.structure(state)
    assert jax.tree.structure(state) == first
    for _ in range(100):
      grads = jax.tree.map(lambda a: 2 * a, x)
      updates, state = tx.update(grads, state, x)
      x = optax.apply_updates(x, updates)
    assert float(jnp.abs(x['kernel']).max()) < 1.0


def test_groups_override_numbers():
  config = OptimConfig(groups=(('judge', 'learning_rate', 7.0),))
  assert optim.group_config(config, 'judge').learning_rate == 7.0
  assert optim.group_config(config, 'main') == config


def test_the_average_warms_up():
  got = [float(optim.ema_decay(0.99, t)) for t in (0, 10, 10_000)]
  np.testing.assert_allclose(got, [0.1, 11 / 20, 0.99], rtol=1e-6)
