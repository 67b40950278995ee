"""Files of a tokenizer whose tokens may come from any of its slots (KARL)."""

import jax
import numpy as np
import pytest
import tiny_models
from command import run

from tokpress_jax.io import export, images, tokens
from tokpress_jax.tokenizers import Fixed, Halting

COUNT = 12


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A tokenizer and a folder of images."""
  root = tmp_path_factory.mktemp('selected')
  model = tiny_models.karl()
  export.export(model.module, model.variables, root / 'model')
  (root / 'images').mkdir()
  for number, pixels in enumerate(squares()):
    path = root / 'images' / f'{number:02}.png'
    path.write_bytes(images.encode_png(pixels))
  return root


def squares():
  """Noise around a grey, both different for each."""
  random = np.random.default_rng(0)
  size = 6 * np.arange(COUNT)[:, None, None, None]
  noise = size * random.normal(size=(COUNT, 8, 8, 1))
  grey = random.uniform(0, 256, (COUNT, 1, 1, 1))
  return np.clip(grey + noise, 0, 255).astype(np.uint8)


POLICIES = {
  'all': ((), Fixed()),
  'first': (('--tokens', 3), Fixed(tokens=3)),
  'halting': (('--loss', 0.15), Halting(target=0.15)),
}


@pytest.mark.parametrize('coding', ['plain', 'packed', 'adaptive'])
@pytest.mark.parametrize('policy', POLICIES)
def test_files_decode_as_the_tokenizer_does(here, tmp_path, policy, coding):
  flags, policy = POLICIES[policy]
  file, out = tmp_path / 'x.tok', tmp_path / 'out'
  given = (here / 'model', here / 'images', '--out', file, '--coding', coding)
  assert run('encode', *given, *flags) == 0
  assert run('decode', here / 'model', file, '--out', out) == 0

  @jax.jit
  def expected(model, pixels):
    row = model.encode(images.to_float(pixels), policy=policy)
    return row, model.decode(row)

  row, again = expected(tiny_models.karl(), squares())
  again = images.to_uint8(jax.device_get(again))
  found = list(tokens.Reader([file]))
  np.testing.assert_array_equal([r.lengths[0] for r in found], row.length)
  for record, slots, painted in zip(found, row.positions, again, strict=True):
    n = int(record.lengths[0])
    np.testing.assert_array_equal(record.slots[0, :n], slots[:n, 0])
    got = images.load_image(out / record.name)
    off = got.astype(int) - painted
    assert np.abs(off).max() <= 1  # Rounded after sums in another order.
  if isinstance(policy, Halting):
    assert len(set(np.asarray(row.length).tolist())) > 1
    assert any((r.slots[0, 0] > 0) for r in found)


def test_a_record_without_slots_is_not_written(here, tmp_path):
  assert run('encode', here / 'model', here / 'images', '--out',
             tmp_path / 'x.tok') == 0  # fmt: skip
  reader = tokens.Reader([tmp_path / 'x.tok'])
  bare = [r.__class__(**{**vars(r), 'slots': None}) for r in reader]
  with pytest.raises(ValueError, match='record 0 has no slots'):
    tokens.write(tmp_path / 'y.tok', reader.header, bare)
  assert not (tmp_path / 'y.tok').exists()
