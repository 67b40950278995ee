"""Redrawn weights of the official compressors, in our layout."""

import compressors_case as case
import numpy as np
from redraw import redraw


def linear(drawn, name):
  """A layer; without a bias if it has none."""
  out = {'kernel': drawn[f'{name}.weight'].T}
  if f'{name}.bias' in drawn:
    out['bias'] = drawn[f'{name}.bias']
  return out


def norm(drawn, name):
  return {'scale': drawn[f'{name}.weight'], 'bias': drawn[f'{name}.bias']}


def mlp(drawn, name, *, first=0):
  return {
    f'fc{i + 1}': linear(drawn, f'{name}.{first + 2 * i}') for i in range(2)
  }


def attention(drawn, name):
  weights = np.split(drawn[f'{name}.in_proj_weight'], 3)
  biases = np.split(drawn[f'{name}.in_proj_bias'], 3)
  out = {
    key: {'kernel': w.T, 'bias': b}
    for key, w, b in zip('qkv', weights, biases, strict=True)
  }
  return out | {'out': linear(drawn, f'{name}.out_proj')}


def mqt():
  drawn = redraw(case.mqt_shapes(), rules=case.MQT_RULES)
  return {
    'query': drawn['query'],
    'attn': attention(drawn, 'attn'),
    'proj': {'kernel': drawn['proj']},
    **{f'norm_{x}': norm(drawn, f'ln_{x}') for x in 'qkv'},
  }


def packer():
  drawn = redraw(case.packer_shapes())
  return {
    'q': linear(drawn, 'q_proj_1'),
    **{x: mlp(drawn, f'{x}_proj_1') for x in 'kv'},
    **{f'norm_{x}': norm(drawn, f'ln_{x}_1') for x in 'qkv'},
    'attn': attention(drawn, 'clip_attn'),
    'mlp': mlp(drawn, 'mlp'),
  }


def quecc(stride):
  drawn = redraw(case.quecc_shapes(stride), rules=case.QUECC_RULES)
  return {
    **{x: mlp(drawn, f'{x}_proj') for x in 'qkv'},
    **{f'norm_{x}': norm(drawn, f'{x}_proj.3') for x in 'qkv'},
    'text': linear(drawn, 'text_projection.0'),
    'norm_text': norm(drawn, 'text_projection.1'),
    'down': {
      'kernel': drawn['q_downsample.weight'].transpose(2, 3, 1, 0),
      'bias': drawn['q_downsample.bias'],
    },
    'attn': attention(drawn, 'clip_attn'),
  }


def slime():
  drawn = redraw(case.slime_shapes(), rules=case.SLIME_RULES)
  return {
    'query': drawn['query'],
    'attn': attention(drawn, 'attn'),
    'norm_q': norm(drawn, 'ln_q'),
    'norm_x': norm(drawn, 'ln_kv'),
    'norm_out': norm(drawn, 'ln_post'),
  }


def flex():
  drawn = redraw(case.flex_shapes())
  names = {'gate': 'f1', 'value': 'f2', 'out_proj': 'g'}
  return {
    'norm': norm(drawn, 'mlp.layernorm'),
    **{ours: linear(drawn, f'mlp.{name}') for ours, name in names.items()},
  }


def adapted(drawn, name):
  out = {
    'norm': norm(drawn, f'{name}_norm'),
    'alpha': drawn[f'{name}_alpha'],
  }
  if f'{name}_proj.weight' in drawn:
    return out | {'fc1': linear(drawn, f'{name}_proj')}
  return out | {'mlp': mlp(drawn, f'{name}_proj')}


def projections(drawn, name):
  return {
    key: linear(drawn, f'{name}.{key}_proj') for key in ('q', 'k', 'v', 'out')
  }


def guide(drawn, kind, adapt):
  name, out = 'guide_injector', {}
  if f'{name}.text2qk_proj.0.weight' in drawn:
    out['project'] = mlp(drawn, f'{name}.text2qk_proj')
  if 'g' in adapt:
    out['adapt'] = adapted(drawn, f'{name}.guide')
  if kind == 'coarse':
    out['modulation'] = mlp(drawn, f'{name}.coarse_proj')
  if kind == 'fine':
    out['attn'] = projections(drawn, f'{name}.fine_proj')
  if kind in ('coarse', 'fine'):
    out['norm'] = norm(drawn, f'{name}.{kind}_norm')
  return {'guide': out} if out else {}


def hicom_local(kind, adapt):
  drawn = redraw(case.local_shapes(kind, adapt), rules=case.HICOM_RULES)
  parts = {f'adapt_{x}': adapted(drawn, x) for x in 'qkv' if x in adapt}
  return {
    **guide(drawn, kind, adapt),
    **parts,
    'readout': mlp(drawn, 'readout'),
  }


def hicom_global(kind, adapt):
  drawn = redraw(case.global_shapes(kind, adapt), rules=case.HICOM_RULES)
  return {
    **guide(drawn, kind, adapt),
    'query': drawn['query'],
    'attn': projections(drawn, 'attn_layer'),
    'readout': mlp(drawn, 'readout'),
  }
