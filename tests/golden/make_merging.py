"""Makes merging.npz: what official codes between a tower and an LLM give.

  python tests/golden/make_merging.py ROOT

ROOT holds checkouts, named OWNER+REPOSITORY. Functions are run as they are on
the inputs of merging_case.py, PyTorch 2.13.0 on a CPU in float32; what they
read of their models is stood in for. Outputs only are stored.

dvlab-research/VisionZip 3151f6df4fca36a4cd1c985e5956e725b1f9ad02:
  CLIPVisionTower_VisionZip.forward
Tencent/AngelSlim 67394ce55f6b6cfae702575fbc3c7a05c13fdd74: visionzip
THU-MIG/VTC-CLS e41ac9b4c0db235b3f68a84dbd6bd35f24156a7c:
  token_prune_merge_advanced and ..._plus, without the rounding to float16
hasanar1f/HiRED 502d6dd79a03e87cc808cedba8b8a951d93cb62b:
  HiRED_token_selection, HiRED_sub_img_budgets
xuyang-liu16/GlobalCom2 96b2d00b86a22495285ab448cc89faedafddd78d:
  generate_scale_for_crop_features, compress_thumbnail, compress_crops, without
  the rounding to float16
LaVi-Lab/AIM edc24e9f3dfa99496ad332bd43ce20fa7b2cd30c:
  bipartite_soft_matching_merge
yaolinli/TimeChat-Online 25a15783a6fd83e3360b3326cee44029fcce0132: token_drop
ModelTC/LightCompress 9701d035b0aac5df97a2ebaadb30bcf0707616f5: dycole_ttm
banjiuyufen/Recoverable-Compression d927594467a0eff8bdf35e9c933f1423a4b1b760:
  token_recycling_with_text_in_vision_and_clustring (scikit-learn's LOF)
liuting20/MustDrop 909afa538bff22e10c02db2da101aa1870e21912:
  conditional_pooling, merge_wavg
intcomp/SegPruner acf0e4e275d1c534fc734e350e187cf7e3e17576:
  farthest_point_sample, of the patch
"""

import argparse
import ast
import importlib
import math
import os
import pathlib
import sys
import types
import warnings
from typing import Any, Callable, Optional  # noqa: UP035

import merging_case as case
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
TOKEN = 9


def functions(source, *names):
  """Functions of a file, also of its classes, without importing the file."""
  tree = ast.parse(source)
  space: dict[str, Any] = {
    'torch': torch,
    'np': np,
    'F': torch.nn.functional,
    'os': os,
    'math': math,
    'Optional': Optional,
    'Tuple': tuple,
    'List': list,
    'Callable': Callable,
    'OPENAI_CLIP_STD': [1.0] * 3,
    'OPENAI_CLIP_MEAN': [0.0] * 3,
    'retention_ratio': 0.25,
  }
  found = [
    n
    for n in ast.walk(tree)
    if isinstance(n, ast.FunctionDef) and (n.name in names or not names)
  ]
  for node in found:
    exec(compile(ast.Module([node], []), '<official>', 'exec'), space)
  missing = set(names) - set(space)
  assert not missing, missing
  return types.SimpleNamespace(**space)


class Tower(types.SimpleNamespace):
  """What stands in for a CLIP tower: a call gives what it was made with."""

  def __call__(self, *args, **kwargs):
    if hasattr(self, 'before'):
      self.before()
    return self


def hooked(module, features, queries, keys):
  """A tower whose hooks leave queries and keys in the module."""
  join = lambda x: torch.tensor(x).transpose(0, 1).flatten(1)[None]
  handle = types.SimpleNamespace(remove=lambda: None)
  linear = types.SimpleNamespace(register_forward_hook=lambda hook: handle)
  layer = types.SimpleNamespace(
    self_attn=types.SimpleNamespace(k_proj=linear, q_proj=linear)
  )

  def before():
    module.outputs['desired_q'] = join(queries)
    module.outputs['desired_k'] = join(keys)

  x = torch.tensor(features)[None]
  tower = Tower(
    before=before,
    hidden_states=[x, x],
    vision_model=types.SimpleNamespace(
      encoder=types.SimpleNamespace(layers=[layer] * 24)
    ),
  )
  return types.SimpleNamespace(
    vision_tower=tower,
    select_layer=-2,
    device='cpu',
    dtype=torch.float32,
    feature_select=lambda out: out.hidden_states[-2][:, 1:],
  )


def visionzip(root):
  source = (root / 'visionzip' / 'clip_encoder.py').read_text()
  forward = functions(source, 'forward').forward
  features, queries, keys = case.tower('VISIONZIP')
  attention = case.softmax(case.logits_of(queries, keys))
  weights = torch.zeros(*attention.shape[:2], *[attention.shape[2]] * 2)
  weights[:, :, 0] = torch.tensor(attention)
  layer = types.SimpleNamespace(metric=torch.tensor(keys).mean(dim=1))
  tower = Tower(
    attentions=[weights, None],
    hidden_states=[torch.tensor(features), None],
    vision_model=types.SimpleNamespace(
      encoder=types.SimpleNamespace(layers=[layer, None])
    ),
    _info={'dominant': case.DOMINANT, 'contextual': case.CONTEXTUAL},
  )
  me = types.SimpleNamespace(
    vision_tower=tower, device='cpu', dtype=torch.float32
  )
  y, _ = forward(me, torch.zeros(2, 1))
  return {'visionzip': y}


def angelslim(root):
  sys.path.insert(0, str(root / 'angelslim' / 'compressor'))
  base = importlib.import_module('token_compressor.base.context')
  prune = importlib.import_module('token_compressor.algorithm.visionzip')
  features, queries, keys = case.tower('VISIONZIP')
  out = {}
  for ratio in case.RATIOS:
    rows = []
    for x, q, k in zip(features, queries, keys, strict=True):
      embeds = torch.tensor(x[1:])[None]
      context = base.PruningContext(
        input_ids=torch.full((1, embeds.shape[1]), TOKEN),
        inputs_embeds=embeds,
        feature_map=embeds,
        vit_q=base.LayerTensorMap({0: torch.tensor(q)[None]}),
        vit_k=base.LayerTensorMap({0: torch.tensor(k)[None]}),
        model_config={'model_type': 'llava', 'image_token_index': TOKEN},
      )
      (matrix,), *_ = prune.visionzip(context, ratio=ratio, layer_idx=0)
      rows.append(matrix @ embeds[0])
    out[f'visionzip_mean_{ratio}'] = torch.stack(rows)
  return out


def prumerge(root):
  path = root / 'llava' / 'model' / 'multimodal_encoder' / 'clip_encoder.py'
  m = functions(path.read_text())
  m.outputs = vars(m)['token_prune_merge_advanced'].__globals__['outputs'] = {}
  half, torch.float16 = torch.float16, torch.float32
  out = {}
  for i, row in enumerate(zip(*case.tower('PRUMERGE'), strict=True)):
    me = hooked(m, *row)
    images = torch.zeros(1)
    out[f'prumerge_{i}'] = m.token_prune_merge_advanced(me, images)[0]
    for number in case.PLUS:
      y = m.token_prune_merge_advanced_plus(me, images, token_num=number)
      out[f'prumerge_plus_{number}_{i}'] = y[0]
  torch.float16 = half
  return out


def hired(root):
  path = root / 'transformers/src/transformers/models/llava_next'
  source = (path / 'modeling_llava_next.py').read_text()
  m = functions(source, 'HiRED_token_selection', 'HiRED_sub_img_budgets')
  out = {}
  for name, ((rows, columns), _) in case.CROPS.items():
    m.HiRED_sub_img_budgets.__globals__['get_anyres_image_grid_shape'] = (
      lambda *_, grid=(rows, columns): grid
    )
    config = types.SimpleNamespace(
      image_grid_pinpoints=None,
      vision_config=types.SimpleNamespace(image_size=None),
    )
    me = types.SimpleNamespace(config=config)
    me.HiRED_sub_img_budgets = lambda *args, me=me: m.HiRED_sub_img_budgets(
      me, *args
    )
    _, logits = case.crops(name)
    first, last = torch.tensor(case.softmax(logits))[:, :, :, None]
    for rate, alpha in case.HIRED:
      (mask,) = m.HiRED_token_selection(
        me,
        first,
        last,
        num_patches=[1 + rows * columns],
        full_image_patch=0,
        num_vision_tokens=case.SIDE**2,
        token_budget_rate=rate,
        alpha=alpha,
        image_sizes=[None],
      )
      out[f'hired_{name}_{rate}'] = mask
  return out


def globalcom2(root):
  m = functions(
    (root / 'llava' / 'model' / 'llava_arch.py').read_text(),
    'generate_scale_for_crop_features',
    'extract_actual_dimensions',
    'get_original_indices',
    'get_actual_crop_dimensions',
    'interpolate_and_split_cls_attn_scores',
    'select_topk_crop_features',
    'compress_thumbnail',
    'compress_crops',
  )
  half, torch.float16 = torch.float16, torch.float32
  out = {}
  for name, ((rows, columns), size) in case.CROPS.items():
    features, logits = (torch.tensor(x) for x in case.crops(name))
    score = logits[1].mean(dim=1)[:, 1:]
    scales = m.generate_scale_for_crop_features(score[0], columns, rows)
    first, _ = m.compress_thumbnail(None, features[0], score[0])
    newline = torch.full((features.shape[-1],), 1e4)
    me = types.SimpleNamespace(
      model=types.SimpleNamespace(image_newline=newline)
    )
    rest = m.compress_crops(
      me,
      features[1:],
      score[1:],
      score[0],
      columns,
      rows,
      case.SIDE,
      case.SIDE,
      size,
      scales,
    )
    rest = rest[rest[:, 0] != 1e4]
    out[f'globalcom2_{name}'] = torch.cat([first, rest])
  torch.float16 = half
  return out


def aim(root):
  m = functions((root / 'llava' / 'model' / 'token_merge.py').read_text())
  out = {}
  for number, parts in case.AIM.items():
    x = torch.tensor(case.draw(80, 2, number, 6))
    for part in parts:
      x = m.bipartite_soft_matching_merge(metric=x, r=number // part, x=x)
    out[f'aim_{number}'] = x
  return out


def dtd(root):
  path = root / 'eval' / 'qwen2_5_vl' / 'modeling_qwen2_5_vl_DTD.py'
  m = functions(path.read_text(), 'token_drop')
  c = case.DTD
  number = c['rows'] * c['columns']
  text = [case.draw(91, c['before'], 6), case.draw(92, c['after'], 6)]
  video = case.video(90, c['frames'], number).reshape(-1, 6)
  x = torch.tensor(np.concatenate([text[0], video, text[1]]))[None]
  ids = torch.full((1, x.shape[1]), 5)
  # A start token before the video and an end token behind it.
  ids[0, c['before'] - 1], ids[0, -c['after']] = 1, 2
  at = torch.arange(c['frames'] * number)
  grid = [at // number, at % number // c['columns'], at % c['columns']]
  ends = [torch.arange(3) - 3, 100 + torch.arange(2)]
  places = [torch.cat([ends[0], g + 10, ends[1]]) for g in grid]
  config = types.SimpleNamespace(vision_start_token_id=1, vision_end_token_id=2)
  out = {}
  for threshold in case.THRESHOLDS:
    y, _, kept = m.token_drop(
      types.SimpleNamespace(config=config),
      'feature',
      threshold,
      hidden_states=x,
      pixel_values_videos=torch.zeros(len(at) * 4, 3 * 2 * 14 * 14),
      video_grid_thw=torch.tensor(
        [[c['frames'], 2 * c['rows'], 2 * c['columns']]]
      ),
      position_embeddings=(torch.zeros(3, 1, x.shape[1], 1),) * 2,
      position_ids=torch.stack(places)[:, None],
      input_ids=ids,
    )
    out[f'dtd_{threshold}'] = y[0]
    out[f'dtd_positions_{threshold}'] = kept[:, 0].T
  return out


def dycoke(root):
  path = root / 'llmc' / 'compression' / 'token_reduction' / 'dycoke.py'
  m = functions(path.read_text(), 'dycole_ttm')
  out = {}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for frames in case.DYCOKE:
      x = torch.tensor(case.video(95, frames, 10))
      out[f'dycoke_{frames}'] = m.dycole_ttm(x, {'merging_ratio': case.SHARE})[
        0
      ]
  return out


def recoverable(root):
  from sklearn.neighbors import LocalOutlierFactor

  path = root / 'llava' / 'model' / 'multimodal_encoder' / 'clip_encoder.py'
  m = functions(path.read_text())
  space = m.complement_idx.__globals__
  m.outputs = space['outputs'] = {}
  space['LocalOutlierFactor'] = LocalOutlierFactor
  out = {}
  rows = zip(*case.tower('RECOVERABLE'), case.text_scores(), strict=True)
  for i, (*row, text) in enumerate(rows):
    # The cosine as the official code scales it, for CLIP's 768 features.
    score = torch.tensor(text)[None, None] * 768**-0.5
    y = m.token_recycling_with_text_in_vision_and_clustring(
      hooked(m, *row), torch.zeros(1), (score, '')
    )
    out[f'recoverable_{i}'] = y[0]
  return out


def mustdrop(root):
  sys.path.insert(0, str(root / 'llava' / 'model' / 'multimodal_encoder'))
  m = importlib.import_module('local_merge')
  torch.Tensor.cuda = lambda self, *args: self
  x = torch.tensor(case.spatial())
  y, size = m.merge_wavg(m.conditional_pooling(x, 0.8, (3, 3)), x)
  return {'mustdrop': torch.cat([y, size], dim=-1)}


def segpruner(root):
  lines = (root / 'patches' / '0001-SeGPruner.patch').read_text().split('\n')
  start = next(i for i, s in enumerate(lines) if 'def farthest_point' in s)
  end = next(
    i for i in range(start, len(lines)) if 'return image_f' in lines[i]
  )
  body = [line[5:] for line in lines[start : end + 1]]
  m = functions('\n'.join(body), 'farthest_point_sample')
  number, tokens = case.SEGPRUNER['patches'], case.SEGPRUNER['tokens']
  x = torch.tensor(case.draw(100, 2, number, 5))
  attention = torch.tensor(np.exp(case.draw(101, 2, 3, number)))
  out = {}
  for share, mix in case.MIXES:
    me = types.SimpleNamespace(
      get_visual_token_num=lambda: tokens,
      get_important_ratio=lambda share=share: share,
      get_lam=lambda mix=mix: mix,
      patch_xyz=lambda *_: torch.tensor(case.draw(102, 2, number, 3)),
    )
    me.get_model = lambda: types.SimpleNamespace(
      get_vision_tower=lambda: lambda *_, **__: (x, attention, None),
      mm_projector=lambda y: y,
    )
    _, mask = m.farthest_point_sample(me, None, None, 14, None, None)
    out[f'segpruner_{share}'] = mask
  return out


REPOSITORIES = {
  'dvlab-research+VisionZip': visionzip,
  'Tencent+AngelSlim': angelslim,
  'THU-MIG+VTC-CLS': prumerge,
  'hasanar1f+HiRED': hired,
  'xuyang-liu16+GlobalCom2': globalcom2,
  'LaVi-Lab+AIM': aim,
  'yaolinli+TimeChat-Online': dtd,
  'ModelTC+LightCompress': dycoke,
  'banjiuyufen+Recoverable-Compression': recoverable,
  'liuting20+MustDrop': mustdrop,
  'intcomp+SegPruner': segpruner,
}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('root', type=pathlib.Path)
  root = parser.parse_args().root
  arrays = {}
  for name, make in REPOSITORIES.items():
    for key, value in make(root / name).items():
      arrays[key] = value.detach().numpy()
      print(key, arrays[key].shape, arrays[key].dtype)
  out = HERE / 'merging.npz'
  np.savez_compressed(out, **arrays)
  print(f'{out}: {out.stat().st_size} bytes')


if __name__ == '__main__':
  main()
