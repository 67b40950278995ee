"""Makes semantic_tokens.npz: what the official blocks give.

  python tests/golden/make_semantic_tokens.py CHECKOUT

CHECKOUT is changsn/STViT-R, commit b4a27a07fc282198466b3b688ebecc6f146cc9fd
(MIT), models/swin_transformer.py, class Deit (the third stage of the Swin) of
six blocks in evaluation mode, PyTorch 2.13.0 on a CPU, float32; timm is stood
in for. Weights are redrawn (redraw.py), image tokens drawn by
semantic_tokens_case.py. Beside the output there are the semantic tokens after
the first generating block and after the last block among them, and for one case
the gradient of the sum of the output times a second drawing, with respect to
the image tokens.
"""

import functools
import importlib
import pathlib
import sys
import types

import numpy as np
import semantic_tokens_case as case
import torch
from redraw import check_sensitive, pack, redraw

TOLERANCE = 1e-5


def official(checkout):
  layers = types.ModuleType('timm.models.layers')
  layers.DropPath = torch.nn.Identity
  layers.to_2tuple = lambda x: (x, x)
  layers.trunc_normal_ = lambda x, std: x
  # Without what the package's __init__ imports.
  models = types.ModuleType('models')
  models.__path__ = [str(pathlib.Path(checkout) / 'models')]
  sys.modules |= {
    'timm': types.ModuleType('timm'),
    'timm.models': types.ModuleType('timm.models'),
    'timm.models.layers': layers,
    'models': models,
  }
  swin = importlib.import_module('models.swin_transformer')
  sample = importlib.import_module('models.multi_scale')
  return functools.partial(
    swin.Deit, multi_scale=sample.multi_scale_semantic_token1
  )


def main():
  stage = official(sys.argv[1])
  out = {}
  for name, (samples, on) in case.CASES.items():
    module = stage(
      input_resolution=(case.GRID, case.GRID),
      window_size=case.WINDOW,
      sample_window_size=samples,
      embed_dim=case.WIDTH,
      depth=6,
      num_heads=case.HEADS,
      drop_path_rate=[0.0] * 6,
      norm_layer=torch.nn.LayerNorm,
      **{theirs: ours in on for ours, theirs in case.OPTIONS.items()},
    ).eval()
    shapes = {k: tuple(v.shape) for k, v in module.named_parameters()}
    weights = redraw(shapes, rules=case.RULES)
    fixed = {k: v for k, v in module.state_dict().items() if k not in shapes}

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
    found = {}
    for at, key in ((1, 'pooled'), (4, 'semantic')):
      module.blocks[at].register_forward_hook(
        lambda block, given, y, key=key, found=found: found.update({key: y})
      )
    x.requires_grad_(True)
    found['out'] = module(x)
    if name == case.WITH_GRADIENT:
      (found['out'] * along).sum().backward()
      found['gradient'] = x.grad
    out |= {f'{name}/{k}': v.detach().numpy() for k, v in found.items()}
    out[f'{name}/shapes'] = pack(shapes)
  np.savez_compressed(case.GOLDEN, **out)
  print(case.GOLDEN, case.GOLDEN.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
