"""Makes super_tokens.npz: what the official attention gives.

  python tests/golden/make_super_tokens.py CHECKOUT

CHECKOUT is hhb072/STViT, commit c9ed9a4 (no licence at its root: nothing of it
is here), models/stvit.py, class StokenAttention in evaluation mode, PyTorch
2.13.0 on a CPU, float32; timm and fvcore are stood in for. Weights are redrawn
(redraw.py), images drawn by super_tokens_case.py; gradients are of the sum of
the output times a second drawing, with respect to the image.
"""

import importlib.util
import pathlib
import sys
import types

import numpy as np
import super_tokens_case as case
import torch
from redraw import check_sensitive, redraw

TOLERANCE = 1e-5


class Anything(types.ModuleType):
  """A module with whatever is asked of it."""

  __path__ = ()

  def __getattr__(self, name):
    return lambda *args, **options: args[0] if args else None


def official(checkout):
  for name in (
    'timm', 'timm.models', 'timm.models.layers', 'timm.models.registry',
    'timm.models.vision_transformer', 'fvcore', 'fvcore.nn',
  ):  # fmt: skip
    sys.modules[name] = Anything(name)
  path = pathlib.Path(checkout) / 'models' / 'stvit.py'
  spec = importlib.util.spec_from_file_location('stvit', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.StokenAttention


def main():
  attention = official(sys.argv[1])
  out = {}
  for name, (_, size, iterations) in case.CASES.items():
    module = attention(
      case.WIDTH, size, n_iter=iterations, num_heads=case.HEADS
    ).eval()
    fixed = {k: v for k, v in module.state_dict().items() if 'fold' in k}
    shapes = {
      k: tuple(v.shape)
      for k, v in module.state_dict().items()
      if k not in fixed
    }
    weights = redraw(shapes, rules=case.RULES)

    def put(arrays, module=module, fixed=fixed):
      tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
      module.load_state_dict(tensors | fixed)

    x, along = (torch.from_numpy(a) for a in case.inputs(name))

    def run(arrays, put=put, module=module, x=x):
      put(arrays)
      with torch.no_grad():
        return module(x).numpy()

    check_sensitive(weights, run, tolerance=TOLERANCE)
    put(weights)
    x.requires_grad_(True)
    y = module(x)
    (y * along).sum().backward()
    out[f'{name}/out'] = y.detach().numpy()
    out[f'{name}/gradient'] = x.grad.numpy()
  np.savez_compressed(case.GOLDEN, **out)
  print(case.GOLDEN, case.GOLDEN.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
