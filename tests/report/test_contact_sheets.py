"""What methods keep of the same images, against what each keeps alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import models, registry, report, types
from tokpress_jax.cli import prune_before
from tokpress_jax.errors import UserError
from tokpress_jax.models import observing
from tokpress_jax.pruners import Random, before_llm, join_crops, place_crops
from tokpress_jax.report import standing
from tokpress_jax.types import Signals

CONFIG = models.ViTConfig(
  image_size=16,
  patch=4,
  width=16,
  depth=3,
  heads=2,
  classes=0,
  features=6,
)
KEEP = 5


def tower(config=CONFIG):
  module = config.build()
  x = jnp.zeros((1, config.image_size, config.image_size, 3))
  variables = jax.jit(module.init)(jax.random.key(0), x)
  draw = lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)
  variables = jax.tree.map(draw, variables)
  spec = types.Spec(name='it', family='model', config=config)
  return types.Loaded(module, variables, spec)


MODEL = tower()
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3))
IMAGES = IMAGES.astype(np.float32)
TEXTS = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)


def made(*names):
  """Methods that leave 5 of 16 tokens."""
  found = {}
  for name in names:
    cls = registry.resolve(name)
    patches = 16 * (5 if standing.reads_crops(cls) else 1)
    found[name] = before_llm.at_budget(cls, KEEP, patches=patches, depth=3)
  return found


def slots(pruner, tokens, signals):
  """The slots that a method keeps, by itself."""
  found = jax.jit(pruner.plan)(tokens, signals)
  rows = zip(np.asarray(found.index), np.asarray(found.valid), strict=True)
  return [sorted(index[valid]) for index, valid in rows]


def test_each_method_keeps_what_it_keeps_alone():
  pruners = made('divprune', 'hiprune', 'visionzip', 'globalcom2', 'mustdrop')
  pruners['mine'] = before_llm.SCOPE(budget=3, alpha=2.0)
  large = np.random.default_rng(2).uniform(-1, 1, (3, 32, 32, 3))
  large = large.astype(np.float32)
  kept = report.keep(MODEL, IMAGES, pruners, detailed=large, batch=2)
  assert [one.label for one in kept] == list(pruners)

  @jax.jit
  def see(model):
    needs = frozenset().union(*(p.needs for p in pruners.values()))
    look = lambda x, **kwargs: model.observe(x, needs=needs, **kwargs)
    crops = large.reshape(3, 2, 16, 2, 16, 3).swapaxes(2, 3)
    five = np.concatenate([IMAGES[:, None], crops.reshape(3, 4, 16, 16, 3)], 1)
    tokens, signals = join_crops(*look(five.reshape(15, 16, 16, 3)), crops=5)
    layout = jnp.array([[2, 2]] * 3)
    return {
      'divprune': look(IMAGES),
      'hiprune': look(IMAGES),
      'mine': look(IMAGES),
      'visionzip': look(IMAGES, special='keep'),
      'mustdrop': look(IMAGES, special='keep', layer=0),
      'globalcom2': (place_crops(tokens, layout=layout), signals),
    }

  seen = see(MODEL)
  for one in kept:
    want = slots(pruners[one.name], *seen[one.name])
    special = one.name in ('visionzip', 'mustdrop')
    assert one.leading == special
    for row, index in enumerate(want):
      if special:  # The class token is first, and stays.
        assert index.pop(0) == 0
      got = (one.slots(row) + one.leading).tolist()
      assert got == index, (one.name, row)


def test_a_text_is_compared_in_its_own_space():
  pruners = made('dart', 'catp', 'idpruner', 'recoverable', 'divprune')
  kept = report.keep(MODEL, IMAGES, pruners, texts=TEXTS)
  assert [one.label for one in kept] == [
    *('dart', 'dart + text', 'catp', 'catp + text', 'idpruner'),
    *('idpruner + text', 'recoverable', 'recoverable + text', 'divprune'),
  ]
  found = {one.label: one for one in kept}

  @jax.jit
  def see(model):
    taps = before_llm.Recoverable().needs - {'importance'}
    last, _ = model.observe(IMAGES, layer=-1, special='keep')
    tokens, signals = model.observe(
      IMAGES, needs=taps | {'attention_row'}, special='keep'
    )
    return tokens, signals, last.features, model.project_tokens(last)

  tokens, signals, last, joint = jax.device_get(see(MODEL))
  # The projection by hand: layer norm, then the matrix.
  params = jax.device_get(MODEL.variables['params'])
  x = np.asarray(last, np.float64)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
    x.var(-1, keepdims=True) + CONFIG.norm_eps
  )
  x = x * params['norm']['scale'] + params['norm']['bias']
  x = x @ params['project']['kernel']
  np.testing.assert_allclose(joint, x, atol=1e-4 * x.std())
  unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
  cosine = np.einsum('bnp,bp->bn', unit(joint), unit(TEXTS))
  cosine = jnp.asarray(cosine, jnp.float32)
  plain, inner = observing.without_first(tokens, signals, 1)
  in_joint = plain.replace(features=joint[:, 1:])
  one_text = {'text': TEXTS[:, None], 'text_valid': np.ones((3, 1), bool)}
  no_text = {
    'text': np.zeros((3, 1, 6), np.float32),
    'text_valid': np.zeros((3, 1), bool),
  }
  attention = inner.attention_row.mean(axis=1)
  none = jnp.zeros(cosine.shape)
  want = {
    'catp': (in_joint, inner.replace(**no_text)),
    'catp + text': (in_joint, inner.replace(**one_text)),
    'idpruner': (plain, inner.replace(importance=attention)),
    'idpruner + text': (plain, inner.replace(importance=cosine[:, 1:])),
    'recoverable': (tokens, signals.replace(importance=none)),
    'recoverable + text': (tokens, signals.replace(importance=cosine)),
    'dart': (in_joint, Signals()),
    'divprune': (plain, inner),
  }
  for label, given in want.items():
    one = found[label]
    index = slots(pruners[one.name], *given)
    for row in range(3):
      alone = [n - one.leading for n in index[row] if n >= one.leading]
      assert one.slots(row).tolist() == alone, (label, row)
  # DART's word is a token before the patches, and a pivot.
  guided = found['dart + text']
  assert guided.leading == 1 and found['dart'].leading == 0
  word = np.concatenate([TEXTS[:, None], joint[:, 1:]], axis=1)
  for row in range(3):
    pivots = np.argsort(-np.abs(word[row, 1:]).sum(-1), kind='stable')[:4] + 1
    assert set(pivots - 1) <= set(guided.slots(row))
    cos = unit(word[row]) @ unit(word[row]).T
    (extra,) = set(guided.slots(row) + 1) - set(pivots)
    rest = [n for n in range(1, 17) if n not in pivots]
    assert extra in {rest[np.argmin(cos[p, rest])] for p in (*pivots, 0)}
  assert 'covers the image' in found['catp'].note
  assert not found['catp + text'].note


def test_batches_and_a_seed():
  whole = report.keep(MODEL, IMAGES, {'random': Random(budget=KEEP)}, seed=3)
  parts = report.keep(
    MODEL, IMAGES, {'random': Random(budget=KEEP)}, seed=3, batch=2
  )
  other = report.keep(MODEL, IMAGES, {'random': Random(budget=KEEP)}, seed=4)
  rows = lambda kept: [kept[0].slots(row).tolist() for row in range(3)]
  assert rows(whole) == rows(parts) != rows(other)


def test_what_does_not_fit_is_said():
  with pytest.raises(
    UserError, match=r'which take none; .*dart, idpruner, catp'
  ):
    report.keep(MODEL, IMAGES, made('divprune', 'scope'), texts=TEXTS)
  with pytest.raises(UserError, match=r'are \[3, 6\], got \(3, 5\)'):
    report.keep(MODEL, IMAGES, made('catp'), texts=TEXTS[:, :5])
  plain = tower(
    models.ViTConfig(
      image_size=16,
      patch=4,
      width=16,
      depth=3,
      heads=2,
      classes=0,
      pool='mean',
      class_token=False,
    )
  )
  names = 'divprune', 'scope', 'vtc_cls', 'hiprune'
  with pytest.raises(UserError) as error:
    report.keep(plain, IMAGES, made(*names))
  head, *causes = str(error.value).splitlines()
  assert 'of 3 layers that give attention_column, before' in head
  assert [cause.split()[0] for cause in causes] == ['scope', 'vtc_cls']
  with pytest.raises(UserError, match='no projection into a space of texts'):
    report.keep(plain, IMAGES, made('catp'), texts=TEXTS)
  short = {'vtc_cls': before_llm.VTCCLS(budget=KEEP)}
  with pytest.raises(UserError, match=r'vtc_cls needs .*layer=-8'):
    report.keep(MODEL, IMAGES, short)


@pytest.mark.slow
def test_all_methods_are_at_one_budget():
  pruners = made(*prune_before.METHODS)
  kept = report.keep(MODEL, IMAGES, pruners, texts=TEXTS)
  assert len(kept) == len(pruners) + 4
  panels = {}
  image = np.random.default_rng(0).integers(0, 200, (32, 32, 3), np.uint8)
  for one in kept:
    left = [len(one.slots(row)) for row in range(3)]
    most = 5 if one.name != 'mustdrop' else 4  # Windows of 3 x 3 in 4 x 4.
    assert all(0 < n <= most for n in left), (one.label, left)
    panels[one.label] = one.panel(image, 0)
    assert panels[one.label].shape == image.shape
  sheet = np.asarray(report.contact_sheet([image] * 3, kept, cell=32))
  left = sheet.shape[1] - (3 * 36 - 4)
  np.testing.assert_array_equal(
    sheet[-32:, left : left + 32, :3], panels['random']
  )
