"""VAR's benchmark on a tiny model, and beside a stand-in for the peer."""

import dataclasses
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import bench, generators, quantize, tokenizers
from tokpress_jax.bench import (
  conv,
  official_var,
  torch_peer,
  var_sampling,
  var_training,
)
from tokpress_jax.bench import weights as weights_lib
from tokpress_jax.errors import UserError
from tokpress_jax.generators import scale_wise_keys
from tokpress_jax.tokenizers import var_keys

SCALES, WIDTH, DEPTH, BATCH, FEATURES = (1, 2, 4), 16, 2, 2, 8
VAR = generators.ScaleWiseConfig(
  width=WIDTH,
  depth=DEPTH,
  heads=2,
  codebook_size=1024,  # at least top-k
  num_classes=3,
  scales=SCALES,
  latent_dim=FEATURES,
)
MVAR = dataclasses.replace(VAR, sees='own', kernels=(None, None, 3))
TOKENIZER = tokenizers.VARTokenizerConfig(
  image_size=8,
  patch=2,
  width=32,
  multipliers=(1, 1),
  blocks=1,
  quantizer=quantize.MultiScaleVQConfig(
    vq=quantize.VQConfig(codebook_size=1024, dim=FEATURES),
    scales=SCALES,
    phi=2,
  ),
)
PEER = textwrap.dedent("""
  import time
  import torch
  from torch import nn

  class Part(nn.Module):
    def __init__(self, seconds, **weights):
      super().__init__()
      self.seconds = seconds
      for name, shape in weights.items():
        layer = nn.Linear(shape[1], shape[0])
        layer.reset_parameters()
        self.add_module(name, layer)

    def forward(self, x):
      time.sleep(self.seconds)
      return x + 1

  class Decoder(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv_out = nn.Conv2d(32, 3, 3)

    def forward(self, x):
      time.sleep(0.03)
      return x[:, :3].repeat(1, 1, 2, 2)

  class Tokenizer(nn.Module):
    def __init__(self):
      super().__init__()
      self.decoder = Decoder()

    def fhat_to_img(self, f):
      return self.decoder(f)

  class Model(nn.Module):
    def __init__(self, tokenizer, depth, patch_nums):
      super().__init__()
      self.scales, self.tokenizer = patch_nums, (tokenizer,)
      self.word_embed = nn.Linear(8, 16)
      self.blocks = nn.ModuleList(Part(0.01) for _ in range(depth))

    def autoregressive_infer_cfg(self, B, label_B, g_seed, cfg, top_k, top_p):
      assert (cfg, top_k, top_p) == (1.5, 900, 0.96)
      assert torch.is_inference_mode_enabled() and not self.training
      for n in self.scales:
        x = torch.zeros(2 * B, n * n, 16)
        for block in self.blocks:
          x = block(x)
      time.sleep(0.05)
      return self.tokenizer[0].fhat_to_img(torch.ones(B, 8, 4, 4))

  def build_vae_var(device, patch_nums, depth, shared_aln):
    nn.Linear.reset_parameters = lambda self: None
    tokenizer = Tokenizer()
    return tokenizer, Model(tokenizer, depth, patch_nums)
""")


@pytest.fixture(scope='module')
def rows():
  found = var_sampling.compare(
    {'var': VAR, 'mvar': MVAR},
    TOKENIZER,
    batch=BATCH,
    dtype='float32',
    repeats=2,
  )
  return {row['name']: row for row in found}


def test_parts_add_up_to_the_whole(rows):
  assert set(rows) == {
    f'{name}-d2{part}'
    for name in ('var', 'mvar')
    for part in ('', '/transformer', '/decoder', '/rest')
  } | {'matmul-peak', 'conv-peak'}
  for name in ('var-d2', 'mvar-d2'):
    whole = rows[name]
    parts = [rows[f'{name}/{p}'] for p in ('transformer', 'decoder', 'rest')]
    total = sum(part['seconds'] for part in parts)
    assert total == pytest.approx(whole['seconds'])
    assert whole['images_per_second'] == BATCH / whole['seconds']
    assert whole['first_seconds'] > whole['seconds']
    assert 'ratio' not in whole
  assert rows['var-d2']['batch'] == BATCH
  fraction = rows['var-d2/decoder']['fraction_of_peak']
  rate = rows['var-d2/decoder']['flop_per_second']
  assert fraction == rate / rows['conv-peak']['flop_per_second']


def test_operations_of_the_transformer(rows):
  """Guided: two rows per image. Keys of all scales so far, or of one's own."""
  sizes = [s * s for s in SCALES]
  weights = 12 * WIDTH**2 * sum(sizes)
  seen = {
    'var': sum(n * sum(sizes[: k + 1]) for k, n in enumerate(sizes)),
    'mvar': sum(n * n for n in sizes),
  }
  for name, pairs in seen.items():
    flops = 2 * weights + 2 * 2 * WIDTH * pairs
    flops += 2 * 6 * WIDTH**2  # the modulation, once
    got = rows[f'{name}-d2/transformer']['flops']
    assert got == 2 * BATCH * DEPTH * flops


def test_training_has_a_row_per_pass():
  options = {'batch': BATCH, 'dtype': 'float32', 'repeats': 1}
  first, last = var_training.train_rows('it', MVAR, **options)
  assert first['name'] == 'it/train_step[0:2]'
  assert last['name'] == 'it/train_step[2:3]'
  weights = scale_wise_keys.expected(MVAR)
  count = sum(x.size for x in jax.tree.leaves(weights))
  for row in (first, last):  # weights, two moments, then more
    assert row['peak_bytes'] > 3 * 4 * count
  # Each product has two of its size in the backward pass, but the first ones.
  later = sum(s * s for s in SCALES[1:])
  forward = bench.count_flops(
    lambda *args: MVAR.build().apply(*args, scales=(0, 2)),
    weights,
    jax.ShapeDtypeStruct((BATCH, later, FEATURES), jnp.float32),
    jax.ShapeDtypeStruct((BATCH,), jnp.int32),
  )
  assert 2.9 * forward < first['flops'] <= 3 * forward


def test_redrawn_weights_are_of_order_one():
  weights = weights_lib.redraw(scale_wise_keys.expected(VAR), seed=0)['params']
  fc2 = weights['stack']['layers']['mlp']['fc2']['kernel']
  np.testing.assert_allclose(fc2.std(), (4 * WIDTH) ** -0.5, rtol=0.1)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(weights))
  norms = weights_lib.redraw(var_keys.expected(TOKENIZER), seed=0)
  scale = norms['params']['decoder']['norm_out']['scale']
  np.testing.assert_allclose(scale.mean(), 1, atol=0.1)


def test_options_are_checked(tmp_path):
  with pytest.raises(UserError, match='var, mvar'):
    bench.run('var', models='star')
  with pytest.raises(UserError, match='256 or 512'):
    bench.run('var', size=128)
  with pytest.raises(UserError, match="add 'var'"):
    bench.run('var', models='mvar', peer=str(tmp_path))


def test_convolutions_have_rows():
  (row,) = bench.run('conv', sides=8, channels=32, dtypes='float32', repeats=1)[
    'rows'
  ]
  assert row['name'] == 'conv_8_32_float32'
  assert row['flops'] == 2 * 9 * 8 * 8 * 32 * 32
  assert row['ratio'] == row['peer_seconds'] / row['seconds']
  x, kernel = map(jnp.asarray, conv.operands(8, 32, 1))
  y = conv.plain(x, kernel)
  assert y.shape == x.shape
  np.testing.assert_allclose(y.std(), 1, rtol=0.2)


@pytest.mark.parity
def test_a_peer_is_timed_in_parts(tmp_path, monkeypatch):
  torch = pytest.importorskip('torch')
  (tmp_path / 'models').mkdir()
  (tmp_path / 'models' / '__init__.py').write_text(PEER)
  # The stand-in is no decoder, and compiling it would take half a minute.
  monkeypatch.setattr(var_sampling, '_decoding_error', lambda *_: 0.5)
  monkeypatch.setattr(
    torch, 'compile', lambda forward, dynamic: lambda x: forward(x) + 1
  )
  reset = torch.nn.Linear.reset_parameters
  found = var_sampling.compare(
    {'mvar': MVAR, 'var': VAR},
    TOKENIZER,
    batch=BATCH,
    dtype='float32',
    peer=str(tmp_path),
    threads=2,
    repeats=2,
  )
  assert torch.nn.Linear.reset_parameters is reset
  rows = {row['name']: row for row in found}
  whole = rows['var-d2']
  ways = [f'official-{way}' for way in torch_peer.WAYS]
  fastest = min(ways, key=lambda way: rows[way]['seconds'])
  assert whole['peer'] == fastest
  assert whole['peer_seconds'] == rows[fastest]['seconds']
  assert whole['ratio'] == whole['peer_seconds'] / whole['seconds']
  assert whole['decoding_error'] == 0.5
  # Two blocks at three scales, each 0.01 s; the decoder 0.03; the rest 0.05.
  peer = {p: rows[f'var-d2/{p}']['peer_seconds'] for p in var_sampling._PARTS}
  assert peer['transformer'] > 0.06 and peer['decoder'] > 0.03
  rest = rows['var-d2/rest']['peer_seconds']
  assert rest > 0.05
  assert rest + sum(peer.values()) == pytest.approx(whole['peer_seconds'], 0.5)
  assert rows['var-d2/decoder']['peer_fraction_of_peak'] > 0
  assert 'peer' not in rows['mvar-d2']


@pytest.mark.parity
def test_a_peer_has_our_weights_and_must_exist(tmp_path):
  pytest.importorskip('torch')
  options = {
    'scales': SCALES,
    'depth': DEPTH,
    'shared': False,
    'variables': weights_lib.redraw(scale_wise_keys.expected(VAR), seed=0),
    'tokenizer_variables': weights_lib.redraw(
      var_keys.expected(TOKENIZER), seed=0
    ),
    'dtype': 'float32',
  }
  with pytest.raises(UserError, match='no checkout of FoundationVision/VAR'):
    official_var.Official(str(tmp_path), **options)
  sys.modules.pop('models', None)
  (tmp_path / 'models').mkdir()
  (tmp_path / 'models' / '__init__.py').write_text(PEER)
  peer = official_var.Official(str(tmp_path), **options)
  kernel = options['variables']['params']['latent_embed']['kernel']
  np.testing.assert_array_equal(
    peer.model.word_embed.weight.numpy(force=True), kernel.T
  )
  kernel = options['tokenizer_variables']['params']['decoder']['conv_out']
  np.testing.assert_array_equal(
    peer.tokenizer.decoder.conv_out.weight.numpy(force=True),
    kernel['kernel'].transpose(3, 2, 0, 1),
  )
