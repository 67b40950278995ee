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
# SliME: 3 x 3 queries of 8 features, crops of 6 x 6; then 24 tokens and 6
# words, the last of which is padding in the second case.
SLIME = {'side': 3, 'width': 8, 'heads': 2, 'crop': 6}
SLIME_TOKENS, SLIME_WORDS = 24, 6
SLIME_CASES = ((6, 0.5), (5, 0.95), (6, 1.0))
# TokenFLEX: a grid of 7 x 7, sides of new ones.
FLEX = {'side': 7, 'width': 8, 'out': 6}
FLEX_SIDES = (2, 3, 5, 7)
# HICom: frames, rows and columns, regions of 4 x 3 x 3, features of images and
# texts, of the global compressor, out; words. Name to guide, what is adapted,
# and the logarithm of the logits' scale.
HICOM = {'grid': (7, 5, 6), 'sizes': (4, 3), 'width': 8, 'wide': 16, 'out': 6}
HICOM_WORDS, HICOM_QUERIES = 5, 3
HICOM_LOCAL = {
  'plain': ('off', '', None),
  'direct': ('direct', 'kv', None),
  'scaled': ('direct', '', 2.0),
  'coarse': ('coarse', 'qkvg', None),
  'fine': ('fine', 'g', None),
}
HICOM_GLOBAL = {
  'plain': ('off', '', None),
  'direct': ('direct', '', None),
  'coarse': ('coarse', 'g', None),
  'scaled': ('coarse', '', 2.0),
  'fine': ('fine', 'g', None),
}
# Large weights of queries and keys, so that attention is far from a mean.
MQT_RULES = (('in_proj_weight', 2, 0), ('query', 3, 0))
QUECC_RULES = (('in_proj_weight', 2, 0),)
SLIME_RULES = (('in_proj_weight', 2, 0), ('query', 3, 0))
HICOM_RULES = (
  ('alpha', 1, 0.5),
  ('query', 3, 0),
  *(
    (f'{name}.{x}_proj', 3, 0) for name in ('fine_proj', 'layer') for x in 'qk'
  ),
)


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


def mqt_shapes(sizes=MQT):
  width = sizes['width']
  return {
    'query': (sizes['side'] ** 2, width),
    **mha('attn', width),
    **norm('ln_q', width),
    **norm('ln_k', width),
    **norm('ln_v', width),
    'proj': (width, sizes['out']),
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


def slime_shapes():
  width = SLIME['width']
  return {
    'query': (SLIME['side'] ** 2, width),
    **mha('attn', width),
    **norm('ln_q', width),
    **norm('ln_kv', width),
    **norm('ln_post', width),
  }


def two_layers(name, features, width):
  return layer(f'{name}.0', features, width) | layer(
    f'{name}.2', features, features
  )


def projections(name, width):
  out = {}
  for part in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
    out |= layer(f'{name}.{part}', width, width)
  return out


def guide_shapes(guide, adapt, text, width):
  name, shapes = 'guide_injector', {}
  if guide == 'off':
    return shapes
  if text != width:
    shapes |= two_layers(f'{name}.text2qk_proj', width, text)
  if 'g' in adapt:
    shapes |= two_layers(f'{name}.guide_proj', width, width)
    shapes |= norm(f'{name}.guide_norm', width)
    shapes[f'{name}.guide_alpha'] = (1,)
  if guide == 'coarse':
    shapes |= two_layers(f'{name}.coarse_proj', 2 * width, width)
    shapes |= norm(f'{name}.coarse_norm', width)
  if guide == 'fine':
    shapes |= projections(f'{name}.fine_proj', width)
    shapes |= norm(f'{name}.fine_norm', width)
  return shapes


def local_shapes(guide, adapt):
  width = HICOM['width']
  shapes = guide_shapes(guide, adapt, width, width)
  for part in 'qkv':
    if part in adapt:
      shapes |= (
        layer('q_proj', width, width, bias=False)
        if part == 'q'
        else two_layers(f'{part}_proj', width, width)
      )
      shapes |= norm(f'{part}_norm', width)
      shapes[f'{part}_alpha'] = (1,)
  return shapes | two_layers('readout', HICOM['out'], width)


def global_shapes(guide, adapt):
  width = HICOM['wide']
  return {
    'query': (HICOM_QUERIES, width),
    **guide_shapes(guide, adapt, HICOM['width'], width),
    **projections('attn_layer', width),
    **two_layers('readout', HICOM['out'], width),
  }


def hicom_inputs(width):
  """Features and joint embeddings [N, D], a pooled text [D], words [M, D]."""
  number = int(np.prod(HICOM['grid']))
  return (
    draw(f'hicom{width}', number, width),
    draw('hicom_joint', number, HICOM['width']),
    draw('hicom_text', HICOM['width']),
    draw('hicom_words', HICOM_WORDS, HICOM['width']),
  )


def flex_shapes():
  width = FLEX['width']
  return {
    **norm('mlp.layernorm', width),
    **layer('mlp.f1', 3 * width, width),
    **layer('mlp.f2', 3 * width, width),
    **layer('mlp.g', FLEX['out'], 3 * width),
  }
