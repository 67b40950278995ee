"""Inputs and sizes of compressors.npz."""

import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'compressors.npz'

# M3: a grid of 12 x 12, and its numbers of tokens.
M3_SIDE, M3_SCALES = 12, (144, 36, 9, 1)
# MQT: 4 x 4 queries of 8 features, images of 6 x 6, 12 features out.
MQT = {'side': 4, 'width': 8, 'heads': 2, 'out': 12, 'image': 6}
MQT_COUNTS = (16, 6, 1)
# Region attention: an image of side x side; levels joined, width, features out.
PACKER = {'side': 12, 'joined': 24, 'width': 8, 'out': 12, 'heads': 2}
PACKER_STRIDES = (2, 3, 4)
QUECC = {'side': 8, 'joined': 24, 'width': 16, 'text': 12, 'heads': 8}
QUECC_STRIDES = (4, 2)
# LLaVolta: rows of 12 tokens, the 8 of an image from slot 3; positions of two
# rows, the second beyond what half precision holds.
VOLTA = {'length': 12, 'start': 3, 'image': 8, 'width': 4}
VOLTA_STRIDES = (8, 4, 2)
VOLTA_POSITIONS = np.arange(12) + np.array([[0], [2047]])
VOLTA_STEPS = 4_000


# Mini-Monkey: rows of 20 tokens, from slot 3 two fine crops of 4 tokens and a
# coarse one.
MONKEY = {'length': 20, 'start': 3, 'crop': 4, 'crops': (1, 2), 'heads': 3}
# Large weights of queries and keys, so that attention is far from a mean.
MQT_RULES = (('in_proj_weight', 2, 0), ('query', 3, 0))
QUECC_RULES = (('in_proj_weight', 2, 0),)


def draw(name, *shape, scale=1.0):
  rng = np.random.default_rng([11, zlib.crc32(name.encode())])
  return (scale * rng.normal(size=shape)).astype(np.float32)


def mha(name, width):
  """Names and shapes of PyTorch's attention."""
  return {
    f'{name}.in_proj_weight': (3 * width, width),
    f'{name}.in_proj_bias': (3 * width,),
    f'{name}.out_proj.weight': (width, width),
    f'{name}.out_proj.bias': (width,),
  }


def layer(name, features, width, *, bias=True):
  out = {f'{name}.weight': (features, width)}
  return out | ({f'{name}.bias': (features,)} if bias else {})


def norm(name, width):
  return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def mqt_shapes():
  width = MQT['width']
  return {
    'query': (MQT['side'] ** 2, width),
    **mha('attn', width),
    **norm('ln_q', width),
    **norm('ln_k', width),
    **norm('ln_v', width),
    'proj': (width, MQT['out']),
  }


def packer_shapes():
  joined, width, out = PACKER['joined'], PACKER['width'], PACKER['out']
  shapes = layer('q_proj_1', width, width, bias=False)
  for x in 'kv':
    shapes |= layer(f'{x}_proj_1.0', width, joined)
    shapes |= layer(f'{x}_proj_1.2', width, width)
  for x in 'qkv':
    shapes |= norm(f'ln_{x}_1', width)
  shapes |= mha('clip_attn', width)
  return shapes | layer('mlp.0', out, width) | layer('mlp.2', out, out)


def quecc_shapes(stride):
  joined, width, text = (QUECC[k] for k in ('joined', 'width', 'text'))
  shapes = mha('clip_attn', width)
  for x in 'qkv':
    shapes |= layer(f'{x}_proj.0', width, width if x == 'q' else joined)
    shapes |= layer(f'{x}_proj.2', width, width) | norm(f'{x}_proj.3', width)
  shapes['q_downsample.weight'] = (width, 1, stride, stride)
  shapes['q_downsample.bias'] = (width,)
  shapes |= layer('text_projection.0', width, text)
  return shapes | norm('text_projection.1', width)


def monkey_attention():
  """Of two images: float32 [2, A, N, N], rows of sum 1."""
  c = MONKEY
  logits = draw('monkey', 2, c['heads'], c['length'], c['length'], scale=2.0)
  seen = np.tril(np.exp(logits))
  return seen / seen.sum(axis=-1, keepdims=True)
