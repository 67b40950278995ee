"""`tokpress prune` on converted weights that are redrawn, and its plans."""

import dataclasses
import json

import host_cases
import jax
import numpy as np
import pytest
from command import run
from PIL import Image
from safetensors import numpy as files

import tokpress_jax as tp
from tokpress_jax import pruners
from tokpress_jax.cli import pictures, prune_plan
from tokpress_jax.cli.prune_plan import Amounts
from tokpress_jax.errors import UserError
from tokpress_jax.io import images
from tokpress_jax.models import ViTConfig
from tokpress_jax.pruners import before_llm
from tokpress_jax.types import Ratio


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """Converted hosts of 3 layers and 9 patches, and two photographs."""
  root = tmp_path_factory.mktemp('prune')
  for name in ('vit', 'clip', 'siglip'):
    official = root / f'official_{name}.safetensors'
    files.save_file(host_cases.tensors(name), official)
    out = root / f'{name}.safetensors'
    assert run('convert', name, official, '--out', out) == 0
  rng = np.random.default_rng(0)
  for name in ('cat', 'dog'):
    small = Image.fromarray(rng.integers(0, 255, (3, 4, 3), np.uint8))
    small.resize((40, 30)).save(root / f'{name}.png')
  return root


def prune(here, tmp_path, model, *argv):
  """Runs the command; returns the numbers that it wrote."""
  file = tmp_path / 'numbers.json'
  code = run(
    *('prune', '--model', here / f'{model}.safetensors', '--json', file),
    *('--out', tmp_path / 'p.png', '--cell', 60, *argv),
  )
  assert code == 0
  return json.loads(file.read_text())


def test_command_of_the_readme(here, tmp_path, capsys):
  names = tmp_path / 'config.json'
  table = {str(i): f'name {i}' for i in range(host_cases.CLASSES)}
  names.write_text(json.dumps({'id2label': table}))
  found = prune(
    *(here, tmp_path, 'vit', '--pruner', 'tome', '--r', 2),
    *('--image', here / 'cat.png', '--repeats', 2, '--names', names),
  )
  text = capsys.readouterr().out
  assert found['slots'] == [10, 8, 6, 4] and not found['clipped']
  assert 'attention of each layer: 10 8 6\n' in text
  assert 'MLP: 8 6 4; 4 at the end' in text
  flops = found['flops']
  assert flops['formula'] in text
  for key, layers in (
    ('pruned', [(10, 8), (8, 6), (6, 4)]),
    ('unpruned', [(10, 10)] * 3),
  ):
    c, m = host_cases.D, host_cases.HIDDEN
    want = sum(4 * n * c**2 + 2 * n**2 * c + 2 * k * c * m for n, k in layers)
    assert flops[key] == want
  seconds = found['seconds']
  assert seconds['pruned'] > 0 and seconds['batch_size'] == 1
  assert seconds['ratio'] == seconds['unpruned'] / seconds['pruned']
  assert 'batch 1, float32, cpu, median of 2 calls' in text
  # The same as the model in Python.
  model = tp.load(here / 'vit.safetensors')
  pixels = tp.load_image(here / 'cat.png', channels=3)
  x = images.to_float(images.fit_image(pixels, 12, policy='crop')[0])
  plan = pruners.tome_plan(2, depth=3)
  (facts,) = found['images']
  apply = jax.jit(model.module.apply, static_argnames='plan')
  pooled = []
  for key, given in (('before', ()), ('after', plan)):
    out = apply(model.variables, x, plan=given)
    best = int(out.logits[0].argmax())
    assert facts[key]['class'] == best
    assert facts[key]['name'] == f'name {best}'
    assert f'class {best} name {best} (' in text
    share = jax.nn.softmax(out.logits[0])[best]
    assert abs(facts[key]['probability'] - share) < 1e-4
    pooled.append(np.asarray(out.pooled[0], np.float64))
  cosine = pooled[0] @ pooled[1] / np.prod(list(map(np.linalg.norm, pooled)))
  assert abs(facts['cosine'] - cosine) < 1e-5 and cosine < 1
  sheet = images.load_image(tmp_path / 'p.png')
  assert sheet.shape[0] > 60 + 120 and sheet.shape[1] >= 4 * 60
  assert found['pictures'] == [str(tmp_path / 'p.png')]


def test_more_than_there_is_is_clipped_and_said(here, tmp_path, capsys):
  found = prune(
    *(here, tmp_path, 'vit', '--pruner', 'pitome', '--r', 4, 4, 4),
    *('--image', here / 'cat.png', '--repeats', 0),
  )
  assert found['slots'] == [10, 6, 4, 3] and found['seconds'] is None
  text = capsys.readouterr().out
  assert '2 of 4 at block_1.after_attention' in text
  assert 'time:' not in text


def test_towers_without_classes_and_soft_pruners(here, tmp_path, capsys):
  found = prune(
    *(here, tmp_path, 'clip', '--pruner', 'token_transforming'),
    *('--tokens', 3, '--image', here, '--repeats', 0, '--batch-size', 3),
  )
  text = capsys.readouterr().out
  cat, dog = found['images']
  assert 'before' not in cat and ' class ' not in text
  assert 0 < cat['cosine'] < 1 and cat['cosine'] != dog['cosine']
  assert cat['tokens'] == 4  # A class token too.
  assert 0.3 < cat['largest_share'] < 1 and 'a soft reduction' in text
  assert 'cat.png: cosine' in text and 'dog.png: cosine' in text


def test_no_class_token_and_a_picture_for_each_image(here, tmp_path):
  found = prune(
    *(here, tmp_path, 'siglip', '--pruner', 'random', '--keep', '0.5', '0.5'),
    *('--sites', 'embed', 'block_1.after_mlp', '--repeats', 0),
    *('--image', here / 'dog.png', here / 'cat.png', '--out', tmp_path / 'x'),
  )
  assert found['slots'] == [9, 4, 2]
  assert [[n, m] for n, m in map(dict.values, found['layers'])] == [
    [4, 4],
    [4, 4],
    [2, 2],
  ]
  assert found['pictures'] == [
    str(tmp_path / 'x' / f'{i}_{name}.png')
    for i, name in enumerate(('dog', 'cat'))
  ]
  dog, cat = map(images.load_image, found['pictures'])
  assert (dog[:80] != cat[:80]).any()


def test_pictures_show_what_the_model_sees(tmp_path):
  config = ViTConfig(image_size=70, patch=16, remainder='drop')
  pixels = np.full((70, 70, 3), 50, np.uint8)
  pixels[64:] = pixels[:, 64:] = 250  # a rim that no patch holds
  Image.fromarray(pixels).save(tmp_path / 'x.png')
  for cell in (64, 128):
    shown = pictures.seen(tmp_path / 'x.png', config, 'crop', cell)
    assert shown.shape == (cell, cell, 3)
    assert (shown[: cell - 8, : cell - 8] == 50).all()
    assert shown[-1].mean() < 150
  config = ViTConfig(image_size=4, patch=2, channels=1)
  small = np.arange(16, dtype=np.uint8).reshape(4, 4)
  Image.fromarray(small).save(tmp_path / 'y.png')
  shown = pictures.seen(tmp_path / 'y.png', config, 'crop', 8)
  np.testing.assert_array_equal(shown[..., 0], np.kron(small, np.ones((2, 2))))


def make(cls, amounts, depth=12, patches=196, **kwargs):
  return prune_plan.make_plan(
    cls, amounts, depth=depth, patches=patches, **kwargs
  )


def test_plans_are_the_published_ones():
  tome = pruners.tome_plan
  assert make(pruners.ToMe, Amounts(r=(13,))) == tome(13, depth=12)
  assert make(pruners.ToMe, Amounts()) == tome(13, depth=12)
  bent = make(pruners.ToMe, Amounts(r=(13,), inflect=-1))
  assert bent == tome(13, depth=12, inflect=-1)
  each = (16, 0, 8)
  assert make(pruners.ToMe, Amounts(r=each)) == tome(each, depth=12)
  settings = prune_plan.read_settings(pruners.ToMe, ['metric=features'])
  plan = make(pruners.ToMe, Amounts(r=(13,)), settings=settings)
  assert plan == tome(13, depth=12, metric='features')
  published = pruners.pitome_plan(0.9, depth=12)
  plan = make(pruners.PiToMe, Amounts(r=(13,)))
  like = tuple(
    (site, dataclasses.replace(p, budget=pruners.Remove(tokens=13)))
    for site, p in published
  )
  assert plan == like
  kept, left = (196, 180, 170, 170), (196, 190, 170, 172)
  plan = make(pruners.DiffRate, Amounts(tokens=kept, left=left))
  official = pruners.diffrate_plan(
    [n + 1 for n in left], [n + 1 for n in kept], tokens=197
  )
  assert plan == official and len(plan) == 2


def test_layers_of_a_method_fit_the_tower():
  amounts = Amounts(keep=(0.5,))
  for depth, middle in ((24, 8), (12, 4)):
    ((site, pruner),) = make(before_llm.HiPrune, amounts, depth=depth)
    assert site == 'tower_out'
    assert (pruner.middle, pruner.deep) == (middle, -2)
  settings = {'middle': 1}
  ((_, pruner),) = make(before_llm.HiPrune, amounts, settings=settings)
  assert pruner.middle == 1


def test_one_site_is_in_the_middle():
  for amounts in (Amounts(), Amounts(keep=(0.5,))):
    ((site, pruner),) = make(pruners.TopAttention, amounts)
    assert site == 'block_5.after_attention'
    assert pruner.budget == Ratio(ratio=0.5)
  sites = ['block_3.after_mlp', 'block_6.after_mlp']
  plan = make(pruners.TopAttention, Amounts(keep=(0.7,)), sites=sites)
  assert [site for site, _ in plan] == sites


@pytest.mark.parametrize(
  ('cls', 'amounts', 'message'),
  [
    (pruners.ToMe, Amounts(r=(1,), keep=(0.5,)), '--r and --keep say the same'),
    (pruners.ToMe, Amounts(r=(1,) * 13), '13 numbers for 12 layers'),
    (pruners.ToMe, Amounts(r=(0,)), 'nothing is pruned: r 0'),
    (pruners.ToMe, Amounts(r=(-1,)), '--r -1'),
    (pruners.ToMe, Amounts(keep=(0.5,), inflect=1), '--inflect bends'),
    (pruners.ToMe, Amounts(tokens=(9,), left=(9,)), '--left is of diffrate'),
    (pruners.DiffRate, Amounts(tokens=(9, 8), left=(9,)), 'got 1 and 2'),
    (pruners.Random, Amounts(tokens=(197,)), '1 to 196'),
    (pruners.Random, Amounts(keep=(1.5,)), r'in \(0, 1\]'),
    (pruners.EveryKth, Amounts(r=(2,)), 'every k-th token'),
  ],
)
def test_amounts_that_say_nothing(cls, amounts, message):
  with pytest.raises((UserError, ValueError), match=message):
    make(cls, amounts)
  with pytest.raises(UserError, match='takes name=value'):
    prune_plan.read_settings(cls, ['metric'])
  with pytest.raises(UserError, match='2 numbers for 1 sites'):
    make(cls, Amounts(keep=(0.5, 0.5)), sites=['embed'])
  with pytest.raises(UserError, match='temperature is a number'):
    make(pruners.TokenTransforming, Amounts(), settings={'temperature': 'x'})
