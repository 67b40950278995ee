"""Every model, pruner and task by name: what there is, and where it lives.

A name is what a `config.json` may hold as "type"; nothing else is ever
imported by name. Adding a method is adding one row.
"""

import dataclasses
import importlib
from typing import Literal, get_args

from tokpress_jax.errors import UserError, did_you_mean

Family = Literal[
  'tokenizer',
  'generator',
  'model',
  'encoder',
  'compressor',
  'reader',
  'pruner',
  'task',
  'quantizer',
  'discriminator',
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One row of the registry.

  Attributes:
    name: The name in JSON and on the command line.
    family: What it is.
    target: 'module:class' of its config dataclass.
    paper: Where it is from.
    evidence: How we know that it is right, see the README.
    licence: Of the official code and weights that it was compared with.
  """

  name: str
  family: Family
  target: str
  paper: str = ''
  evidence: str = ''
  licence: str = ''


def _row(name: str, family: Family, target: str, **facts: str) -> Entry:
  target = f'tokpress_jax.{target}'
  return Entry(name=name, family=family, target=target, **facts)


_ENTRIES = {
  entry.name: entry
  for entry in (
    _row(
      'one_d',
      'tokenizer',
      'tokenizers.one_d:OneDConfig',
      paper='TiTok, arXiv:2406.07550; One-D-Piece, arXiv:2501.10064',
      evidence='behaviour',
    ),
    _row(
      'multi_scale',
      'tokenizer',
      'tokenizers.multi_scale:MultiScaleConfig',
      paper='VAR, arXiv:2404.02905',
      evidence='behaviour',
    ),
    _row(
      'var_vqvae',
      'tokenizer',
      'tokenizers.var:VARTokenizerConfig',
      paper='VAR, arXiv:2404.02905',
      evidence='official',
      licence='MIT',
    ),
    _row(
      'maskgit_vqgan',
      'tokenizer',
      'tokenizers.maskgit_vqgan:MaskGITVQGANConfig',
      paper='MaskGIT, arXiv:2202.04200',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'titok',
      'tokenizer',
      'tokenizers.titok:TiTokConfig',
      paper='TiTok, arXiv:2406.07550; TA-TiTok, arXiv:2501.07730; '
      'One-D-Piece, arXiv:2501.10064',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'elastictok',
      'tokenizer',
      'tokenizers.elastictok:ElasticTokConfig',
      paper='ElasticTok, arXiv:2410.08368',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'autoencoder_kl',
      'tokenizer',
      'tokenizers.autoencoder_kl:AutoencoderKLConfig',
      paper='LDM, arXiv:2112.10752',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'flextok',
      'tokenizer',
      'tokenizers.flextok:FlexTokConfig',
      paper='FlexTok, arXiv:2502.13967',
      evidence='official',
      licence='Apple, for research only',
    ),
    _row(
      'alit',
      'tokenizer',
      'tokenizers.alit:ALITConfig',
      paper='ALIT, arXiv:2411.02393',
      evidence='official',
      licence='not stated',
    ),
    _row(
      'karl',
      'tokenizer',
      'tokenizers.karl:KARLConfig',
      paper='KARL, arXiv:2507.07995',
      evidence='official',
      licence='not stated',
    ),
    _row(
      'scale_wise',
      'generator',
      'generators.scale_wise:ScaleWiseConfig',
      paper='VAR, arXiv:2404.02905; MVAR, arXiv:2505.12742',
      evidence='official',
      licence='MIT',
    ),
    _row(
      'next_token',
      'generator',
      'generators.next_token:NextTokenConfig',
      paper='LlamaGen, arXiv:2406.06525',
      evidence='behaviour',
    ),
    _row(
      'maskgit',
      'generator',
      'generators.maskgit:MaskGITConfig',
      paper='MaskGIT, arXiv:2202.04200; TiTok, arXiv:2406.07550',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'rar',
      'generator',
      'generators.rar:RARConfig',
      paper='RAR, arXiv:2411.00776',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'flexar',
      'generator',
      'generators.flexar:FlexARConfig',
      paper='FlexTok, arXiv:2502.13967; SoTo, arXiv:2604.15453',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'maskgen',
      'generator',
      'generators.maskgen:MaskGenConfig',
      paper='MaskGen, arXiv:2501.07730',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'vit',
      'model',
      'models.vit_config:ViTConfig',
      paper='ViT, arXiv:2010.11929; DeiT, arXiv:2012.12877; '
      'CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343',
      evidence='official',
      licence='Apache-2.0; CLIP: MIT',
    ),
    _row(
      'clip',
      'model',
      'models.clip:CLIPConfig',
      paper='CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343',
      evidence='official',
      licence='MIT',
    ),
    _row(
      'clip_text',
      'encoder',
      'models.clip_text:ClipTextConfig',
      paper='CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343',
      evidence='official',
      licence='MIT',
    ),
    _row(
      'm3_projector',
      'compressor',
      'pruners.compressors.m3:M3ProjectorConfig',
      paper='M3, arXiv:2405.17430',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'mqt',
      'compressor',
      'pruners.compressors.mqt:MQTConfig',
      paper='MQT, arXiv:2405.19315',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'token_packer',
      'compressor',
      'pruners.compressors.token_packer:TokenPackerConfig',
      paper='TokenPacker, arXiv:2407.02392',
      evidence='official',
      licence='not stated',
    ),
    _row(
      'quecc',
      'compressor',
      'pruners.compressors.quecc:QueCCConfig',
      paper='QueCC, arXiv:2411.03312',
      evidence='official',
      licence='not stated',
    ),
    _row(
      'token_flex',
      'compressor',
      'pruners.compressors.token_flex:TokenFLEXConfig',
      paper='TokenFLEX, arXiv:2504.03154',
      evidence="Ristretto's projector",
      licence='MIT',
    ),
    _row(
      'slime_resampler',
      'compressor',
      'pruners.compressors.slime:SliMEResamplerConfig',
      paper='SliME, arXiv:2406.08487',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'hicom_local',
      'compressor',
      'pruners.compressors.hicom_local:HIComLocalConfig',
      paper='HICom, arXiv:2503.16036',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'hicom_global',
      'compressor',
      'pruners.compressors.hicom_global:HIComGlobalConfig',
      paper='HICom, arXiv:2503.16036',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'reader',
      'reader',
      'models.reader_config:ReaderConfig',
      evidence='behaviour',
    ),
    _row(
      'tome',
      'pruner',
      'pruners.inside_vit.tome:ToMe',
      paper='ToMe, arXiv:2210.09461',
      evidence='official',
    ),
    _row(
      'tome_random',
      'pruner',
      'pruners.inside_vit.tome:RandomToMe',
      paper='ToMe, arXiv:2210.09461',
      evidence='official',
    ),
    _row(
      'tome_kth',
      'pruner',
      'pruners.inside_vit.tome:EveryKth',
      paper='ToMe, arXiv:2210.09461',
      evidence='official',
    ),
    _row(
      'pitome',
      'pruner',
      'pruners.inside_vit.pitome:PiToMe',
      paper='PiToMe, arXiv:2405.16148',
      evidence='official',
    ),
    _row(
      'diffrate',
      'pruner',
      'pruners.inside_vit.diffrate:DiffRate',
      paper='DiffRate, arXiv:2305.17997',
      evidence='official',
    ),
    _row(
      'token_transforming',
      'pruner',
      'pruners.inside_vit.token_transforming:TokenTransforming',
      paper='Token Transforming, arXiv:2506.05709',
      evidence='oracle',
    ),
    _row(
      'top_attention',
      'pruner',
      'pruners.topk:TopAttention',
      paper='EViT, arXiv:2202.07800',
      evidence='oracle',
    ),
    _row('top_norm', 'pruner', 'pruners.topk:TopNorm'),
    _row('random', 'pruner', 'pruners.topk:Random', evidence='baseline'),
    _row('stride', 'pruner', 'pruners.topk:Stride', evidence='baseline'),
    _row(
      'divprune',
      'pruner',
      'pruners.before_llm.divprune:DivPrune',
      paper='DivPrune, arXiv:2503.02175',
      evidence='AngelSlim',
      licence='CC-BY-NC-4.0',
    ),
    _row(
      'vtc_cls',
      'pruner',
      'pruners.before_llm.vtc_cls:VTCCLS',
      paper='VTC-CLS, arXiv:2412.05819',
      evidence='oracle',
      licence='Apache-2.0',
    ),
    _row(
      'hiprune',
      'pruner',
      'pruners.before_llm.hiprune:HiPrune',
      paper='HiPrune, arXiv:2508.00553',
      evidence='AngelSlim',
      licence='MIT',
    ),
    _row(
      'scope',
      'pruner',
      'pruners.before_llm.scope:SCOPE',
      paper='SCOPE, arXiv:2510.24214',
      evidence='AngelSlim',
    ),
    _row(
      'dart',
      'pruner',
      'pruners.before_llm.dart:DART',
      paper='DART, arXiv:2502.11494',
      evidence='AngelSlim',
    ),
    _row(
      'vispruner',
      'pruner',
      'pruners.before_llm.vispruner:VisPruner',
      paper='VisPruner, arXiv:2412.01818',
      evidence='AngelSlim',
    ),
    _row(
      'idpruner',
      'pruner',
      'pruners.before_llm.idpruner:IDPruner',
      paper='IDPruner, Tencent AngelSlim',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'todre',
      'pruner',
      'pruners.before_llm.todre:ToDRE',
      paper='ToDRE, arXiv:2505.18757',
      evidence='oracle, from the paper',
    ),
    _row(
      'catp',
      'pruner',
      'pruners.before_llm.catp:CATP',
      paper='CATP, arXiv:2508.07871',
      evidence='oracle, from the paper',
    ),
    _row(
      'visionzip',
      'pruner',
      'pruners.before_llm.visionzip:VisionZip',
      paper='VisionZip, arXiv:2412.04467',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'prumerge',
      'pruner',
      'pruners.before_llm.prumerge:PruMerge',
      paper='LLaVA-PruMerge, arXiv:2403.15388',
      evidence="VTC-CLS's copy",
      licence='Apache-2.0',
    ),
    _row(
      'prumerge_plus',
      'pruner',
      'pruners.before_llm.prumerge:PruMergePlus',
      paper='LLaVA-PruMerge, arXiv:2403.15388',
      evidence="VTC-CLS's copy",
      licence='Apache-2.0',
    ),
    _row(
      'recoverable',
      'pruner',
      'pruners.before_llm.recoverable:Recoverable',
      paper='Recoverable Compression, arXiv:2409.01179',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'hired',
      'pruner',
      'pruners.before_llm.hired:HiRED',
      paper='HiRED, arXiv:2408.10945',
      evidence='official',
      licence='MIT',
    ),
    _row(
      'globalcom2',
      'pruner',
      'pruners.before_llm.globalcom2:GlobalCom2',
      paper='GlobalCom2, arXiv:2501.05179',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'token_corr',
      'pruner',
      'pruners.before_llm.token_corr:TokenCorr',
      paper='TokenCorrCompressor, arXiv:2407.14439',
      evidence='oracle, from summaries',
    ),
    _row(
      'segpruner',
      'pruner',
      'pruners.before_llm.segpruner:SeGPruner',
      paper='SeGPruner, intcomp/SegPruner',
      evidence='official',
    ),
    _row(
      'aim',
      'pruner',
      'pruners.before_llm.aim:AIM',
      paper='AIM, arXiv:2412.03248',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'mustdrop',
      'pruner',
      'pruners.before_llm.mustdrop:MustDrop',
      paper='MustDrop, arXiv:2411.10803',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row(
      'dtd',
      'pruner',
      'pruners.before_llm.dtd:DTD',
      paper='TimeChat-Online, arXiv:2504.17343',
      evidence='official',
      licence='BSD-3-Clause',
    ),
    _row(
      'dycoke',
      'pruner',
      'pruners.before_llm.dycoke:DyCoke',
      paper='DyCoke, arXiv:2411.15024',
      evidence='LightCompress',
      licence='Apache-2.0',
    ),
    _row(
      'ppe',
      'pruner',
      'pruners.before_llm.ppe:PPE',
      paper='PPE, arXiv:2510.22936',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row('vq', 'quantizer', 'quantize.vq:VQConfig'),
    _row('fsq', 'quantizer', 'quantize.fsq:FSQConfig'),
    _row('lfq', 'quantizer', 'quantize.lfq:LFQConfig'),
    _row('gaussian', 'quantizer', 'quantize.gaussian:GaussianConfig'),
    _row('residual_vq', 'quantizer', 'quantize.residual:ResidualVQConfig'),
    _row(
      'multi_scale_vq', 'quantizer', 'quantize.multi_scale:MultiScaleVQConfig'
    ),
    _row(
      'patch_discriminator',
      'discriminator',
      'losses.discriminator:PatchDiscriminatorConfig',
      paper='pix2pix, arXiv:1611.07004',
    ),
    _row(
      'blur_discriminator',
      'discriminator',
      'losses.blur_discriminator:BlurDiscriminatorConfig',
      paper='TiTok, arXiv:2406.07550',
      evidence='official',
      licence='Apache-2.0',
    ),
    _row('tokenizer_task', 'task', 'train.tasks.reconstruct:TokenizerTask'),
    _row(
      'proxy_task',
      'task',
      'train.tasks.proxy:ProxyTask',
      paper='TiTok, arXiv:2406.07550',
    ),
    _row(
      'flow_tokenizer_task',
      'task',
      'train.tasks.flow:FlowTokenizerTask',
      paper='FlexTok, arXiv:2502.13967',
    ),
    _row(
      'alit_task',
      'task',
      'train.tasks.alit:ALITTask',
      paper='ALIT, arXiv:2411.02393',
    ),
    _row(
      'karl_task',
      'task',
      'train.tasks.karl:KARLTask',
      paper='KARL, arXiv:2507.07995',
    ),
    _row('generator_task', 'task', 'train.tasks.generate:GeneratorTask'),
    _row('classifier_task', 'task', 'train.tasks.classify:ClassifierTask'),
    _row(
      'contrastive_task',
      'task',
      'train.tasks.contrast:ContrastiveTask',
      paper='CLIP, arXiv:2103.00020; SigLIP, arXiv:2303.15343',
    ),
    _row(
      'diffrate_task',
      'task',
      'train.tasks.diffrate:DiffRateTask',
      paper='DiffRate, arXiv:2305.17997',
    ),
    _row('compressor_task', 'task', 'train.tasks.compress:CompressorTask'),
  )
}


def entries(family: Family | None = None) -> tuple[Entry, ...]:
  """Returns the rows of one family, or all, in their order."""
  if family is not None and family not in get_args(Family):
    raise UserError(
      f'There is no family {family!r}. {did_you_mean(family, get_args(Family))}'
    )
  return tuple(
    e for e in _ENTRIES.values() if family is None or e.family == family
  )


def get(name: str) -> Entry:
  """Returns a row by name.

  Raises:
    UserError: There is none; the nearest names are given.
  """
  if name not in _ENTRIES:
    raise UserError(
      f'There is no model, pruner or task {name!r}. '
      f'{did_you_mean(name, _ENTRIES)}'
    )
  return _ENTRIES[name]


def resolve(name: str) -> type:
  """Imports the config class of a row."""
  module, _, attribute = get(name).target.partition(':')
  return getattr(importlib.import_module(module), attribute)


def name_of(cls: type) -> str | None:
  """Returns the name of a config class, or None if it has no row."""
  target = f'{cls.__module__}:{cls.__qualname__}'
  for entry in _ENTRIES.values():
    if entry.target == target:
      return entry.name
  return None


def register(name: str, cls: type, *, family: Family, **facts: str) -> None:
  """Adds a class of your own for this process, from a config file.

  Args:
    name: A new name.
    cls: A frozen dataclass in an imported module.
    family: What it is.
    **facts: `paper`, `evidence`, `licence`.
  """
  target = f'{cls.__module__}:{cls.__qualname__}'
  if name in _ENTRIES and _ENTRIES[name].target != target:
    raise UserError(
      f'The name {name!r} is taken by {_ENTRIES[name].target}; choose another.'
    )
  _ENTRIES[name] = Entry(name=name, family=family, target=target, **facts)


def list_models() -> tuple[Entry, ...]:
  """Returns all models by family, with paper and evidence."""
  families = (
    'tokenizer',
    'generator',
    'model',
    'encoder',
    'compressor',
    'reader',
  )
  return tuple(e for e in _ENTRIES.values() if e.family in families)


def list_pruners() -> tuple[Entry, ...]:
  """Returns the pruners, with paper and evidence."""
  return entries('pruner')
