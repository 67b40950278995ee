"""Makes lpips.npz: distances by the PyPI package lpips 0.1.4, class LPIPS.

  pip install --no-deps lpips==0.1.4 torch==2.13.0
  PYTHONPATH=tests/io python tests/golden/make_lpips.py

net='vgg', version '0.1', with the redrawn weights of tests/io/lpips_weights.py.
The package takes the layout of VGG16 from torchvision, for which a stand-in
serves.
"""

import pathlib
import sys
import types

import numpy as np
import torch
from lpips_weights import released

OUT = pathlib.Path(__file__).with_name('lpips.npz')


def vgg16(pretrained=False):
  layers, before = [], 3
  widths = [64, 64, 0, 128, 128, 0, *[256] * 3, 0, *[512] * 3, 0, *[512] * 3, 0]
  for width in widths:
    if not width:
      layers.append(torch.nn.MaxPool2d(2, 2))
      continue
    layers.append(torch.nn.Conv2d(before, width, 3, padding=1))
    layers.append(torch.nn.ReLU(inplace=True))
    before = width
  return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


def main():
  stand_in = types.ModuleType('torchvision')
  stand_in.models = types.ModuleType('torchvision.models')
  stand_in.models.vgg16 = vgg16
  sys.modules |= {
    'torchvision': stand_in,
    'torchvision.models': stand_in.models,
  }
  import lpips

  network = lpips.LPIPS(net='vgg', version='0.1', verbose=False)
  tensors = network.state_dict()
  for name, array in released().items():
    if name.startswith('features'):
      end = name.removeprefix('features.')
      (name,) = (n for n in tensors if n.endswith(f'.{end}') and 'slice' in n)
    tensors[name] = torch.from_numpy(array)
  network.load_state_dict(tensors)
  random = np.random.default_rng(1)
  found = {}
  for size in (16, 37):
    x, y = random.uniform(-1, 1, (2, 2, size, size, 3)).astype(np.float32)
    to = lambda a: torch.from_numpy(a).permute(0, 3, 1, 2)
    with torch.no_grad():
      found[f'distance_{size}'] = network(to(x), to(y)).flatten().numpy()
  np.savez(OUT, **found)
  print({k: v.tolist() for k, v in found.items()})


if __name__ == '__main__':
  main()
