"""The training jobs: of tokenizers, generators, classifiers and CLIP."""

from tokpress_jax.train.tasks.adversary import AdversaryConfig
from tokpress_jax.train.tasks.alit import ALITTask
from tokpress_jax.train.tasks.classify import ClassifierTask
from tokpress_jax.train.tasks.compress import CompressorTask
from tokpress_jax.train.tasks.contrast import ContrastiveTask
from tokpress_jax.train.tasks.diffrate import DiffRateTask
from tokpress_jax.train.tasks.flow import FlowTokenizerTask
from tokpress_jax.train.tasks.generate import GeneratorTask
from tokpress_jax.train.tasks.karl import KARLTask
from tokpress_jax.train.tasks.proxy import ProxyTask
from tokpress_jax.train.tasks.reconstruct import TokenizerTask

__all__ = [
  'ALITTask',
  'AdversaryConfig',
  'ClassifierTask',
  'CompressorTask',
  'ContrastiveTask',
  'DiffRateTask',
  'FlowTokenizerTask',
  'GeneratorTask',
  'KARLTask',
  'ProxyTask',
  'TokenizerTask',
]
