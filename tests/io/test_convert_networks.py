"""`tokpress convert` of the networks that measure or train models."""

import inception_case
import lpips_weights
import numpy as np

from tokpress_jax import __main__ as entry
from tokpress_jax import losses, metrics, released
from tokpress_jax.io import safetensors


def run(*argv):
  return entry.main(['convert', *map(str, argv)])


def test_inception_is_read_as_its_official_file(tmp_path, capsys):
  source, out = tmp_path / 'official.safetensors', tmp_path / 'i.safetensors'
  counter = {'Mixed_5b.branch1x1.bn.num_batches_tracked': np.array(0)}
  safetensors.save(source, {**inception_case.released(), **counter})
  assert run('inception', source, '--out', out) == 0
  assert 'inception, 23,885,392 numbers' in capsys.readouterr().out
  ours, theirs = map(metrics.load_inception, (out, source))
  assert ours.fingerprint == theirs.fingerprint != ''
  found = ours.variables['params']['fc']['kernel']
  expected = inception_case.released()['fc.weight'].T
  np.testing.assert_array_equal(found, expected)


def test_lpips_is_joined_of_two_files(tmp_path, capsys):
  weights = lpips_weights.released()
  files = tmp_path / 'vgg16.safetensors', tmp_path / 'vgg.safetensors'
  for file, start in zip(files, ('features', 'lin'), strict=True):
    part = {k: x for k, x in weights.items() if k.startswith(start)}
    safetensors.save(file, part)
  out = tmp_path / 'lpips.safetensors'
  assert run('lpips', *files, '--out', out) == 0
  found = losses.load_lpips(out)
  np.testing.assert_array_equal(
    found['params']['lin_0'], weights['lin0.model.1.weight'].reshape(-1)
  )
  assert run('lpips', files[0], '--out', out) == 2
  assert 'params/lin_4' in capsys.readouterr().err


def test_errors(tmp_path, capsys):
  source, out = tmp_path / 'x.safetensors', tmp_path / 'o.safetensors'
  safetensors.save(source, {'a': np.zeros(3, np.float32)})
  assert run('inception', source, '--out', out) == 2
  text = capsys.readouterr().err
  assert 'no part of inception' in text
  assert released.NETWORKS['inception'].files[0] in text
  assert run('incption', source, '--out', out) == 2
  assert "'inception'" in capsys.readouterr().err
  assert run('var', source, source, '--out', out) == 2
  assert 'var is in one file' in capsys.readouterr().err
  assert run('inception', '--out', out) == 2
  assert 'Name the file' in capsys.readouterr().err
  assert not out.exists()
