"""Released learned compressors, parts of language models that see."""

from __future__ import annotations

from tokpress_jax.released.row import Released


def _projector(
  name: str,
  kind: str,
  repository: str,
  parameters: int = 0,
  *arguments: int | str,
) -> Released:
  """A part of a model in shards, of which the index says where it lies."""
  return Released(
    name=name,
    kind=kind,
    config='released_config' if parameters else '',
    arguments=arguments,
    parameters=parameters,
    repository=repository,
    file='model.safetensors.index.json',
    instead=('pytorch_model.bin.index.json',),
    beside=('config.json',),
  )


def _packer(name: str, stride: int, out: int) -> Released:
  return _projector(
    f'tokenpacker-{name.lower()}',
    'token-packer',
    f'sunshine-lwt/TokenPacker-{name}',
    {4096: 36_722_688, 5120: 47_210_496}[out],
    stride,
    out,
  )


def _slime(name: str, out: int) -> Released:
  return _projector(
    f'slime-{name.lower()}',
    'slime',
    f'yifanzhang114/SliME-{name}',
    {4096: 25_331_712, 5120: 35_819_520}[out],
    out,
  )


_M3 = 20_979_712
_HICOM = 'lntzm/HICom_7B_qwen25_directg_local43_global32'
PROJECTORS = (
  _projector('llava-v1.5-7b-m3', 'm3', 'mucai/llava-v1.5-7b-m3', _M3),
  _projector(
    'llava-next-vicuna-7b-m3', 'm3', 'mucai/llava-next-vicuna-7b-m3', _M3
  ),
  _projector('mqt-llava-7b', 'mqt', 'gordonhu/MQT-LLaVA-7b', 8_660_992),
  _packer('7b-144token', 2, 4096),
  _packer('13b-144token', 2, 5120),
  _packer('HD-7b-9patch-144token', 2, 4096),
  _packer('HD-13b-9patch-144token', 2, 5120),
  _packer('HD-13b-16patch-144token', 2, 5120),
  _packer('HD-13b-16patch-64token', 3, 5120),
  _packer('HD-13b-16patch-36token', 4, 5120),
  _projector('ristretto-3b', 'token-flex', 'LiAutoAD/Ristretto-3B'),
  _slime('vicuna-7B', 4096),
  _slime('Llama3-8B', 4096),
  _slime('vicuna-13B', 5120),
  _projector('hicom-7b-local', 'hicom-local', _HICOM, 16_980_992, 'local'),
  _projector('hicom-7b-global', 'hicom-global', _HICOM, 22_330_880, 'global'),
)
