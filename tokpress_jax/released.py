"""Released weights by name: where they are, and the configs that they fit.

A row is what `load('var-d16')` and `tokpress convert var-d16 FILE` need. A
*kind* is a layout of names that several files share: `tokpress convert var
FILE` reads the sizes from the file itself.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from tokpress_jax.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """A layout of names.

  Attributes:
    name: of the kind.
    keys: the module with `RULES`, `expected(config)` and `config_of`.
    mark: a tensor that every such file has; a training checkpoint may hold
      its model's tensors deeper, or with a prefix.
    tokenizer: the released tokenizer that most such files belong to.
    config_of: the function of `keys` that reads a config off the shapes.
    licence: of the released weights of this kind.
  """

  name: str
  keys: str
  mark: str
  tokenizer: str = ''
  config_of: str = 'config_of'
  licence: str = ''

  def attribute(self, name: str) -> Any:
    """Something of the module of keys."""
    return getattr(importlib.import_module(f'tokpress_jax.{self.keys}'), name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Released:
  """A published file.

  Attributes:
    name: what `load` takes.
    kind: its layout.
    config: the function of the kind's `keys` that gives its config.
    arguments: of that function.
    parameters: how many numbers the model has.
    repository: on the Hugging Face hub.
    file: in the repository.
    tokenizer: name of the tokenizer that it belongs to.
  """

  name: str
  kind: str
  config: str
  arguments: tuple[int, ...] = ()
  parameters: int
  repository: str
  file: str
  tokenizer: str = ''

  def make_config(self) -> Any:
    """The config of the weights."""
    return KINDS[self.kind].attribute(self.config)(*self.arguments)


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
  )
}

_VAR_KEYS = 'generators.scale_wise_keys'
KINDS = {
  kind.name: kind
  for kind in (
    Kind(
      name='var-vqvae',
      keys='tokenizers.var_keys',
      mark='quantize.embedding.weight',
      licence='MIT',
    ),
    Kind(
      name='var',
      keys=_VAR_KEYS,
      mark='pos_1LC',
      tokenizer='var-vqvae',
      licence='MIT',
    ),
    Kind(
      name='mvar',
      keys=_VAR_KEYS,
      mark='pos_1LC',
      tokenizer='var-vqvae',
      config_of='mvar_config_of',
      licence='MIT',
    ),
  )
}

_VAR = 'FoundationVision/var'
_VAE = 'vae_ch160v4096z32.pth'
_PARAMETERS = {  # by depth, of VAR and MVAR
  16: 310_283_520,
  20: 600_917_136,
  24: 1_033_399_360,
  30: 2_010_020_356,
  36: 2_353_893_904,
}


def _var(depth: int, pixels: int = 256) -> Released:
  return Released(
    name=f'var-d{depth}',
    kind='var',
    config='var_config',
    arguments=(depth, pixels),
    parameters=_PARAMETERS[depth],
    repository=_VAR,
    file=f'var_d{depth}.pth',
    tokenizer='var-vqvae' if pixels == 256 else f'var-vqvae-{pixels}',
  )


def _mvar(name: str, depth: int) -> Released:
  return Released(
    name=name,
    kind='mvar',
    config='mvar_config',
    arguments=(depth,),
    parameters=_PARAMETERS[depth],
    repository='CVLUESTC/MVAR',
    file=f'{name}.pth',
    tokenizer='var-vqvae',
  )


def _vqvae(name: str, pixels: int) -> Released:
  return Released(
    name=name,
    kind='var-vqvae',
    config='released_config',
    arguments=(pixels,),
    parameters=108_948_355,
    repository=_VAR,
    file=_VAE,
  )


RELEASED = {
  row.name: row
  for row in (
    _vqvae('var-vqvae', 256),
    _vqvae('var-vqvae-512', 512),
    _var(16),
    _var(20),
    _var(24),
    _var(30),
    _var(36, 512),
    _mvar('mvar-d16', 16),
    _mvar('mvar-finetune-d16', 16),
    _mvar('mvar-finetune-d20', 20),
    _mvar('mvar-finetune-d24', 24),
  )
}


def kind_of(name: str) -> tuple[Kind, Released | None]:
  """A kind by its name or by that of a released file.

  Args:
    name: Such as 'var' (any file of that layout) or 'var-d16' (that one).

  Returns:
    The kind, and the row if the name is a released file's.

  Raises:
    UserError: There is no such name; the nearest are given.
  """
  row = RELEASED.get(name)
  if name in KINDS:
    return KINDS[name], row if name != 'var-vqvae' else None
  if row is None:
    names = {**KINDS, **RELEASED, **NETWORKS}
    raise UserError(
      f'There are no released weights {name!r}. {did_you_mean(name, names)}'
    )
  return KINDS[row.kind], row


def list_released() -> tuple[Released, ...]:
  """Returns the published files that `load` knows by name."""
  return tuple(RELEASED.values())
