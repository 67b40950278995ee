"""Makes timm_vit.npz: what timm's ViT and distilled DeiT give.

  pip install --no-deps --target PACKAGES timm==1.0.31
  python tests/golden/make_timm_vit.py PACKAGES

huggingface/pytorch-image-models, release 1.0.31 (Apache-2.0): classes
VisionTransformer and VisionTransformerDistilled. PyTorch 2.13.0 on a CPU,
float64, stored in float32. All tensors are redrawn (redraw.py) and images drawn
from seed 0. The classes are all that is used of timm, so torchvision, which it
imports, is replaced by a stand-in.
"""

import importlib.machinery
import sys
from unittest import mock

import numpy as np
import timm_vit_case as case
import torch
from redraw import check_sensitive, pack, redraw


class StandIn:
  """Gives a mock for torchvision and whatever is below it."""

  def find_spec(self, name, path, target=None):
    if name.split('.')[0] != 'torchvision':
      return None
    return importlib.machinery.ModuleSpec(name, self, is_package=True)

  def create_module(self, spec):
    return mock.MagicMock(name=spec.name, __path__=[], __spec__=spec)

  def exec_module(self, module):
    pass


def run(model, weights):
  """Logits [2, V]; what enters and leaves the layers for the first image."""
  model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
  model.double()
  hidden = []
  keep = lambda module, given, out: hidden.append(out[0].numpy())
  hooks = [block.register_forward_hook(keep) for block in model.blocks]
  first = lambda module, given: hidden.append(given[0][0].numpy())
  hooks.append(model.blocks[0].register_forward_pre_hook(first))
  images = torch.from_numpy(case.images()).double().permute(0, 3, 1, 2)
  with torch.inference_mode():
    logits = model(images).numpy()
  for hook in hooks:
    hook.remove()
  return logits, np.stack(hidden)


def main():
  """Writes the file."""
  sys.path.insert(0, sys.argv[1])
  sys.meta_path.insert(0, StandIn())
  from timm.models import deit, vision_transformer

  classes = {
    'vit': vision_transformer.VisionTransformer,
    'deit': deit.VisionTransformerDistilled,
  }
  out = {}
  for name in case.NAMES:
    model = classes[name](**case.SIZE).eval()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    weights = redraw(shapes, rules=case.RULES)
    check_sensitive(
      weights,
      lambda w, model=model: run(model, w)[0],
      tolerance=case.TOLERANCE,
    )
    logits, hidden = run(model, weights)
    out[f'{name}_shapes'] = pack(shapes)
    out[f'{name}_logits'] = logits.astype(np.float32)
    out[f'{name}_hidden'] = hidden.astype(np.float32)
  np.savez_compressed(case.GOLDEN, **out)


if __name__ == '__main__':
  main()
