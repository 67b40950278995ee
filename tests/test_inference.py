"""A model made fast: the same results, and attention of one's choice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokpress_jax as tp
from tokpress_jax import models, pruners, types
from tokpress_jax.errors import UserError

CONFIG = models.ViTConfig(
  image_size=8, patch=2, width=16, depth=3, heads=2, classes=5
)
PLAN = pruners.tome_plan(3, depth=3)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3))
IMAGES = IMAGES.astype(np.float32)


def host() -> types.Loaded:
  module = CONFIG.build()
  variables = jax.jit(module.init)(jax.random.key(0), IMAGES)
  spec = types.Spec(name='it', family='model', config=CONFIG)
  return types.Loaded(module, variables, spec)


@pytest.mark.parametrize('plan', [(), PLAN], ids=['plain', 'tome'])
def test_a_host_gives_the_same_logits(plan):
  run = jax.jit(lambda m, x: m(x, plan=plan).logits)
  fast = tp.for_inference(host())
  assert isinstance(fast.variables['params']['stack']['layers'], tuple)
  want = run(host(), IMAGES)
  np.testing.assert_allclose(run(fast, IMAGES), want, atol=1e-6)
  half = tp.for_inference(host(), dtype=jnp.bfloat16)
  near = run(half, IMAGES)
  np.testing.assert_allclose(near, want, atol=0.1 * want.std() + 1e-2)


def test_every_layer_attends_as_asked(monkeypatch):
  fused, seen = jax.nn.dot_product_attention, []

  def count(q, k, v, *, bias, scale, implementation):
    seen.append((implementation, None if bias is None else bias.shape))
    return fused(q, k, v, bias=bias, scale=scale, implementation='xla')

  monkeypatch.setattr(jax.nn, 'dot_product_attention', count)
  run = lambda m, x: m(x, plan=PLAN).logits
  want = run(tp.for_inference(host()), IMAGES)
  assert not seen
  fast = tp.for_inference(host(), implementation='cudnn')
  np.testing.assert_allclose(run(fast, IMAGES), want, atol=1e-5)
  # Merged tokens bring mask and bias along: 17, 14 and 11 of them.
  shape = lambda n: (2, 1, n, n)
  assert seen == [
    ('cudnn', None),
    ('cudnn', shape(14)),
    ('cudnn', shape(11)),
  ]


def test_a_model_without_that_choice_says_so():
  model = dataclasses.replace(
    host(), module=models.ClipTextConfig(width=16, heads=2, depth=2).build()
  )
  with pytest.raises(UserError, match='ClipText has one implementation'):
    tp.for_inference(model, implementation='cudnn')
