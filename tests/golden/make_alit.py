"""Makes alit.npz: what the official class gives.

  python tests/golden/make_alit.py CHECKOUT

CHECKOUT is ShivamDuggal4/adaptive-length-tokenizer, commit
8c0b4ec29c76963ad81ffdd91c9afd901f5215f5 (no licence stated: nothing of it is
here), class AdaptiveLengthImageTokenizer, its `encode` in evaluation mode.
Width, layers and VQGAN are small; PyTorch 2.13.0 on a CPU, float32; einops must
be there. Weights are redrawn (redraw.py), images drawn from seed 1. Its
Bernoulli draws are those of `alit_case.draws`, in the order of the rounds.
"""

import argparse

import alit_case as case
import numpy as np
import torch
from redraw import check_sensitive, pack, redraw
from taming_official import prepare, put, shapes_of

TOLERANCE = 1e-4


def encode(module, images):
  """Codes, what is masked, and images of each round."""
  uniform = torch.from_numpy(case.draws())[: len(images)]
  chances, keep = [], []
  kept, quantize = torch.bernoulli, module.quantize.forward

  def bernoulli(p):
    chances.append(p)
    return (uniform[:, len(chances) - 1] < p).float()

  def spy(z, **options):
    out = quantize(z, **options)
    keep.append((z, out[1]['min_encoding_indices']))
    return out

  torch.bernoulli, module.quantize.forward = bernoulli, spy
  _, painted, _ = module.encode(images, return_min_length_embedding=False)
  torch.bernoulli, module.quantize.forward = kept, quantize
  chance = torch.stack(chances, dim=1)
  threshold = module.dynamic_halting_threshold
  return {
    'latents': torch.cat([z for z, _ in keep], dim=1),
    'codes': torch.cat([codes for _, codes in keep], dim=1),
    'masked': (uniform < chance) & (chance >= threshold),
    'chance': chance,
    'painted': torch.stack(painted, dim=1),
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout')
  torch.set_grad_enabled(False)
  checkout = parser.parse_args().checkout
  base = prepare(checkout, case.VQGAN)
  from adaptive_tokenizers.adaptive_vqgan import AdaptiveLengthImageTokenizer

  module = AdaptiveLengthImageTokenizer(
    base(),
    *case.TOWER,
    *case.DECODER,
    img_size=case.SIDE,
    patch_size=case.PATCH,
    # Images are painted of mixed codes, as after the last stage.
    train_stage='latent_distillation_pretrain',
  ).eval()
  module.train_stage = 'full_finetuning'
  weights = redraw(shapes_of(module), rules=case.RULES)
  put(module, weights)
  images = torch.from_numpy(case.inputs())
  out = {k: v.numpy() for k, v in encode(module, images).items()}
  print('masked of 256', out['masked'].sum(-1))
  assert (out['masked'].sum(-1) > 0).mean() > 0.5

  def run(changed):
    put(module, changed)
    found = encode(module, images[:1])
    put(module, weights)
    parts = [found[k].numpy() for k in ('latents', 'painted')]
    return np.concatenate([x.ravel() / x.std() for x in parts])

  check_sensitive(weights, run, tolerance=TOLERANCE, change=case.tilted)
  chance = out.pop('chance')
  near = np.minimum(np.abs(chance - case.draws()), np.abs(chance - 0.55))
  assert near.min() > 1e-7, near.min()
  out['latents'] = out['latents'][:, -256::8]  # of the last round
  out['painted'] = out['painted'][..., ::3, ::3]
  out['masked'] = np.packbits(out['masked'], axis=-1)
  out['codes'] = out['codes'].astype(np.int16)
  out['shapes'] = pack(shapes_of(module))
  np.savez_compressed(case.GOLDEN, **out)
  print(case.GOLDEN, case.GOLDEN.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
