"""Makes karl.npz: what the official class gives.

  python tests/golden/make_karl.py CHECKOUT

CHECKOUT is ShivamDuggal4/karl, commit
5c1a5693edf87228f988f363b2acdb7eb826a889 (no licence stated: nothing of it is
here), class KARLTokenizer, its `encode` in evaluation mode, for one image at a
time. Width, layers and VQGAN are small; PyTorch 2.13.0 on a CPU, float32;
einops must be there. Weights are redrawn (redraw.py), images drawn from seed 1.

`--real` writes no file: it compares KARL-small at its real size, with redrawn
weights, with this library. Errors are in deviations of the official output.
"""

import argparse
import contextlib
import io

import karl_case as case
import numpy as np
import torch
from redraw import check_sensitive, pack, redraw
from taming_official import check_margin, prepare, put, shapes_of

TOLERANCE = 1e-4


def build(base, *, encoder, decoder, patch, quantized):
  """The official class with redrawn weights."""
  from kolmogorov_tokenizers.karl_vqgan import KARLTokenizer

  module = KARLTokenizer(
    base(), *encoder, *decoder, quantize_latent=quantized, patch_size=patch
  ).eval()
  weights = redraw(shapes_of(module), rules=case.RULES)
  put(module, weights)
  return module, weights


def encode(module, images, tokens, target, *, sure=True):
  """Latents, logits of halting, codes and images, of one image at a time."""
  found = []
  inner, keep = module.prepare_decoder_latents, {}

  def spy(*args, **options):
    out = inner(*args, **options)
    keep['latents'], _, keep['halting'], _ = out
    return out

  module.prepare_decoder_latents = spy
  for image in images:
    with contextlib.redirect_stdout(io.StringIO()):
      _, painted, _ = module.encode(image[None], [tokens], target)
    out = {**keep, 'painted': painted[0]}
    out['halting'] = out['halting'][..., 0]
    if module.quantize_latent:
      codes = module.quantize(keep['latents'])[1]['min_encoding_indices']
      out['codes'] = codes
      if sure:
        check_margin(keep['latents'], module.quantize.embedding.weight)
    found.append(out)
  module.prepare_decoder_latents = inner
  return {k: torch.cat([f[k] for f in found]).numpy() for k in found[0]}


def make(base, name):
  """What one variant gives for everything that is asked."""
  sizes = {'encoder': case.ENCODER, 'decoder': case.DECODER}
  module, weights = build(
    base, **sizes, patch=case.PATCH, quantized=case.CASES[name]
  )
  images = torch.from_numpy(case.inputs())
  arrays = {'shapes': pack(shapes_of(module))}
  arrays['base_codes'] = module.base_tokenizer.get_img_tokens(images)[1].numpy()
  for i, (tokens, target) in enumerate(case.ASKED):
    out = encode(module, images, tokens, target)
    halted = 1 / (1 + np.exp(-out['halting'])) > 0.75
    print(name, tokens, target, 'halted', halted.sum(1))
    assert np.abs(out['halting'] - np.log(3)).min() > 1e-3
    out['painted'] = out['painted'][..., ::3, ::3]
    arrays |= {f'{i}/{k}': v for k, v in out.items()}

  def run(changed):
    put(module, changed)
    found = encode(module, images[:1], *case.ASKED[0], sure=False)
    put(module, weights)
    out = [found[k] for k in ('latents', 'halting', 'painted')]
    return np.concatenate([x.ravel() / x.std() for x in out])

  check_sensitive(weights, run, tolerance=TOLERANCE, change=case.tilted)
  return {f'{name}/{k}': v for k, v in arrays.items()}


def compare(base):
  """KARL-small at its real size, theirs against ours, by hand."""
  import jax

  from tokpress_jax.io import keymap
  from tokpress_jax.tokenizers import Halting, karl_keys

  size = (1024, 8, 8)
  module, weights = build(
    base, encoder=size, decoder=size, patch=16, quantized=True
  )
  rng = np.random.default_rng(1)
  images = np.kron(rng.uniform(0, 1, (1, 3, 32, 32)), np.ones((8, 8)))
  images = images.astype(np.float32)
  shapes = shapes_of(module)
  theirs = encode(module, torch.from_numpy(images), 256, 0.05)
  del module
  config = karl_keys.config_of(shapes)
  assert config == karl_keys.released_config(1024)
  variables = keymap.convert(
    weights, karl_keys.RULES, karl_keys.expected(config)
  )
  weights.clear()
  model = config.build()
  pixels = 2 * np.moveaxis(images, 1, -1) - 1

  @jax.jit
  def run(variables, pixels):
    policy = Halting(target=0.05)
    row = model.apply(variables, pixels, policy=policy, method='encode')
    bins = config.bins_of(0.05, 1)
    whole = np.full((1,), 256, np.int32)
    reading = model.apply(variables, pixels, whole, bins, method='read')
    return reading, row, model.apply(variables, row, method='decode')

  reading, row, painted = run(variables, pixels)
  error = lambda a, b: f'{np.abs(np.asarray(a) - b).max() / b.std():.1e}'
  print('latents', error(reading.latents, theirs['latents']))
  print('halting', error(reading.halting, theirs['halting']))
  kept = np.flatnonzero(theirs['halting'][0] <= np.log(3))
  n = int(row.length[0])
  print('kept', n, 'theirs', len(kept))
  same = np.array_equal(row.positions[0, :n, 0], kept)
  print('slots equal', same)
  if same:
    codes = theirs['codes'][0, kept]
    print('codes differ', (np.asarray(row.codes[0, :n, 0]) != codes).sum())
  want = np.moveaxis(theirs['painted'], 1, -1).clip(0, 1)
  print('image', error((painted + 1) / 2, want))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout')
  parser.add_argument('--real', action='store_true')
  flags = parser.parse_args()
  torch.set_grad_enabled(False)
  if flags.real:
    ddconfig = case.VQGAN['ddconfig'] | {
      'z_channels': 256,
      'resolution': 256,
      'ch': 128,
      'ch_mult': [1, 1, 2, 2, 4],
      'num_res_blocks': 2,
    }
    real = {'n_embed': 1024, 'embed_dim': 256, 'ddconfig': ddconfig}
    compare(prepare(flags.checkout, real))
    return
  base = prepare(flags.checkout, case.VQGAN)
  arrays = {}
  for name in case.CASES:
    arrays |= make(base, name)
  np.savez_compressed(case.GOLDEN, **arrays)
  print(case.GOLDEN, case.GOLDEN.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
