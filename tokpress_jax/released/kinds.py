"""Layouts of names that files share, and networks that only measure."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """A layout of names.

  Attributes:
    name: of the kind.
    keys: the module with `RULES`, `expected(config)` and `config_of`.
    mark: a tensor that every such file has, or one of several of which a file
      has one; a training checkpoint may hold its model's tensors deeper, or
      with a prefix.
    parts: starts of the names of its tensors, where the model is a part of the
      file's (the projector of a language model); the others are not read.
    tokenizer: the released tokenizer that most such files belong to.
    config_of: the function of `keys` that reads a config off the shapes.
    licence: of the released weights of this kind.
    options: what `config_of` may be told that no tensor says.
    prepare: the function of `keys` that cuts and joins tensors before the rules
      name them; '' for none.
    describe: the function of `keys` that adds to a config what no tensor says,
      from the file's header and the config.json beside it; '' for none.
  """

  name: str
  keys: str
  mark: str | tuple[str, ...]
  parts: tuple[str, ...] = ()
  tokenizer: str = ''
  config_of: str = 'config_of'
  licence: str = ''
  options: tuple[str, ...] = ()
  prepare: str = ''
  describe: str = ''

  def attribute(self, name: str) -> Any:
    """Something of the module of keys."""
    return getattr(importlib.import_module(f'tokpress_jax.{self.keys}'), name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A network that measures or trains models and is none itself.

  Attributes:
    name: of the network.
    keys: the module with `RULES` and `expected()`.
    marks: a tensor of each file that its weights lie in.
    files: what those are called.
  """

  name: str
  keys: str
  marks: tuple[str, ...]
  files: tuple[str, ...]

  def attribute(self, name: str) -> Any:
    """Something of the module of keys."""
    return getattr(importlib.import_module(f'tokpress_jax.{self.keys}'), name)


NETWORKS = {
  network.name: network
  for network in (
    Network(
      name='inception',
      keys='metrics.inception',
      marks=('Conv2d_1a_3x3.conv.weight',),
      files=('pt_inception-2015-12-05-6726825d.pth',),
    ),
    Network(
      name='lpips',
      keys='losses.lpips',
      marks=('features.0.weight', 'lin0.model.1.weight'),
      files=('vgg16-397923af.pth', 'vgg.pth'),
    ),
    Network(
      name='convnext',
      keys='losses.convnext',
      marks=('features.1.0.layer_scale',),
      files=('convnext_small-0c510722.pth',),
    ),
  )
}

_APPLE = 'Apple Machine Learning Research Model licence: for research only'
_VAR_KEYS = 'generators.scale_wise_keys'
_COMPRESSORS = 'pruners.compressors'
KINDS = {
  kind.name: kind
  for kind in (
    Kind(
      name='var-vqvae',
      keys='tokenizers.var_keys',
      mark='quantize.embedding.weight',
      licence='MIT',
      options=('scales',),
    ),
    Kind(
      name='var',
      keys=_VAR_KEYS,
      mark='pos_1LC',
      tokenizer='var-vqvae',
      licence='MIT',
      options=('scales',),
    ),
    Kind(
      name='mvar',
      keys=_VAR_KEYS,
      mark='pos_1LC',
      tokenizer='var-vqvae',
      config_of='mvar_config_of',
      licence='MIT',
      options=('scales',),
    ),
    Kind(
      name='maskgit-vqgan',
      keys='tokenizers.maskgit_vqgan_keys',
      mark='encoder.mid.0.conv1.weight',
      licence='Apache-2.0',
    ),
    Kind(
      name='titok',
      keys='tokenizers.titok_keys',
      mark='latent_tokens',
      licence='Apache-2.0; for research, its authors say',
      options=('layout',),
    ),
    Kind(
      name='one-d-piece',
      keys='tokenizers.titok_keys',
      mark='latent_tokens',
      config_of='one_d_piece_config_of',
      licence='Apache-2.0',
      options=('layout',),
    ),
    Kind(
      name='elastictok',
      keys='tokenizers.elastictok_keys',
      mark='encoder.in_proj.kernel',
      licence='Apache-2.0',
      prepare='prepare',
    ),
    Kind(
      name='karl',
      keys='tokenizers.karl_keys',
      mark='rec_loss_embeddings',
      licence='not stated',
    ),
    Kind(
      name='alit',
      keys='tokenizers.alit_keys',
      mark='timestep_embedding',
      licence='not stated',
    ),
    Kind(
      name='maskgit',
      keys='generators.maskgit_keys',
      mark='lm_head.weight',
      licence='Apache-2.0; for research, its authors say',
      prepare='prepare',
    ),
    Kind(
      name='rar',
      keys='generators.rar_keys',
      mark='target_aware_pos_embed',
      tokenizer='maskgit-vqgan',
      licence='Apache-2.0; for research, its authors say',
      prepare='prepare',
    ),
    Kind(
      name='flexar',
      keys='generators.flexar_keys',
      mark='models.ar_image_model.preprocessor.embedding.weight',
      licence='not stated; the code is Apache-2.0',
      prepare='prepare',
    ),
    Kind(
      name='maskgen-vq',
      keys='generators.maskgen_keys',
      mark='cond_pooled_proj.weight',
      tokenizer='tatitok-bl128-vq',
      licence='Apache-2.0; for research, its authors say',
      prepare='prepare',
    ),
    Kind(
      name='maskgen-kl',
      keys='generators.maskgen_keys',
      mark='text_pooled_emb.weight',
      tokenizer='tatitok-bl32-vae',
      licence='Apache-2.0; for research, its authors say',
      prepare='prepare',
    ),
    Kind(
      name='vit',
      keys='models.vit_keys',
      mark=(
        'vit.layernorm.weight',
        'deit.layernorm.weight',
        'layernorm.weight',
      ),
      licence='Apache-2.0',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='vit-timm',
      keys='models.timm_vit_keys',
      mark='pos_embed',
      licence='Apache-2.0',
      describe='describe',
    ),
    Kind(
      name='clip',
      keys='models.clip_vision_keys',
      mark=('vision_model.pre_layrnorm.weight', 'pre_layrnorm.weight'),
      licence='MIT',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='clip-text',
      keys='models.clip_text_keys',
      mark='text_model.final_layer_norm.weight',
      licence='MIT',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='siglip',
      keys='models.siglip_vision_keys',
      mark='head.probe',
      licence='Apache-2.0',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='siglip-text',
      keys='models.siglip_text_keys',
      mark='final_layer_norm.weight',
      licence='Apache-2.0',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='autoencoder-kl',
      keys='tokenizers.autoencoder_kl_keys',
      mark='encoder.down_blocks.0.resnets.0.conv1.weight',
      licence=_APPLE,
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='flextok',
      keys='tokenizers.flextok_keys',
      mark='encoder.module_dict.enc_register_module.registers',
      licence=_APPLE,
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='m3',
      keys=f'{_COMPRESSORS}.m3_keys',
      mark='mm_projector.0.weight',
      parts=('mm_projector.',),
      licence='Llama 2 Community License; the code is Apache-2.0',
    ),
    Kind(
      name='mqt',
      keys=f'{_COMPRESSORS}.mqt_keys',
      mark='query_abstractor.ln_k.weight',
      parts=('query_abstractor.',),
      licence="LLaVA-1.5's and Vicuna's terms; the code is Apache-2.0",
      prepare='prepare',
    ),
    Kind(
      name='token-packer',
      keys=f'{_COMPRESSORS}.token_packer_keys',
      mark='mm_projector.clip_attn.in_proj_weight',
      parts=('mm_projector.',),
      licence='Llama 2 Community License',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='quecc',
      keys=f'{_COMPRESSORS}.quecc_keys',
      mark='mm_projector.0.clip_attn.in_proj_weight',
      parts=('mm_projector.',),
      licence='not stated',
      prepare='prepare',
    ),
    Kind(
      name='token-flex',
      keys=f'{_COMPRESSORS}.token_flex_keys',
      mark='projector.mlp.f1.weight',
      parts=('projector.',),
      licence='MIT',
    ),
    Kind(
      name='slime',
      keys=f'{_COMPRESSORS}.slime_keys',
      mark='sampler.post_qformer.ln_kv.weight',
      parts=(
        'sampler.',
        'mm_projector.projection.',
        'mm_projector.0.',
        'mm_projector.2.',
      ),
      licence='for research only, its authors say; the code is Apache-2.0',
      prepare='prepare',
    ),
    Kind(
      name='hicom-local',
      keys=f'{_COMPRESSORS}.hicom_keys',
      mark='mm_projector.local_compressor.readout.0.weight',
      parts=('mm_projector.local_',),
      config_of='local_config_of',
      licence='Apache-2.0; for non-commercial use, its authors say',
      prepare='prepare',
      describe='describe',
    ),
    Kind(
      name='hicom-global',
      keys=f'{_COMPRESSORS}.hicom_keys',
      mark='mm_projector.global_compressor.readout.0.weight',
      parts=('mm_projector.global_',),
      config_of='global_config_of',
      licence='Apache-2.0; for non-commercial use, its authors say',
      prepare='prepare',
      describe='describe',
    ),
  )
}
