"""Makes compressors.npz: what the official compressors give.

  python tests/golden/make_compressors.py ROOT

ROOT holds a checkout of each repository under its name, run with PyTorch 2.13.0
on a CPU, float32, in evaluation mode. The files import whole models, so the
classes and functions named below are taken out of them and run by themselves;
nothing of theirs is here. Weights are redrawn (redraw.py) by the shapes of
compressors_case.py, inputs drawn there; outputs only are stored.

mu-cai/matryoshka-mm ec30cd37f54934789501c6bf78ddc59e950b8d9a (Apache-2.0):
  llava/model/llava_arch.py, matryoshka_vis_token_process
gordonhu608/MQT-LLaVA 92c35d063912fd5e21d64713b710dfb6bdbdf95a (Apache-2.0):
  llava/model/multimodal_projector/builder.py, Resampler
CircleRadon/TokenPacker 771a16e7462c3afb908a0c429513ba43f709f2c1 (no licence):
  llava/model/multimodal_projector/builder.py, TokenPacker, its two fixed widths
  made small
locuslab/llava-token-compression bdedebdf8f4bf7a48c916357ec1dc5dc2720b606 (no
licence): llava/model/multimodal_projector/quecc.py, QueCC, its fixed width made
  small
Beckschen/LLaVolta 31ec1516ac282b7aa53a0d11e476f7295523ed3e (Apache-2.0):
  llava/model/language_model/llava_llama.py, visual_operating,
  visual_avg_pool1d, step_stride_and_layer
Yuliang-Liu/Monkey 498e1d92baffad55ced3f661ecaa9c4c53b400c6 (MIT):
  project/mini_monkey/internvl/model/internvl_chat/modeling_minimonkey_chat.py,
  generate, with a language model that gives the attention of the case
LiAutoAD/Ristretto-3B on huggingface.co (MIT): projector.py,
  TokenAdaptiveProjector
yfzhang114/SliME 5c89ec9fbc3dc3579323b01c8ce1dad69fa8c61b (Apache-2.0):
  llava/model/multimodal_resampler/sampler.py, Resampler; builder.py beside it,
  TextGuidedSampler with cosines, what it gives being numbers of tokens
lntzm/HICom df67ea1c21936556ebb2d15611a7cbf2fbe9ec4b (Apache-2.0):
  hicom/model/projector.py, LocalCompressor and GlobalCompressor, their fixed
  widths made small
"""

import ast
import contextlib
import functools
import io
import math
import pathlib
import random
import sys
import types
import typing

import compressors_case as case
import einops
import numpy as np
import torch
from redraw import check_sensitive, redraw
from torch import nn
from torch.nn import functional
from torch.nn.init import trunc_normal_

TOLERANCE = 1e-5
# Added to every key, they change all logits of a query alike: the softmax is
# blind to them.
INERT = (
  'ln_k.bias', 'ln_k_1.bias', 'k_proj.3.bias', 'k_norm.bias', 'k_proj.bias'
)  # fmt: skip


class Constants(ast.NodeTransformer):
  """Puts other numbers in the place of some."""

  def __init__(self, swap):
    self.swap = swap

  def visit_Constant(self, node):
    value = node.value
    if type(value) is int and value in self.swap:
      return ast.copy_location(ast.Constant(self.swap[value]), node)
    return node


def take(path, *names, swap=None, **given):
  """Classes, functions and methods of a file, without the rest of it."""
  tree = ast.parse(path.read_text())
  found = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
      found[node.name] = node  # the last one counts, as in Python
  body = [Constants(swap or {}).visit(found[name]) for name in names]
  space = {
    'torch': torch,
    'nn': nn,
    'F': functional,
    'np': np,
    'math': math,
    'random': random,
    'einops': einops,
    'partial': functools.partial,
    'trunc_normal_': trunc_normal_,
    **given,
  }
  module = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
  exec(compile(module, str(path), 'exec'), space)
  return [space[name] for name in names]


def tensors(arrays):
  return {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()}


def changed(x):
  """Some larger, some smaller by 10%: a norm undoes a common factor."""
  sign = np.random.default_rng(0).choice([-1, 1], x.shape)
  return (x * (1 + 0.1 * sign)).astype(np.float32)


def with_weights(module, shapes, run, *, rules=(), fixed=()):
  """Loads redrawn weights, checks that all matter, and runs.

  Args:
    module: of PyTorch.
    shapes: name to shape; what else it has stays.
    run: module -> tensor.
    rules: of `redraw`.
    fixed: weights that do not matter.
  """
  module = module.eval().float()
  missing = {k: v for k, v in module.state_dict().items() if k not in shapes}
  weights = redraw(shapes, rules=rules)

  def once(arrays):
    module.load_state_dict(tensors(arrays) | missing)
    with torch.no_grad():
      return run(module).numpy()

  check_sensitive(
    weights, once, tolerance=TOLERANCE, fixed=(*INERT, *fixed), change=changed
  )
  return once(weights)


def count(make):
  """Trained numbers of a module of the published size."""
  with torch.device('meta'):
    return np.array(
      sum(p.numel() for p in make().parameters() if p.requires_grad)
    )


def m3(root):
  path = root / 'matryoshka-mm/llava/model/llava_arch.py'
  (pool,) = take(path, 'matryoshka_vis_token_process')
  x = torch.from_numpy(case.draw('m3', 2, case.M3_SIDE**2, 5))
  return {f'm3/{n}': pool(None, x, n).numpy() for n in case.M3_SCALES}


def mqt(root):
  path = root / 'MQT-LLaVA/llava/model/multimodal_projector/builder.py'
  *_, resampler = take(
    path,
    'get_matry_n',
    'get_abs_pos',
    'get_2d_sincos_pos_embed',
    'get_2d_sincos_pos_embed_from_grid',
    'get_1d_sincos_pos_embed_from_grid',
    'Resampler',
  )
  c = case.MQT
  module = resampler(c['side'], c['out'], c['heads'], kv_dim=c['width'])
  size = (c['image'], c['image'])
  x = torch.from_numpy(case.draw('mqt', 2, c['image'] ** 2, c['width']))
  out = {
    f'mqt/{n}': with_weights(
      module,
      case.mqt_shapes(),
      lambda m, n=n: m(x, num_visual_tokens=n, tgt_size=size),
      rules=case.MQT_RULES,
    )
    for n in case.MQT_COUNTS
  }
  make = lambda: resampler(16, 4096, 16, kv_dim=1024)
  return out | {'mqt/parameters': count(make)}


def packer(root):
  path = root / 'TokenPacker/llava/model/multimodal_projector/builder.py'
  c = case.PACKER
  (cls,) = take(path, 'TokenPacker', swap={4096: c['joined'], 1024: c['width']})
  x, joined = (
    torch.from_numpy(case.draw(f'packer{n}', 2, c['side'] ** 2, n))
    for n in (c['width'], c['joined'])
  )
  (full,) = take(path, 'TokenPacker')
  out = {'packer/parameters': count(full)}
  for stride in case.PACKER_STRIDES:
    module = cls(
      raw_grid=c['side'],
      embed_dim=c['width'],
      num_heads=c['heads'],
      kv_dim=c['width'],
      hidden_size=c['out'],
      scale_factor=stride,
    )
    out[f'packer/{stride}'] = with_weights(
      module, case.packer_shapes(), lambda m: m((x, joined))
    )
  return out


def quecc(root):
  path = root / (
    'llava-token-compression/llava/model/multimodal_projector/quecc.py'
  )
  c = case.QUECC
  (cls,) = take(path, 'QueCC', swap={4096: c['joined']})
  x, joined = (
    torch.from_numpy(case.draw(f'quecc{n}', 2, c['side'] ** 2, n))
    for n in (c['width'], c['joined'])
  )
  text = torch.from_numpy(case.draw('quecc_text', 2, 1, c['text']))
  (full,) = take(path, 'QueCC')
  sizes = (types.SimpleNamespace(hidden_size=1024), types.SimpleNamespace())
  out = {'quecc/parameters': count(lambda: full(*sizes))}
  for stride in case.QUECC_STRIDES:
    settings = types.SimpleNamespace(
      mm_vision_output_token_count=c['side'] ** 2,
      mm_vision_output_text_embedding_size=c['text'],
      mm_vision_token_compression_kernel_size=stride,
      mm_vision_token_compression_stride=stride,
    )
    module = cls(types.SimpleNamespace(hidden_size=c['width']), settings)
    out[f'quecc/{stride}'] = with_weights(
      module,
      case.quecc_shapes(stride),
      lambda m: m((joined, text, x)),
      rules=case.QUECC_RULES,
    )
  return out


def volta(root):
  path = root / 'LLaVolta/llava/model/language_model/llava_llama.py'
  c = case.VOLTA
  operate, pool, step, lists = take(
    path,
    'visual_operating',
    'visual_avg_pool1d',
    'step_stride_and_layer',
    'set_lists',
    VISUAL_LENGTH=c['image'],
    print=lambda *_: None,
  )
  x = torch.from_numpy(case.draw('volta', 2, c['length'], c['width']))
  at = torch.from_numpy(case.VOLTA_POSITIONS)
  out = {}
  for stride in case.VOLTA_STRIDES:
    model = types.SimpleNamespace(images_idx=[[c['start']]] * 2, stride=stride)
    y, places = operate(model, x, at, functools.partial(pool, model))
    out[f'volta/{stride}'] = y.numpy()
    out[f'volta/{stride}/positions'] = places.numpy()
  model = types.SimpleNamespace(step=0)
  lists(model, [8, 2, 2, 1], [1300, 2600, 3900], [2, 2, 16, 0])
  seen = []
  for _ in range(case.VOLTA_STEPS):
    seen.append((model.stride, model.groupingLayer))
    step(model)
  out['volta/curriculum'] = np.array(seen, np.int8)
  return out


def monkey(root):
  path = root / (
    'Monkey/project/mini_monkey/internvl/model/internvl_chat/'
    'modeling_minimonkey_chat.py'
  )
  (generate,) = take(
    path, 'generate', Optional=typing.Optional, GenerationConfig=None
  )
  c = case.MONKEY
  slots = torch.arange(c['length'], dtype=torch.float32)
  image = np.arange(c['length']) - c['start']
  ids = np.where((image >= 0) & (image < 3 * c['crop']), 7, 1)
  out = {}
  for i, attention in enumerate(case.monkey_attention()):
    layers = [
      lambda x, **_: (x,),
      lambda x, a=attention, **_: (x, torch.from_numpy(a)[None]),
    ]
    inner = types.SimpleNamespace(
      layers=layers, _prepare_decoder_attention_mask=lambda *_: None
    )
    language = types.SimpleNamespace(
      model=inner,
      get_input_embeddings=lambda: lambda ids: slots[None, :, None].clone(),
      generate=lambda inputs_embeds, **_: inputs_embeds[0, :, 0],
    )
    model = types.SimpleNamespace(
      img_context_token_id=7, num_image_token=c['crop'], language_model=language
    )
    kept = generate(
      model,
      pixel_values=0,
      input_ids=torch.from_numpy(ids)[None],
      target_aspect_ratio=c['crops'],
      visual_features=slots[torch.from_numpy(ids == 7)][:, None],
      use_scm=True,
    )
    out[f'monkey/{i}'] = kept.numpy().astype(np.int8)
  return out


def flex(root):
  path = root / 'Ristretto-3B/projector.py'
  *_, projector = take(path, 'FFN', 'TokenAdaptiveProjector')
  c = case.FLEX
  x = torch.from_numpy(case.draw('flex', 2, c['side'] ** 2, c['width']))
  module = projector(c['width'], c['out'], 256)
  out = {
    f'flex/{side}': with_weights(
      module, case.flex_shapes(), lambda m, n=side**2: m(x, n)
    )
    for side in case.FLEX_SIDES
  }
  return out | {'flex/parameters': count(lambda: projector(1152, 3584, 256))}


def slime(root):
  folder = root / 'SliME/llava/model/multimodal_resampler'
  *_, resampler = take(
    folder / 'sampler.py',
    'get_abs_pos',
    'get_2d_sincos_pos_embed',
    'get_2d_sincos_pos_embed_from_grid',
    'get_1d_sincos_pos_embed_from_grid',
    'Resampler',
  )
  c = case.SLIME
  module = resampler(c['side'], c['width'], c['heads'], kv_dim=c['width'])
  x = torch.from_numpy(case.draw('slime', 2, c['crop'] ** 2, c['width']))
  out = {
    'slime/resampled': with_weights(
      module,
      case.slime_shapes(),
      lambda m: m(x, tgt_size=(c['crop'], c['crop'])),
      rules=case.SLIME_RULES,
    ),
    'slime/parameters': count(lambda: resampler(12, 1024, 8, kv_dim=1024)),
  }
  *_, sampler = take(
    folder / 'builder.py',
    'softmax_with_temperature',
    'TextGuidedRouterCosine',
    'TextGuidedSampler',
    Resampler=lambda **_: None,
  )
  width = c['width']
  tokens = torch.from_numpy(case.draw('slime_x', case.SLIME_TOKENS, width))
  text = torch.from_numpy(case.draw('slime_text', case.SLIME_WORDS, width))
  for words, mass in case.SLIME_CASES:
    config = types.SimpleNamespace(
      mm_resampler_dim=9,
      mm_resampler_topp=mass,
      mm_resampler_temp=1.0,
      mm_hidden_size=width,
      hidden_size=width,
      pad_token_id=0,
    )
    module = sampler('cosine', config).eval()
    there = torch.arange(case.SLIME_WORDS) < words
    kept = module(tokens, text, there)
    same = (kept[:, None] == tokens[None]).all(dim=-1)
    out[f'slime/{words}/{mass}'] = same.int().argmax(dim=1).numpy()
  return out


def hicom(root):
  path = root / 'HICom/hicom/model/projector.py'
  names = (
    'get_3d_position_embedding',
    'IdentityMap',
    'MultiheadAttention',
    'build_mlp',
    'GuideInjector',
    'LocalCompressor',
    'GlobalCompressor',
  )
  c = case.HICOM
  given = {
    'is_deepspeed_zero3_enabled': lambda: False,
    'Optional': typing.Optional,
    'Tuple': tuple,
  }
  swap = {1152: c['width'], 128: 4}
  *_, local, everywhere = take(path, *names, swap=swap, **given)
  config = lambda width, out, frames: types.SimpleNamespace(
    mm_vision_tower='siglip-so400m-patch14-384',
    mm_hidden_size=width,
    hidden_size=out,
    max_num_frames=frames,
  )
  out = {}

  def run(module, key, shapes, guide, scale, width, **kwargs):
    x, joint, text, words = (
      torch.from_numpy(a) for a in case.hicom_inputs(width)
    )
    frames = x.reshape(*c['grid'], -1)
    joint = joint.reshape(*c['grid'], -1)
    scale = None if scale is None else torch.tensor(scale)
    # The embeddings of images and texts share a space where the text asks.
    joint = joint if guide == 'direct' and width == c['width'] else None
    out[key] = with_weights(
      module,
      shapes,
      lambda m: m(
        frames,
        joint,
        words if guide == 'fine' else text,
        'video',
        scale,
        None if scale is None else torch.tensor(-3.0),
      ).reshape(-1, c['out']),
      rules=case.HICOM_RULES,
      **kwargs,
    )

  for name, (guide, adapt, scale) in case.HICOM_LOCAL.items():
    module = local(
      config(c['width'], c['out'], 8),
      *c['sizes'],
      *(part in adapt for part in 'qkvg'),
      force_use_guide=guide,
    )
    shapes = case.local_shapes(guide, adapt)
    run(module, f'hicom/local/{name}', shapes, guide, scale, c['width'])
  for name, (guide, adapt, scale) in case.HICOM_GLOBAL.items():
    module = everywhere(
      config(c['wide'], c['out'], 8),
      case.HICOM_QUERIES,
      True,
      'g' in adapt,
      force_use_guide=guide,
    )
    shapes = case.global_shapes(guide, adapt)
    fixed = ('query',) if guide == 'direct' else ()
    run(
      module, f'hicom/global/{name}', shapes, guide, scale, c['wide'],
      fixed=fixed,
    )  # fmt: skip
  *_, local, everywhere = take(path, *names, **given)
  full = config(1152, 3584, 1)
  out['hicom/local/parameters'] = count(
    lambda: local(full, 4, 3, force_use_guide='direct')
  )
  out['hicom/global/parameters'] = count(
    lambda: everywhere(full, 32, force_use_guide='coarse')
  )
  return out


def main():
  root = pathlib.Path(sys.argv[1])
  out = {}
  for method in (m3, mqt, packer, quecc, volta, monkey, flex, slime, hicom):
    with contextlib.redirect_stdout(io.StringIO()):
      out |= method(root)
  np.savez_compressed(case.GOLDEN, **out)
  print(case.GOLDEN, case.GOLDEN.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
