"""Makes discriminator.npz: logits of the official TiTok's discriminator.

  python tests/golden/make_discriminator.py CHECKOUT

bytedance/1d-tokenizer, commit 942a96fbdd873780179d1b78d5462911528bf8c8
(Apache-2.0), class NLayerDiscriminator, PyTorch 2.13.0 on a CPU, float32.
Weights are redrawn (redraw.py); images are drawn from seed 1.
"""

import pathlib
import sys
import types

import numpy as np
from redraw import check_sensitive, pack, redraw

OUT = pathlib.Path(__file__).with_name('discriminator.npz')
SIZES = {'hidden_channels': 32, 'num_stages': 2}
# Without what all places share, which the norms take out.
RULES = (('to_logits.2.bias', 1, 0.3),)


def images():
  """[2, 3, 128, 128] in [0, 1]: squares of 4 x 4 pixels."""
  rng = np.random.default_rng(1)
  small = rng.uniform(0, 1, (2, 3, 32, 32))
  return np.kron(small, np.ones((4, 4))).astype(np.float32)


def main():
  import torch

  checkout = pathlib.Path(sys.argv[1])
  sys.path.insert(0, str(checkout))
  # Its __init__ imports the losses, and with them torchvision.
  package = types.ModuleType('modeling.modules')
  package.__path__ = [str(checkout / 'modeling' / 'modules')]
  sys.modules['modeling.modules'] = package
  from modeling.modules.discriminator import NLayerDiscriminator

  network = NLayerDiscriminator(**SIZES).eval()
  shapes = {
    k: tuple(v.shape)
    for k, v in network.state_dict().items()
    if not k.endswith('kernel')  # the blur's, a constant
  }

  def run(weights):
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
    network.load_state_dict(tensors, strict=False)
    with torch.no_grad():
      return network(torch.from_numpy(images()))[:, 0].numpy()

  weights = redraw(shapes, rules=RULES)
  rng = np.random.default_rng(3)
  # A convolution before a norm changes nothing when it is scaled as a whole.
  tilted = lambda x: x * rng.choice(np.array([0.9, 1.1], np.float32), x.shape)
  check_sensitive(weights, run, tolerance=1e-5, change=tilted)
  logits = run(weights)
  np.savez(OUT, shapes=pack(shapes), logits=logits)
  print(logits.shape, logits.std(), OUT.stat().st_size)


if __name__ == '__main__':
  main()
