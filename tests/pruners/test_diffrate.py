"""DiffRate's plans, and learning its rates; the rest is in test_official."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.pruners import flops
from tokpress_jax.pruners.inside_vit import learned_rates
from tokpress_jax.types import Ratio, Signals, Tokens

# As the released numbers, with a layer that asks for more than there is.
PRUNE, MERGE = (197, 192, 168, 190, 3), (197, 180, 156, 190, 3)


def test_a_plan_of_kept_numbers():
  plan = pruners.diffrate_plan(PRUNE, MERGE, tokens=197)
  assert [site for site, _ in plan] == [
    f'block_{i}.after_attention' for i in (1, 2, 4)
  ]
  assert [(p.left, p.budget) for _, p in plan] == [
    (191, 179),
    (167, 155),
    (2, 2),
  ]
  with pytest.raises(ValueError, match='got 2 for pruning and 1'):
    pruners.diffrate_plan([9, 8], [9], tokens=9)
  with pytest.raises(ValueError, match='beside 1 protected ones; got 1'):
    pruners.diffrate_plan([9, 1], [9, 1], tokens=9)


def test_without_pruning_all_that_leaves_is_merged():
  tokens = Tokens.create(
    jax.random.normal(jax.random.key(0), (2, 9, 4)),
    protected=jnp.arange(9)[None] * jnp.ones((2, 1), int) == 0,
  )
  row = jax.random.uniform(jax.random.key(1), (2, 3, 9))
  out, reduction = pruners.DiffRate(budget=3)(
    tokens, Signals(attention_row=row)
  )
  assert bool((reduction.assign.target >= 0).all())
  best = np.argsort(-np.asarray(row.mean(axis=1))[:, 1:], axis=1)[:, :3] + 1
  np.testing.assert_array_equal(reduction.index[:, 1:], best)
  np.testing.assert_array_equal(out.features[:, 0], tokens.features[:, 0])


def test_rates_are_learned_towards_a_target():
  module = pruners.LearnedRates(depth=4, tokens=16)
  variables = module.init(jax.random.key(0))
  # Even over 16, 15, ... 1: 8.5 rounded up, and the class token.
  assert module.apply(variables, method='counts') == (
    (17, 10, 10, 10),
    (17, 10, 10, 10),
  )
  size = {'width': 8, 'hidden': 32}

  def loss(variables, target):
    kept = module.apply(variables)
    found = learned_rates.expected_flops(kept, tokens=17, **size)
    return (found / target - 1) ** 2, found

  counts = [(17, 17), (17, 10), (10, 10), (10, 10)]
  want = flops.model_flops(counts, **size)
  step = jax.jit(jax.grad(loss, has_aux=True))
  gradient, found = step(variables, 0.75 * want)
  np.testing.assert_allclose(found, want, rtol=1e-6)
  for _ in range(150):
    gradient, found = step(variables, 0.75 * want)
    variables = jax.tree.map(lambda v, g: v - 4 * g, variables, gradient)
  assert abs(float(found) / (0.75 * want) - 1) < 0.1
  prune, merge = module.apply(variables, method='counts')
  assert prune[0] == merge[0] == 17
  assert all(n < 10 for n in prune[1:])


def test_the_first_layer_is_left_alone():
  module = pruners.LearnedRates(depth=2, tokens=4)
  variables = module.init(jax.random.key(0))
  state = learned_rates.Masked(
    features=jax.random.normal(jax.random.key(1), (1, 5, 3)),
    mass=jnp.ones((1, 5)),
    mask=jnp.ones((1, 5)),
  )
  row = jnp.array([[9.0, 1, 4, 3, 2]])
  step = lambda layer: module.apply(
    variables, state, row, layer=layer, method='step'
  )
  assert step(0) is state
  out = step(1)  # 2.5 of 4 rounded up: 3 tokens after the class token
  assert out.mask[0].tolist() == [1, 1, 1, 1, 0]
  np.testing.assert_array_equal(
    out.features[0], state.features[0, jnp.array([0, 2, 3, 4, 1])]
  )


def test_tome_with_a_number_for_each_layer_and_bad_fields():
  plan = pruners.tome_plan((3, 0, 2), depth=4, metric='queries')
  assert [(s, p.budget.tokens) for s, p in plan] == [
    ('block_0.after_attention', 3),
    ('block_2.after_attention', 2),
  ]
  assert plan[0][1].needs == {'queries'}
  with pytest.raises(ValueError, match='3 numbers for 2 layers'):
    pruners.tome_plan((3, 0, 2), depth=2)
  for budget in (Ratio(ratio=0.4), Ratio(ratio=1.0), 7):
    with pytest.raises(ValueError, match=r'Ratio\(ratio=1 / k\)'):
      pruners.EveryKth(budget=budget)
  with pytest.raises(ValueError, match='above 0, got 0'):
    pruners.TokenTransforming(temperature=0.0)
  with pytest.raises(ValueError, match="unknown metric 'values'"):
    pruners.ToMe(metric='values')
  with pytest.raises(ValueError, match='at most half of 9 tokens, 4'):
    tokens = Tokens.create(jnp.ones((1, 9, 2)))
    keys = Signals(keys=jnp.ones((1, 1, 9, 2)))
    pruners.PiToMe(budget=3)(tokens, keys)


def test_plans_on_a_vit_s16_leave_the_published_numbers():
  config = models.PRESETS['vit-s16']
  # The official numbers for DeiT-S at 2.9 GFLOPs.
  prune = (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3)
  merge = (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3)
  plan = pruners.diffrate_plan(prune, merge, tokens=197)
  counts = models.token_counts(config, plan)
  assert [inside for _, inside in counts] == list(merge)
  embedding = 197 * 384 * 768 + 384 * 1000  # and the head
  total = models.model_flops(config, plan) + embedding
  assert round(total / 1e9, 2) == 2.91
  # PiToMe keeps T - floor(T - 0.9 T) of T tokens beside the class token.
  left, want = 196, []
  for _ in range(12):
    left -= (left * 10 - left * 9) // 10
    want.append(left + 1)
  counts = models.token_counts(config, pruners.pitome_plan(0.9, depth=12))
  assert [inside for _, inside in counts] == want
