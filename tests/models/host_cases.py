"""Tiny hosts of each released layout: names and shapes of their tensors."""

from redraw import redraw

from tokpress_jax.models import ClipTextConfig, ViTConfig

D, HIDDEN, DEPTH, CLASSES, P = 128, 192, 3, 7, 24
# By its convention a width of 128 has two heads, as these have.
_TOWER = {
  'image_size': 12,
  'patch': 4,
  'width': D,
  'depth': DEPTH,
  'heads': 2,
  'mlp_ratio': HIDDEN / D,
}
_IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
_CLIP = {
  'mean': (0.48145466, 0.4578275, 0.40821073),
  'std': (0.26862954, 0.26130258, 0.27577711),
  'classes': 0,
  'activation': 'gelu_quick',
  'patch_bias': False,
  'norm_first': True,
  'norm_eps': 1e-5,
}
_PLAIN = {**_TOWER, 'norm_eps': 1e-12}
_DEIT = {**_PLAIN, **_IMAGENET, 'classes': CLASSES, 'distillation_token': True}
CONFIGS = {
  'vit': ViTConfig(**_PLAIN, classes=CLASSES),
  'vit-tower': ViTConfig(**_PLAIN, classes=0),
  'deit': ViTConfig(**_DEIT, pool='distilled'),
  'deit-one': ViTConfig(**_DEIT),
  'clip': ViTConfig(**_TOWER, **_CLIP, features=P),
  'clip-tower': ViTConfig(**_TOWER, **_CLIP),
  'siglip': ViTConfig(
    **_TOWER,
    remainder='drop',
    classes=0,
    activation='gelu_tanh',
    class_token=False,
    pool='attention',
  ),
  'siglip-text': ClipTextConfig(
    vocabulary=50,
    length=9,
    width=D,
    depth=DEPTH,
    heads=2,
    mlp_ratio=HIDDEN / D,
    activation='gelu_tanh',
    visibility='all',
    pool='last',
    features=P,
    project_bias=True,
    norm_eps=1e-6,
  ),
}


def kind(name):
  """The layout of a case."""
  return {
    'vit-tower': 'vit',
    'deit': 'vit',
    'deit-one': 'vit',
    'clip-tower': 'clip',
  }.get(name, name)


def _dense(name, outputs, inputs):
  return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def _norm(name):
  return {f'{name}.weight': (D,), f'{name}.bias': (D,)}


def vit(own='vit.', special=1, heads=('classifier',)):
  """ViT and DeiT of transformers."""
  embed = f'{own}embeddings.'
  shapes = {
    f'{embed}cls_token': (1, 1, D),
    f'{embed}position_embeddings': (1, 9 + special, D),
    f'{embed}patch_embeddings.projection.weight': (D, 3, 4, 4),
    f'{embed}patch_embeddings.projection.bias': (D,),
    **_norm(f'{own}layernorm'),
  }
  if special == 2:
    shapes[f'{embed}distillation_token'] = (1, 1, D)
  for i in range(DEPTH):
    layer = f'{own}encoder.layer.{i}.'
    for part in ('query', 'key', 'value'):
      shapes |= _dense(f'{layer}attention.attention.{part}', D, D)
    shapes |= _dense(f'{layer}attention.output.dense', D, D)
    shapes |= _dense(f'{layer}intermediate.dense', HIDDEN, D)
    shapes |= _dense(f'{layer}output.dense', D, HIDDEN)
    shapes |= _norm(f'{layer}layernorm_before')
    shapes |= _norm(f'{layer}layernorm_after')
  for head in heads:
    shapes |= _dense(head, CLASSES, D)
  return shapes


def _layers(own):
  shapes = {}
  for i in range(DEPTH):
    layer = f'{own}encoder.layers.{i}.'
    for part in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
      shapes |= _dense(f'{layer}self_attn.{part}', D, D)
    shapes |= _dense(f'{layer}mlp.fc1', HIDDEN, D)
    shapes |= _dense(f'{layer}mlp.fc2', D, HIDDEN)
    shapes |= _norm(f'{layer}layer_norm1') | _norm(f'{layer}layer_norm2')
  return shapes


def clip(own='vision_model.'):
  """CLIP's image encoder."""
  shapes = {
    f'{own}embeddings.class_embedding': (D,),
    f'{own}embeddings.patch_embedding.weight': (D, 3, 4, 4),
    f'{own}embeddings.position_embedding.weight': (10, D),
    **_norm(f'{own}pre_layrnorm'),
    **_layers(own),
    **_norm(f'{own}post_layernorm'),
  }
  return shapes | ({'visual_projection.weight': (P, D)} if own else {})


def siglip():
  """SigLIP's image encoder."""
  own = 'vision_model.'
  return {
    f'{own}embeddings.patch_embedding.weight': (D, 3, 4, 4),
    f'{own}embeddings.patch_embedding.bias': (D,),
    f'{own}embeddings.position_embedding.weight': (9, D),
    **_layers(own),
    **_norm(f'{own}post_layernorm'),
    f'{own}head.probe': (1, 1, D),
    f'{own}head.attention.in_proj_weight': (3 * D, D),
    f'{own}head.attention.in_proj_bias': (3 * D,),
    **_dense(f'{own}head.attention.out_proj', D, D),
    **_norm(f'{own}head.layernorm'),
    **_dense(f'{own}head.mlp.fc1', HIDDEN, D),
    **_dense(f'{own}head.mlp.fc2', D, HIDDEN),
  }


def siglip_text():
  """SigLIP's text encoder."""
  own = 'text_model.'
  return {
    f'{own}embeddings.token_embedding.weight': (50, D),
    f'{own}embeddings.position_embedding.weight': (9, D),
    **_layers(own),
    **_norm(f'{own}final_layer_norm'),
    **_dense(f'{own}head', P, D),
  }


SHAPES = {
  'vit': vit(),
  'vit-tower': vit(own='', heads=()),
  'deit': vit('deit.', 2, ('cls_classifier', 'distillation_classifier')),
  'deit-one': vit('deit.', 2),
  'clip': clip(),
  'clip-tower': clip(''),
  'siglip': siglip(),
  'siglip-text': siglip_text(),
}
RULES = (
  ('query.weight', 2, 0),
  ('q_proj.weight', 2, 0),
  ('in_proj_weight', 2, 0),
  ('probe', 3, 0),
  ('embedding.weight', 2, 0),
)


def tensors(name):
  """Released name -> array, all redrawn."""
  return redraw(SHAPES[name], rules=RULES)
