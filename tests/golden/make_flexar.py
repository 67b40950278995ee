"""Makes flexar.npz: what the official classes give.

  python tests/golden/make_flexar.py SEARCH_OVER_TOKENS L3M

EPFL-VILAB/search-over-tokens, commit e7564c55f8bcb9e4ccab5bd3868cfe01e3ef28f7
(Apache-2.0): ARImageEmbedPreprocessor, GeneralizedAttentionWithMask,
TextToEmbedMLP and ImageGenerationWrapper of flextok_ar; apple/ml-l3m, commit
e6376a3017293641bd39fb2dae66546f102fb75f (Apple's own licence): Transformer,
TransformerDecoder, EfficientAttention, SwiGLUFFN, MLP and LinearClassifier.
PyTorch 2.13.0 on a CPU, float32. How the released models put these together is
in a `config.yaml` that lies beside their weights and was not at hand: the two
models here cover both trunks, a gated and a plain MLP, with and without biases
and norms of queries and keys. Texts' features stand in for T5's. Weights are
redrawn (redraw.py), inputs drawn from seed 1 (flexar_case.py); multinomial
draws become argmax(log p + g).
"""

import argparse
import functools
import pathlib
import sys
import types

import flexar_case as case
import numpy as np
import torch
from redraw import check_sensitive, pack, redraw
from titok_case import tilted

HERE = pathlib.Path(__file__).parent
C = case.SMALL
TOLERANCE = 1e-5


def stand_in(name, **contents):
  module = sys.modules[name] = types.ModuleType(name)
  vars(module).update(contents)
  return module


def prepare(flexar, l3m):
  """Makes the official modules importable, without their packages' rest."""
  roots = {
    'flextok_ar': pathlib.Path(flexar) / 'flextok_ar',
    'l3m': pathlib.Path(l3m) / 'src' / 'l3m',
  }
  for name, root in roots.items():
    for folder in (root, *root.rglob('*')):
      if folder.is_dir():
        parts = folder.relative_to(root).parts
        stand_in('.'.join((name, *parts)), __path__=[str(folder)])
  nothing = lambda *args, **options: None
  stand_in('timm')
  stand_in('timm.layers', DropPath=None, trunc_normal_=nothing)
  stand_in('timm.layers.weight_init', variance_scaling_=nothing)


class Given(torch.nn.Module):
  """In place of T5: features that are given, by name, through the MLP."""

  read_key, singleton_value = 'text', ''
  text_embeddings_mask_write_key = 'mask'

  def __init__(self, mlp):
    super().__init__()
    self.mlp = mlp

  def forward(self, data):
    _, _, features, valid, _ = case.inputs()
    rows = [int(name) if name else 3 for name in data['text']]
    data['memory'] = self.mlp(torch.from_numpy(features[rows]))
    bias = np.where(valid[rows], 0.0, -np.inf).astype(np.float32)
    bias = np.repeat(bias[:, None], C['tokens'], axis=1)
    data['mask'] = torch.from_numpy(bias)
    return data


def build(kind):
  from flextok_ar.model.attention import GeneralizedAttentionWithMask
  from flextok_ar.model.preprocessors import ARImageEmbedPreprocessor
  from flextok_ar.model.text_encoder import TextToEmbedMLP
  from l3m.model.heads.classifier import LinearClassifier
  from l3m.model.layers.attention import EfficientAttention
  from l3m.model.layers.ffn import SwiGLUFFN
  from l3m.model.meta_models import InSeriesMetaModels, MetaModel
  from l3m.model.trunks.transformer import Transformer
  from l3m.model.trunks.transformer_decoder import TransformerDecoder

  width, text = C['width'], kind == 'text'
  attention = functools.partial(
    EfficientAttention,
    dim=width,
    num_heads=C['heads'],
    qkv_bias=not text,
    is_causal=True,
    qk_norm=functools.partial(torch.nn.LayerNorm, eps=1e-6) if text else None,
  )
  common = {
    'read_key': 'x',
    'write_key': 'x',
    'embed_dim': width,
    'num_blocks': C['layers'],
    'post_trunk_norm': True,
    'use_bias': not text,
    'weight_init_style': None,
  }
  if text:
    trunk = TransformerDecoder(
      encoder_output_key='memory',
      self_attn_mask_read_key='mask',
      self_attn_target=attention,
      cross_attn_target=functools.partial(
        GeneralizedAttentionWithMask,
        dim=width,
        encoder_dim=width,
        num_heads=C['heads'],
        qk_norm=functools.partial(torch.nn.LayerNorm, eps=1e-6),
      ),
      ffn_target=functools.partial(SwiGLUFFN, multiple_of=8),
      **common,
    )
  else:
    trunk = Transformer(attn_target=attention, mlp_ratio=3, **common)
  model = MetaModel(
    preprocessor=ARImageEmbedPreprocessor(
      token_grid_size=(C['tokens'], 1),
      codebook_size=C['codes'],
      embed_dim=width,
      pos_embed_type='absolute',
      num_classes=None if text else C['classes'],
      write_key=['x', 'targets'],
    ),
    trunk=trunk,
    head=LinearClassifier(
      in_features=width,
      out_features=C['codes'],
      use_bias=False,
      read_key='x',
      write_key='logits',
    ),
  )
  models = {'ar_image_model': model}
  if text:
    gelu = functools.partial(torch.nn.GELU, approximate='tanh')
    mlp = TextToEmbedMLP(C['text'], width, act_layer=gelu)
    models = {'text_encoder': Given(mlp), **models}
  return InSeriesMetaModels(models).eval()


def put(module, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  module.load_state_dict(tensors)


def logits_of(module, kind):
  """Teacher-forced; the last row is of no class or the empty text."""
  codes, labels, *_ = case.inputs()
  data = {'image_token_ids': torch.from_numpy(codes)}
  if kind == 'text':
    data['text'] = ['0', '1', '']
  else:
    none = labels == C['classes']
    data['target'] = torch.from_numpy(np.where(none, -1, labels))
  for name in module.models:
    data = module(data, model_name=name)
  return data['logits'].numpy()


def sampled(module, kind):
  """Codes drawn with given noise, guided."""
  from flextok_ar.model import generation

  _, labels, *_, noise = case.inputs()
  step = iter(range(C['tokens']))

  def multinomial(p, num_samples, replacement, generator):
    del num_samples, replacement, generator
    g = torch.from_numpy(noise[:2, next(step)])
    return (torch.log(p) + g).argmax(-1, keepdim=True)

  kept, torch.multinomial = torch.multinomial, multinomial
  name = 'text' if kind == 'text' else 'label'
  wrapper = generation.ImageGenerationWrapper(
    module, model_type=f'ar_{name}_to_image_model'
  )
  module.generation(True)
  data = {'text': ['0', '1']}
  if kind == 'class':
    data = {'target': torch.from_numpy(labels[:2])}
    preprocessor = module.models['ar_image_model'].preprocessor
    # It writes 0 over the -1 of no class in the labels that it was given, so
    # that from the second step on class 0 would stand for no class.
    forward = preprocessor.forward

    def keep(data):
      given = data['target'].clone()
      return {**forward(data), 'target': given}

    preprocessor.forward = keep
  codes = wrapper.generate_ids(
    data, cfg_factor=case.GUIDANCE[kind], num_keep_tokens=C['tokens']
  )
  module.generation(False)
  torch.multinomial = kept
  return codes.numpy()


def make(kind):
  module = build(kind)
  shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
  weights = redraw(shapes, rules=case.RULES)
  put(module, weights)
  logits = logits_of(module, kind)
  codes = sampled(module, kind)
  np.testing.assert_array_equal(logits_of(module, kind), logits)

  def run(changed):
    put(module, changed)
    out = logits_of(module, kind)
    put(module, weights)
    return out

  # What is added to all keys alike moves no softmax.
  check_sensitive(
    weights, run, tolerance=TOLERANCE, fixed=('k_norm.bias',), change=tilted
  )
  arrays = {'shapes': pack(shapes), 'logits': logits, 'codes': codes}
  return {f'{kind}/{k}': v for k, v in arrays.items()}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('flexar')
  parser.add_argument('l3m')
  flags = parser.parse_args()
  torch.set_grad_enabled(False)
  prepare(flags.flexar, flags.l3m)
  arrays = make('text') | make('class')
  path = HERE / 'flexar.npz'
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
