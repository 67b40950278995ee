import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import nn

CONFIG = nn.StackConfig(
  depth=3,
  block=nn.BlockConfig(width=8, heads=2, norm_affine=False, modulation='block'),
)


def made(config=CONFIG):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, text, cond = draw(2, 5, 8), draw(2, 3, 8), draw(2, 8)
  stack = nn.JointStack(config)
  init = lambda key: stack.init(key, x, text, cond=cond)
  shapes = jax.eval_shape(init, jax.random.key(0))
  variables = jax.tree.map(lambda s: draw(*s.shape) * 0.3, shapes)
  return stack, variables, x, text, cond


def test_the_order_of_a_text_does_not_matter_but_the_text_does():
  stack, variables, x, text, cond = made()
  run = jax.jit(lambda text: stack.apply(variables, x, text, cond=cond))
  want = run(text)
  np.testing.assert_allclose(run(text[:, ::-1]), want, atol=1e-5)
  assert np.abs(run(text[::-1]) - want).max() > 1e-3


def test_layers_apart_or_recomputed_or_modulated_before_give_the_same():
  stack, variables, x, text, cond = made()
  want = jax.jit(stack.apply)(variables, x, text, cond=cond)
  apart = nn.unstack(variables)
  assert len(apart['params']['layers']) == 2
  remat = nn.JointStack(dataclasses.replace(CONFIG, remat=True))
  for given in (variables, apart):
    got = jax.jit(remat.apply)(given, x, text, cond=cond)
    np.testing.assert_allclose(got, want, atol=1e-5)
    mod = stack.apply(given, cond, method='modulation')
    got = jax.jit(stack.apply)(given, x, text, mod=mod)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_one_layer_only_reads_and_branches_drop():
  block = dataclasses.replace(CONFIG.block, dropout=0.5)
  config = dataclasses.replace(CONFIG, depth=1, block=block)
  stack, variables, x, text, cond = made(config)
  assert set(variables['params']) == {'last'}
  assert set(variables['params']['last']) == {'image', 'text_norm', 'text_kv'}
  plain = stack.apply(variables, x, text, cond=cond)
  run = lambda seed: stack.apply(
    variables,
    x,
    text,
    cond=cond,
    deterministic=False,
    rngs={'dropout': jax.random.key(seed)},
  )
  assert any(np.abs(run(seed) - plain).max() > 1e-3 for seed in range(4))
  with pytest.raises(ValueError, match='biases and no norm of queries'):
    made(dataclasses.replace(CONFIG, block=nn.BlockConfig(
      width=8, heads=2, modulation='block', qk_norm='rms')))  # fmt: skip
