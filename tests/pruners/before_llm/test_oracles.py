"""Pruners before a language model against loops, one row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from padded import Parts

from tokpress_jax.pruners import before_llm
from tokpress_jax.types import Ratio, Signals, Tap, Tokens

D, A = 5, 2
LAYERS = (-4, -3, -2)
WEIGHT = np.random.default_rng(5).normal(size=(D, 7)).astype(np.float32)
HALF = Ratio(ratio=0.5, rounding='floor')


def project(x):
  return jnp.tanh(x @ WEIGHT)


def probe(x):
  """Stands in its place where it is moved."""
  return jnp.sin(x @ WEIGHT[:, :3])


def draw(rng, n):
  """One row of n tokens."""
  attention = lambda: np.exp(rng.normal(size=(A, n))).astype(np.float32)
  return {
    'x': rng.normal(size=(n, D)).astype(np.float32),
    'text': rng.normal(size=(3, D)).astype(np.float32),
    'text_valid': np.array([True, True, rng.random() < 0.5]),
    'seed': np.uint32(rng.integers(1000)),
    **{f'row{layer}': attention() for layer in (*LAYERS, -1)},
  }


AXES = {
  'x': 'ND',
  'text': 'MD',
  'text_valid': 'M',
  'seed': '',
  **{f'row{layer}': 'AN' for layer in (*LAYERS, -1)},
}


def inputs(a):
  taps = {Tap('attention_row', n): a[f'row{n}'] for n in (*LAYERS, -1)}
  signals = Signals(
    text=a['text'],
    text_valid=a['text_valid'],
    rng=jax.vmap(jax.random.key)(a['seed']),
    taps=taps,
  )
  return Tokens.create(jnp.asarray(a['x']), valid=a['valid']), signals


PRUNERS = {
  'todre': before_llm.ToDRE(budget=HALF),
  'vtc_cls': before_llm.VTCCLS(budget=HALF, layers=LAYERS),
  'catp': before_llm.CATP(budget=HALF),
  'zoo_prune': before_llm.ZOOPrune(
    budget=HALF, project=project, directions=4, step=0.05
  ),
  'zoo_prune_probe': before_llm.ZOOPrune(
    budget=HALF, project=project, probe=probe, directions=4, step=0.05
  ),
}


def kept_by(pruner):
  def part(a):
    target = pruner.plan(*inputs(a)).assign.target
    return target >= 0

  return part


PARTS = Parts({n: kept_by(p) for n, p in PRUNERS.items()}, draw, AXES)


def cosines(x, y=None):
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
  return unit(np.float64(x)) @ unit(np.float64(x if y is None else y)).T


def todre(row, k):
  alike = cosines(row['x'])
  chosen = [int(np.argmax(row['row-1'].mean(axis=0)))]
  while len(chosen) < k:
    rest = [i for i in range(len(alike)) if i not in chosen]
    chosen.append(min(rest, key=lambda i: alike[i, chosen].sum()))
  return chosen


def vtc_cls(row, k):
  total = sum(row[f'row{n}'].mean(axis=0) for n in LAYERS)
  return np.argsort(-total)[:k]


def catp(row, k):
  s = (1 + cosines(row['x'])) / 2
  mean = row['text'][row['text_valid']].mean(axis=0, keepdims=True)
  align = (1 + cosines(row['x'], mean)[:, 0]) / 2

  def value(chosen):
    return s[:, chosen].max(axis=1).sum() + 0.7 * align[chosen].sum()

  chosen: list[int] = []
  while len(chosen) < k:
    rest = [i for i in range(len(s)) if i not in chosen]
    chosen.append(max(rest, key=lambda i: value([*chosen, i])))
  return chosen


def zoo_prune(row, k, moved=None):
  key = jax.random.key(row['seed'])
  bank = np.float64(jax.random.normal(key, (4, D)))
  bank /= np.linalg.norm(bank, axis=1, keepdims=True)
  f = lambda x: np.tanh(np.float64(x) @ WEIGHT)
  g = moved or f
  x, h = np.float64(row['x']), 0.05
  change = [np.linalg.norm(g(x + h * u) - g(x - h * u), axis=1) for u in bank]
  s = np.mean(change, axis=0) / (2 * h)
  s = (s - s.min()) / (s.max() - s.min())
  far = 1 - cosines(f(x))
  chosen = [int(np.argmax(s))]
  while len(chosen) < k:
    rest = [i for i in range(len(s)) if i not in chosen]
    chosen.append(max(rest, key=lambda i: s[i] * far[i, chosen].min()))
  return chosen


def zoo_prune_probe(row, k):
  return zoo_prune(row, k, lambda x: np.sin(x @ np.float64(WEIGHT[:, :3])))


ORACLES = {
  f.__name__: f for f in (todre, vtc_cls, catp, zoo_prune, zoo_prune_probe)
}


@pytest.mark.parametrize('name', PRUNERS)
def test_rows_equal_the_loop_and_ignore_padding(name):
  def oracle(**row):
    return sorted(ORACLES[name](row, len(row['x']) // 2))

  PARTS.check(name, oracle)
