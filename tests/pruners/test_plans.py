"""Plans from a few numbers: how many tokens leave, and at what cost."""

import dataclasses

import pytest

from tokpress_jax import models, pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import plans

HOST = models.ViTConfig(
  image_size=32, patch=4, width=64, depth=6, heads=4, mlp_ratio=2.0, classes=8
)
SHAPE = HOST.shape


def removed(plan):
  """Tokens that leave, by layer."""
  found = {int(site.split('.')[0][6:]): p.budget.tokens for site, p in plan}
  return [found.get(i, 0) for i in range(HOST.depth)]


def test_tokens_per_layer_are_those_of_tome():
  plan = pruners.PlanConfig(method='tome', r=8).plan(SHAPE)
  assert plan == pruners.tome_plan(8, depth=6)[:-1] + plan[-1:]
  # 64 patches, 8 a layer: 40 are gone, and half of the other 24 is more than 8.
  assert removed(plan) == [8] * 6
  # No matching merges more than half.
  plan = pruners.PlanConfig(method='tome', r=20).plan(SHAPE)
  assert removed(plan) == [20, 20, 12, 6, 3, 1]
  # A fraction is the mean; nothing at a layer leaves it out of the plan.
  plan = pruners.PlanConfig(method='random', r=0.5).plan(SHAPE)
  assert removed(plan) == [0, 1, 0, 1, 0, 1]
  assert len(plan) == 3
  assert {type(p) for _, p in plan} == {pruners.Random}
  assert pruners.PlanConfig().plan(SHAPE) == ()


@pytest.mark.parametrize('share', [0.9, 0.75, 0.5, 0.3])
def test_a_share_of_the_flops_is_met_by_all_methods_alike(share):
  methods = ('tome', 'random', 'stride', 'top_attention', 'pitome')
  found = {
    tuple(removed(pruners.PlanConfig(method=m, flops=share).plan(SHAPE)))
    for m in methods
  }
  (left,) = found
  cost = SHAPE.share(plans.counts_of(left, SHAPE))
  assert abs(cost - share) < 0.01
  # No even removal is nearer.
  others = (plans.even_removal(n / 6, SHAPE) for n in range(1, 193))
  least = min(
    abs(SHAPE.share(plans.counts_of(o, SHAPE)) - share) for o in others
  )
  assert abs(cost - share) == pytest.approx(least)


def test_the_cost_is_that_of_the_host():
  small = dataclasses.replace(HOST, image_size=12, width=8, depth=3)
  for fields in ({'r': 2}, {'flops': 0.6}):
    plan = pruners.PlanConfig(method='tome', **fields).plan(small.shape)
    counts = models.token_counts(small, plan)
    left = [a - b for a, b in counts]
    assert counts == plans.counts_of(left, small.shape)
    share = models.model_flops(small, plan) / models.model_flops(small, ())
    assert share == pytest.approx(small.shape.share(counts))


def test_learned_numbers_are_a_plan():
  kept = (65, 60, 50, 40, 30, 20)
  config = pruners.PlanConfig(
    method='diffrate', prune_kept=kept, merge_kept=tuple(k - 2 for k in kept)
  )
  want = pruners.diffrate_plan(config.prune_kept, config.merge_kept, tokens=65)
  assert config.plan(SHAPE) == want
  assert hash(config) == hash(pruners.PlanConfig(**vars(config)))
  with pytest.raises(UserError, match='for 5 layers and the host has 6'):
    pruners.PlanConfig(
      method='diffrate', prune_kept=kept[:5], merge_kept=kept[:5]
    ).plan(SHAPE)


@pytest.mark.parametrize(
  'fields, said',
  [
    ({'method': 'tom', 'r': 1}, "Did you mean .*'?tome"),
    ({'method': 'tome'}, 'by nothing; give one of r'),
    ({'method': 'tome', 'r': 1, 'flops': 0.5}, 'by r and flops'),
    ({'r': 2}, 'with r and no method'),
    ({'method': 'tome', 'r': 0}, 'r=0 removes nothing'),
    ({'method': 'tome', 'flops': 1.5}, 'flops=1.5 is no share'),
    ({'method': 'tome', 'prune_kept': (3,)}, 'are of diffrate'),
  ],
)
def test_what_does_not_fit_together_is_refused(fields, said):
  with pytest.raises(UserError, match=said):
    pruners.PlanConfig(**fields)


def test_too_few_flops_are_refused():
  with pytest.raises(UserError, match=r'0.100 of the FLOPs .* leaves, 0.251'):
    pruners.PlanConfig(method='tome', flops=0.1).plan(SHAPE)
