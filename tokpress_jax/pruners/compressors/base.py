"""What every learned compressor is: a module whose fields are its config.

Dimension letters: B batch, N tokens, K new tokens, D features, F features out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

# Of every module of Flax, and what weights are not of.
_NOT_CONFIG = ('parent', 'name', 'dtype')


class Compressor(nn.Module):
  """A learned compressor: tokens [B, N, D] in, few tokens [B, K, F] out.

  It is made as any module, `MQT(side=16)`, or, as models that are saved and
  loaded are, of a config with the same fields and defaults,
  `MQTConfig(side=16).build(dtype=...)`.
  """

  family: ClassVar[str] = 'compressor'

  @property
  def inputs(self) -> dict[str, tuple[int, ...]]:
    """What it reads, to shapes without the batch: the tokens of its grid."""
    config = self.config
    return {'x': (math.prod(config.grid), config.width)}

  @property
  def config(self) -> Any:
    """Its fields, as a value that can be saved."""
    module: Any = type(self)
    cls = config_of(module)
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: getattr(self, name) for name in names})


@functools.cache
def config_of(module: Any) -> type[Any]:
  """The config of a compressor: a frozen dataclass of its fields.

  Args:
    module: its class, with the fields `grid` and `width` at least.

  Returns:
    A class called as the module with 'Config' behind it, with its `family` and
    `build(*, dtype)`.
  """
  hints = typing.get_type_hints(module)
  fields = [
    (f.name, hints[f.name], dataclasses.field(default=f.default))
    for f in dataclasses.fields(module)
    if f.name not in _NOT_CONFIG
  ]

  def build(self: Any, *, dtype: Any = jnp.float32) -> Compressor:
    """Makes the module."""
    given = {name: getattr(self, name) for name, *_ in fields}
    return module(**given, dtype=dtype)

  return dataclasses.make_dataclass(
    f'{module.__name__}Config',
    fields,
    frozen=True,
    kw_only=True,
    namespace={
      '__doc__': f'The fields of a `{module.__name__}`; see there.',
      '__module__': module.__module__,
      'family': module.family,
      'build': build,
    },
  )
