"""`tokpress encode --data`: caches of tokens, written in parts."""

import jax
import numpy as np
import pytest
import tiny_models
from command import run

from tokpress_jax import data
from tokpress_jax.data import encoder
from tokpress_jax.data.views import Views
from tokpress_jax.io import export, images, safetensors, token_sets, tokens
from tokpress_jax.tokenizers import Fixed


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A tokenizer, and a folder of thirteen images in two classes."""
  root = tmp_path_factory.mktemp('encode')
  model = tiny_models.one_d()
  export.export(model.module, model.variables, root / 'model')
  random = np.random.default_rng(0)
  for number in range(13):
    place = root / 'images' / 'train' / 'ab'[number % 2]
    place.mkdir(parents=True, exist_ok=True)
    shape = (*random.integers(6, 30, 2), 3)
    pixels = random.integers(0, 256, shape).astype(np.uint8)
    (place / f'{number:02}.png').write_bytes(images.encode_png(pixels))
  return root


def encode(here, out, *flags):
  folder = ('--data', 'folder', '--data-dir', here / 'images')
  return run('encode', here / 'model', *folder, '--out', out, *flags)


def folder(here):
  return data.open_dataset(
    data.DataConfig(
      name='folder', data_dir=str(here / 'images'), image_size=8, channels=1
    )
  )


def test_every_view_of_every_record_in_order(here, tmp_path):
  flags = ('--crops', 2, '--crop-min', 0.5, '--flip', '--seed', 7)
  assert encode(here, tmp_path, *flags, '--shards', 3, '--batch-size', 16) == 0
  found = tokens.Reader(token_sets.find(tmp_path, 'train'))
  header = found.header
  assert header.fingerprint == safetensors.fingerprint(
    tiny_models.one_d().variables
  )
  assert (header.source, header.split, header.records) == (
    'folder',
    'train',
    13,
  )
  assert (header.num_classes, header.class_names) == (2, ('a', 'b'))
  assert header.boundaries == (1, 2, 3) and header.codebook_size == 16
  # One image at a time, with nothing in common but the views.
  source, codes, places = folder(here), [], []
  views = Views(size=8, crops=2, crop_min=0.5, flip=True, seed=7)
  alone = jax.jit(tiny_models.one_d().encode)
  for index in range(13):
    squares, where = zip(*views(source[index]['image'], index), strict=True)
    places += where
    squares = images.to_float(np.concatenate(squares))
    codes.append(np.asarray(alone(squares).codes))
  assert len(found) == 13 * 4
  for number, record in enumerate(found):
    assert (record.index, record.view) == divmod(number, 4)
    assert record.label == source[record.index]['label'] and not record.name
    assert record.placement == places[number]
    want = codes[record.index][record.view]
    np.testing.assert_array_equal(record.codes[0], want)


def test_parts_and_resumes_write_the_same_files(here, tmp_path, capsys):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  assert encode(here, whole, '--shards', 4, '--flip') == 0
  assert encode(here, parts, '--shards', 4, '--flip', '--part', 1, 2) == 0
  assert 'of the 4 files of the split' in capsys.readouterr().out
  assert sorted(p.name for p in parts.iterdir()) == [
    'train-00001-of-00004.tok',
    'train-00003-of-00004.tok',
  ]
  with pytest.raises(ValueError, match=r'2 are missing \(0, 2\)'):
    token_sets.find(parts, 'train')
  changed = (parts / 'train-00003-of-00004.tok').stat().st_mtime_ns
  assert encode(here, parts, '--shards', 4, '--flip') == 0
  assert '2 files written' in capsys.readouterr().out
  assert (parts / 'train-00003-of-00004.tok').stat().st_mtime_ns == changed
  for path in whole.iterdir():
    assert path.read_bytes() == (parts / path.name).read_bytes()
  assert encode(here, parts, '--shards', 4, '--flip') == 0
  assert '0 files written' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--flip'], 'flip: False, True'),
    (['--tokens', 2], 'tokens: 3, 2'),
    (['--shards', 2], 'in 1 files, these would be 2'),
  ],
)
def test_other_tokens_are_not_mixed_in(here, tmp_path, flags, message, capsys):
  assert encode(here, tmp_path) == 0
  assert encode(here, tmp_path, *flags) == 2
  assert message in capsys.readouterr().err


def test_unreadable_images(here, tmp_path, capsys):
  bad = here / 'images' / 'train' / 'a' / '04.png'
  good = bad.read_bytes()
  bad.write_bytes(good[:60])
  try:
    assert encode(here, tmp_path) == 2
    assert '04.png' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert encode(here, tmp_path, '--on-error', 'skip') == 0
  finally:
    bad.write_bytes(good)
  text = capsys.readouterr()
  assert 'Skipped: ' in text.out + text.err and '12 images' in text.out
  found = tokens.Reader(token_sets.find(tmp_path, 'train'))
  assert [r.index for r in found] == [0, 1, *range(3, 13)]  # 04 is the third


def test_images_are_read_a_few_ahead_only(here):
  """However large the data set, little of it is in memory."""
  source = folder(here)
  asked = []

  class Long:
    info = source.info

    def __getitem__(self, index):
      asked.append(index)
      return source[index % 13]

  views = encoder.read_views(Long(), range(10**9), Views(size=8))
  records = encoder.Encoder(tiny_models.one_d(), Fixed(tokens=3), 8)(views)
  for _ in range(20):
    next(records)
  assert len(asked) < 20 + 2 * 8 + 1 + 4 * (encoder.os.cpu_count() or 1)
  records.close()
  views.close()


def test_a_cache_decodes(here, tmp_path):
  flags = ('--crops', 2, '--crop-min', 1, '--crop-max', 1)
  assert encode(here, tmp_path / 'c', *flags, '--shards', 2) == 0
  files = token_sets.find(tmp_path / 'c', 'train')
  out = tmp_path / 'out'
  assert run('decode', here / 'model', *files, '--out', out) == 0
  assert len(list(out.iterdir())) == 26
  source = folder(here)
  for index in (0, 7):
    side = min(source[index]['image'].shape[:2])
    for name in (f'{index:08}.png', f'{index:08}_2.png'):
      assert images.load_image(out / name).shape == (side, side, 1)
