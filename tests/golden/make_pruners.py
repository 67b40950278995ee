"""Makes pruners.npz: what the official mergers give.

  python tests/golden/make_pruners.py TOME DIFFRATE PITOME PPE

Four checkouts, run with PyTorch 2.13.0 on a CPU, float32, on the inputs of
pruners_case.py; outputs only are stored.

facebookresearch/ToMe af95e4b1befa172dadccd8c81e223b10090f9579:
  bipartite_soft_matching, kth_bipartite_soft_matching,
  random_bipartite_soft_matching (its numbers drawn by seed), merge_wavg
OpenGVLab/DiffRate 91ae3e376e9c3f9f1e69f580fd902b61de5dfe0e:
  DiffRateBlock with attention and MLP replaced by what is given and by 0, in
  evaluation and in training; DiffRate; softmax_with_policy. timm's classes are
  stood in for by empty ones.
hchautran/PiToMe 550b5deed94aadfeac28bfbe381d87e672044a40:
  pitome_vision, merge_wavg
MouxiaoHuang/PPE 7b6aa7d211f6e40fca53843d51e087067b3de0a6:
  cluster_dpc_knn without its noise, merge_tokens with ppe_k and a stable sort
"""

import argparse
import functools
import importlib.util
import pathlib
import sys
import types

import numpy as np
import pruners_case as case
import torch

HERE = pathlib.Path(__file__).parent


def load(path, name):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def tome(root):
  m = load(root / 'tome' / 'merge.py', 'tome_merge')
  x, size = torch.tensor(case.features()), torch.tensor(case.mass())[..., None]
  metric = torch.tensor(case.metric())
  random = torch.rand
  drawn = torch.tensor(case.draw(9, 2, 17, 1))
  torch.rand = lambda *shape, **_: drawn
  merges = {
    'class': m.bipartite_soft_matching(metric, 5, class_token=True),
    'distill': m.bipartite_soft_matching(
      metric, 5, class_token=True, distill_token=True
    ),
    'none': m.bipartite_soft_matching(metric, 5),
    'kth': m.kth_bipartite_soft_matching(metric, 3),
    'random': m.random_bipartite_soft_matching(metric, 10),
  }
  torch.rand = random
  out = {}
  for name, (merge, _) in merges.items():
    y, mass = m.merge_wavg(merge, x, size)
    out[f'tome_{name}'] = torch.cat([y, mass], dim=-1)
  out['tome_unmerged'] = merges['class'][1](merges['class'][0](x))
  return out


def pitome(root):
  m = load(root / 'algo' / 'pitome' / 'merge.py', 'pitome_merge')
  x, size = torch.tensor(case.features()), torch.tensor(case.mass())[..., None]
  metric, out = torch.tensor(case.metric()), {}
  for name, bsm in (('energy', False), ('all', True)):
    for ratio in (0.7, 0.5):
      merge = m.pitome_vision(
        metric,
        ratio=ratio,
        margin=0.4,
        class_token=True,
        use_bsm_pitome=bsm,
      )
      y, mass = m.merge_wavg(merge, x, size)
      out[f'pitome_{name}_{ratio}'] = torch.cat([y, mass], dim=-1)
  return out


def diffrate(root):
  for name in ('DiffRate', 'DiffRate.patch'):  # their __init__ need timm
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(root / name.replace('.', '/'))]
  empty = lambda name: type(name, (torch.nn.Module,), {})
  for name in ('timm', 'timm.models', 'timm.models.vision_transformer'):
    sys.modules[name] = types.ModuleType(name)
  for name in ('Attention', 'Block', 'VisionTransformer'):
    setattr(sys.modules['timm.models.vision_transformer'], name, empty(name))
  from DiffRate.ddp import DiffRate
  from DiffRate.patch.deit import DiffRateAttention, DiffRateBlock

  x, size = torch.tensor(case.features()), torch.tensor(case.mass())[..., None]

  def run(training, mask):
    row = case.masked_attention() if training else case.attention()
    row = torch.tensor(row)[:, :, None]
    block = DiffRateBlock()
    block.train(training)
    block.introduce_diffrate(16, 1, 1)
    block.norm1 = block.norm2 = block.drop_path = lambda v: v
    block.attn = lambda v, size, mask: (torch.zeros_like(v), row)
    block.mlp = torch.zeros_like
    block._diffrate_info = {
      'size': size,
      'mask': mask,
      'trace_source': False,
      'prune_kept_num': [],
      'merge_kept_num': [],
    }
    for ddp, theta in zip(
      (block.prune_ddp, block.merge_ddp), case.logits(), strict=True
    ):
      ddp.selected_probability.data = torch.tensor(theta)
      ddp.update_kept_token_number()
    if not training:
      block.prune_ddp.kept_token_number = case.DIFFRATE['prune']
      block.merge_ddp.kept_token_number = case.DIFFRATE['merge']
    return block, block(x)

  block, y = run(False, torch.ones(2, 17))
  out = {'diffrate': torch.cat([y, block._diffrate_info['size']], dim=-1)}
  mask = torch.tensor(case.mask()).expand(2, -1)
  block, y = run(True, mask)
  info = block._diffrate_info
  out['diffrate_masked'] = torch.cat(
    [y, info['size'], info['mask'][..., None]], dim=-1
  )
  kept = torch.stack([info['prune_kept_num'][0], info['merge_kept_num'][0]])
  out['diffrate_kept'] = kept
  weight = torch.tensor(case.draw(10, 2, 17))
  loss = (info['mask'] * weight).sum() + (
    kept * torch.tensor([0.3, -0.2])
  ).sum()
  loss.backward()
  ddps = (block.prune_ddp, block.merge_ddp)
  out['diffrate_gradient'] = torch.stack(
    [ddp.selected_probability.grad for ddp in ddps]
  )
  logits = torch.tensor(case.draw(11, 2, 3, 17, 17))
  attention = DiffRateAttention.softmax_with_policy(None, logits, mask)
  out['diffrate_attention'] = attention[:, 0]
  ddp = DiffRate(12, 3)
  out['diffrate_even'] = ddp.update_kept_token_number()
  out['diffrate_even_probability'] = ddp.get_token_probability()
  return out


def ppe(root):
  m = load(root / 'src' / 'models' / 'chatunivi.py', 'chatunivi')
  random, torch.rand = torch.rand, lambda *shape, **_: torch.zeros(1)
  x, out = torch.tensor(case.features()), {}
  for k in (3, 5):
    clusters, _ = m.cluster_dpc_knn({'x': x}, 6, k)
    out[f'dpc_{k}'] = clusters
  torch.rand = random
  sort, torch.sort = torch.sort, functools.partial(torch.sort, stable=True)
  grid = torch.arange(17)
  for row in range(2):
    merged = m.merge_tokens(
      {
        'x': x[row : row + 1],
        'idx_token': grid[None],
        'agg_weight': torch.ones(1, 17, 1),
        'position_ids': torch.stack([grid // 10, grid // 4, grid % 4]),
        'ppe_k': 4,
      },
      clusters[row : row + 1],
      6,
    )
    out[f'ppe_{row}'] = merged['position_ids']
    out[f'ppe_features_{row}'] = merged['x'][0]
  torch.sort = sort
  return out


def main():
  parser = argparse.ArgumentParser()
  for name in ('tome', 'diffrate', 'pitome', 'ppe'):
    parser.add_argument(name, type=pathlib.Path)
  args = parser.parse_args()
  out = {
    **tome(args.tome),
    **diffrate(args.diffrate),
    **pitome(args.pitome),
    **ppe(args.ppe),
  }
  arrays = {k: v.detach().numpy() for k, v in out.items()}
  np.savez_compressed(HERE / 'pruners.npz', **arrays)


if __name__ == '__main__':
  main()
