"""Released encoders of images and texts."""

from __future__ import annotations

from tokpress_jax.released.row import Released


def _host(
  name: str,
  kind: str,
  repository: str,
  parameters: int,
  *arguments: int | str,
) -> Released:
  """A file of transformers or timm."""
  return Released(
    name=name,
    kind=kind,
    config='released_config',
    arguments=arguments,
    parameters=parameters,
    repository=repository,
    file='model.safetensors',
    instead=('pytorch_model.bin',),
  )


def _deit(size: str, width: int, plain: int, distilled: int) -> list[Released]:
  """A DeiT without and with its distillation token."""
  short = {'tiny': 'ti', 'small': 's', 'base': 'b'}[size]
  return [
    _host(
      f'deit-{short}16{"-distilled" if form == "distilled" else ""}',
      'vit',
      f'facebook/deit-{size}-{"distilled-" if form == "distilled" else ""}'
      'patch16-224',
      parameters,
      width,
      form,
    )
    for form, parameters in (('deit', plain), ('distilled', distilled))
  ]


_CLIP = 'openai/clip-vit-'
_SIGLIP = 'google/siglip-'
HOSTS = (
  _host('vit-b16', 'vit', 'google/vit-base-patch16-224', 86_567_656, 768),
  _host(
    'vit-b16-augreg',
    'vit-timm',
    'timm/vit_base_patch16_224.augreg_in21k_ft_in1k',
    86_567_656,
  ),
  *_deit('tiny', 192, 5_717_416, 5_910_800),
  *_deit('small', 384, 22_050_664, 22_436_432),
  *_deit('base', 768, 86_567_656, 87_338_192),
  # With their projections.
  _host('clip-b32', 'clip', f'{_CLIP}base-patch32', 87_849_216, 'b32'),
  _host('clip-b16', 'clip', f'{_CLIP}base-patch16', 86_192_640, 'b16'),
  _host('clip-l14', 'clip', f'{_CLIP}large-patch14', 303_966_208, 'l14'),
  _host(
    'clip-l14-336',
    'clip',
    f'{_CLIP}large-patch14-336',
    304_293_888,
    'l14-336',
  ),
  _host('clip-text-b32', 'clip-text', f'{_CLIP}base-patch32', 63_428_096, 512),
  _host('clip-text-b16', 'clip-text', f'{_CLIP}base-patch16', 63_428_096, 512),
  _host('clip-text-l14', 'clip-text', f'{_CLIP}large-patch14-336', 123_650_304),
  _host(
    'siglip-b16', 'siglip', f'{_SIGLIP}base-patch16-224', 92_884_224, 'b16'
  ),
  _host(
    'siglip-so400m-384',
    'siglip',
    f'{_SIGLIP}so400m-patch14-384',
    428_225_600,
    'so400m-384',
  ),
  _host(
    'siglip-text-b16',
    'siglip-text',
    f'{_SIGLIP}base-patch16-224',
    110_271_744,
    'b16',
  ),
  _host(
    'siglip-text-so400m-384',
    'siglip-text',
    f'{_SIGLIP}so400m-patch14-384',
    449_734_896,
    'so400m-384',
  ),
)
