"""Makes pruned_vit.npz: what whole pruned ViTs of the official codes give.

  pip install --no-deps --target PACKAGES timm==1.0.31
  python tests/golden/make_pruned_vit.py PACKAGES TOME DIFFRATE PITOME OPENTOME

Four checkouts patch a timm ViT each. PyTorch 2.13.0 on a CPU, float64, stored
in float32; all tensors are redrawn (redraw.py), images drawn from seed 0.

facebookresearch/ToMe af95e4b1befa172dadccd8c81e223b10090f9579:
  tome/patch/timm.py, on a ViT with a class token, and on a DeiT with a
  distillation token too
OpenGVLab/DiffRate 91ae3e376e9c3f9f1e69f580fd902b61de5dfe0e:
  DiffRate/patch/deit.py, in evaluation, with its count of FLOPs
hchautran/PiToMe 550b5deed94aadfeac28bfbe381d87e672044a40:
  algo/pitome/patch/deit.py, by ratio
Westlake-AI/OpenToMe 4b791cbc6bcef55040236c1852ff2f4102d82725:
  opentome/timm/pitome.py, by a number of tokens

The codes were written for timm 0.4.5 (DiffRate) and 0.4.12. What release 1.0.31
of it wants:

  DiffRate's block reads `drop_path`, which are two now: the identity is put
    there.
  PiToMe's `forward_features` takes images alone and gives the class token
    alone, and reads `dist_token` and `pre_logits`: None and the identity are
    put there, timm's masks are kept from it, and the model's head becomes its
    classifier.

ToMe's and OpenToMe's patches run as they are. Package files that import what is
not needed here (plots, other models) are passed by.
"""

import contextlib
import copy
import importlib
import pathlib
import sys
import types

import numpy as np
import pruned_vit_case as case
import torch
from make_timm_vit import StandIn
from redraw import check_sensitive, pack, redraw


def package(name, root):
  """A package without its `__init__`, whose modules can be imported."""
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [str(root / name.replace('.', '/'))]


def sources(matrix):
  """For each original token the first one of its group, -1 if it was dropped.

  Of the codes' matrix [B, kept, N]; it does not depend on the order of slots.
  """
  inside = matrix.numpy() > 0
  first = inside.argmax(axis=2)  # [B, kept]
  owner = np.where(inside, first[..., None], -1)
  return owner.max(axis=1).astype(np.int8)


def run(model, weights):
  """Logits [3, V], FLOPs if the model counts them, tokens after each layer."""
  model.load_state_dict(
    {k: torch.from_numpy(v) for k, v in weights.items()}, strict=False
  )
  model.double()
  counts = []
  count = lambda module, given, out: counts.append(out.shape[1])
  hooks = [block.register_forward_hook(count) for block in model.blocks]
  images = torch.from_numpy(case.images()).double().permute(0, 3, 1, 2)
  with torch.inference_mode(), contextlib.redirect_stdout(None):
    out = model(images)
  for hook in hooks:
    hook.remove()
  logits, flops = out if isinstance(out, tuple) else (out, 0)
  return logits.numpy(), flops, counts


def tome(root, model, proportional=True):
  """name -> (a patched model, how its info is read)."""
  package('tome', root)
  package('tome.patch', root)
  patch = importlib.import_module('tome.patch.timm').apply_patch
  for name, r in case.TOME.items():
    patched = copy.deepcopy(model)
    patch(patched, trace_source=True, prop_attn=proportional)
    patched.r = r
    yield f'tome_{name}', patched, lambda m: m._tome_info


def diffrate(root, model):
  """The same for DiffRate."""
  package('DiffRate', root)
  package('DiffRate.patch', root)
  patch = importlib.import_module('DiffRate.patch.deit').apply_patch
  for name, kept in case.DIFFRATE.items():
    patched = copy.deepcopy(model)
    patch(patched, trace_source=True)
    for block in patched.blocks:
      block.drop_path = torch.nn.Identity()
    patched.set_kept_num(*kept)
    yield f'diffrate_{name}', patched, lambda m: m._diffrate_info


def alone(function):
  """The function of its first argument, whatever else is given."""
  return lambda x, **_: function(x)


def pitome(root, model):
  """The same for PiToMe by ratio."""
  package('algo', root)
  package('algo.pitome', root)
  package('algo.pitome.patch', root)
  patch = importlib.import_module('algo.pitome.patch.deit').apply_patch
  for name, ratio in case.PITOME.items():
    patched = copy.deepcopy(model)
    patched.dist_token = None
    patched.pre_logits = torch.nn.Identity()
    patch(patched, trace_source=True)
    patched.ratio = ratio
    patched.forward_features = alone(patched.forward_features)
    patched.forward_head = patched.head.forward
    yield f'pitome_{name}', patched, lambda m: m._info


def opentome(root, model):
  """The same for PiToMe by number."""
  package('opentome', root)
  package('opentome.timm', root)
  package('opentome.tome', root)
  parts = importlib.import_module('opentome.timm.attention')
  sys.modules['opentome.timm'].Attention = parts.Attention
  sys.modules['opentome.timm'].Block = parts.Block
  patch = importlib.import_module('opentome.timm.pitome').pitome_apply_patch
  patched = copy.deepcopy(model)
  patch(patched, trace_source=True)
  patched.r = case.PITOME_REMOVED
  read = lambda m: {**m._tome_info, 'source': m._tome_info['source_matrix']}
  yield 'pitome_number', patched, read


def main():
  """Writes the file."""
  packages, *roots = map(pathlib.Path, sys.argv[1:])
  sys.path.insert(0, str(packages))
  sys.meta_path.insert(0, StandIn())
  from timm.models import deit, vision_transformer

  out, models = {}, {}
  for name, cls in (
    ('vit', vision_transformer.VisionTransformer),
    ('deit', deit.VisionTransformerDistilled),
  ):
    models[name] = cls(**case.SIZE).eval()
    shapes = {k: tuple(v.shape) for k, v in models[name].state_dict().items()}
    out[f'{name}_shapes'] = pack(shapes)
    out[f'{name}_weights'] = redraw(shapes, rules=case.RULES)
  weights = {name: out.pop(f'{name}_weights') for name in models}

  runs = [('vit', *x) for x in tome(roots[0], models['vit'])]
  plain = next(iter(tome(roots[0], models['vit'], proportional=False)))
  runs.append(('vit', 'tome_plain', *plain[1:]))
  distilled = next(iter(tome(roots[0], models['deit'])))
  runs.append(('deit', 'tome_distilled', *distilled[1:]))
  for method, root in zip((diffrate, pitome, opentome), roots[1:], strict=True):
    runs += [('vit', *x) for x in method(root, models['vit'])]

  for host, name, model, read in runs:
    check_sensitive(
      weights[host],
      lambda given, model=model: run(model, given)[0],
      tolerance=case.TOLERANCE,
    )
    logits, flops, counts = run(model, weights[host])
    info = read(model)
    out[f'{name}_logits'] = logits.astype(np.float32)
    out[f'{name}_counts'] = np.array(counts)
    out[f'{name}_source'] = sources(info['source'])
    mass = np.sort(info['size'][..., 0].numpy(), axis=1)
    assert mass.min() > 0, (name, mass)
    out[f'{name}_mass'] = mass.astype(np.float32)
    if name.startswith('diffrate'):
      out[f'{name}_flops'] = np.array(int(flops))
    print(name, counts, logits.std())
  np.savez_compressed(case.GOLDEN, **out)


if __name__ == '__main__':
  main()
