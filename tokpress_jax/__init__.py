"""tokpress_jax: fewer tokens for images, in JAX.

Adaptive tokenizers, scale-wise generators and token pruners as pure-functional
Flax (Linen) modules. The names below are the public ones; they are imported
when first used, so that `import tokpress_jax` stays fast.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

# Public name -> where it lives ('module' or 'module:attribute').
_PUBLIC = {
  'bench': 'tokpress_jax.bench',
  'data': 'tokpress_jax.data',
  'generators': 'tokpress_jax.generators',
  'losses': 'tokpress_jax.losses',
  'metrics': 'tokpress_jax.metrics',
  'models': 'tokpress_jax.models',
  'nn': 'tokpress_jax.nn',
  'pruners': 'tokpress_jax.pruners',
  'quantize': 'tokpress_jax.quantize',
  'tokenizers': 'tokpress_jax.tokenizers',
  'train': 'tokpress_jax.train',
  'types': 'tokpress_jax.types',
  'viz': 'tokpress_jax.viz',
  'Config': 'tokpress_jax.config:Config',
  'Encoded': 'tokpress_jax.types:Encoded',
  'Fixed': 'tokpress_jax.tokenizers:Fixed',
  'Halting': 'tokpress_jax.tokenizers:Halting',
  'Loaded': 'tokpress_jax.types:Loaded',
  'Prefix': 'tokpress_jax.tokenizers:Prefix',
  'Quality': 'tokpress_jax.tokenizers:Quality',
  'Ratio': 'tokpress_jax.types:Ratio',
  'Reduction': 'tokpress_jax.types:Reduction',
  'Sampler': 'tokpress_jax.generators:Sampler',
  'Signals': 'tokpress_jax.types:Signals',
  'Tokens': 'tokpress_jax.types:Tokens',
  'UserError': 'tokpress_jax.errors:UserError',
  'export': 'tokpress_jax.io.export:export',
  'fit': 'tokpress_jax.train.loop:fit',
  'for_inference': 'tokpress_jax.inference:for_inference',
  'list_datasets': 'tokpress_jax.data:list_datasets',
  'list_models': 'tokpress_jax.registry:list_models',
  'list_pruners': 'tokpress_jax.registry:list_pruners',
  'list_released': 'tokpress_jax.released:list_released',
  'load': 'tokpress_jax.io.load:load',
  'load_image': 'tokpress_jax.io.images:load_image',
  'sample': 'tokpress_jax.generators:sample',
}

__all__ = sorted([*_PUBLIC, '__version__'])


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, _, attribute = _PUBLIC[name].partition(':')
  value = importlib.import_module(module)
  if attribute:
    value = getattr(value, attribute)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return __all__
