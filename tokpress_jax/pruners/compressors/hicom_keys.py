"""Released weights of HICom's two compressors, which lie in one checkpoint.

What guides them shows only where it has layers of its own: 'direct', which the
published scripts ask for, has none, and neither has 'off'. The official config
file says it, and the sizes of the regions, which show nowhere else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, norm
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.hicom_global import HIComGlobalConfig
from tokpress_jax.pruners.compressors.hicom_local import HIComLocalConfig

_LOCAL, _GLOBAL = (f'mm_projector.{x}_compressor.' for x in ('local', 'global'))
_OWN = r'mm_projector\.(?:local|global)_compressor\.'
_GUIDE = rf'{_OWN}guide_injector\.'


def _adapted(source: str, target: str) -> tuple[Rule, ...]:
  """Rules of what is mixed in: two layers, or one of the queries."""
  return (
    Rule(rf'{source}_proj\.weight', f'params/{target}/fc1/kernel', LINEAR),
    *compressor_keys.mlp(f'{source}_proj', f'{target}/mlp'),
    *norm(f'{source}_norm', f'{target}/norm'),
    Rule(f'{source}_alpha', f'params/{target}/alpha'),
  )


RULES = (
  Rule(rf'{_OWN}query', 'params/query'),
  *compressor_keys.attention(rf'{_OWN}attn_layer', 'attn'),
  *_adapted(rf'{_OWN}q', 'adapt_q'),
  *_adapted(rf'{_OWN}k', 'adapt_k'),
  *_adapted(rf'{_OWN}v', 'adapt_v'),
  *compressor_keys.mlp(rf'{_GUIDE}text2qk_proj', 'guide/project'),
  *_adapted(rf'{_GUIDE}guide', 'guide/adapt'),
  *compressor_keys.mlp(rf'{_GUIDE}coarse_proj', 'guide/modulation'),
  *compressor_keys.attention(rf'{_GUIDE}fine_proj', 'guide/attn'),
  *norm(rf'{_GUIDE}(?:coarse|fine)_norm', 'guide/norm'),
  *compressor_keys.mlp(rf'{_OWN}readout', 'readout'),
)


def local_config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that released tensors of the local compressor fit.

  Args:
    shapes: released names to shapes, in which neither the video's grid nor the
      regions show.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  return HIComLocalConfig(**_sizes(shapes, _LOCAL))


def global_config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config of the global one; see `local_config_of`."""
  sizes = _sizes(shapes, _GLOBAL, 'query')
  return HIComGlobalConfig(queries=shapes[f'{_GLOBAL}query'][0], **sizes)


def _sizes(
  shapes: Mapping[str, tuple[int, ...]], own: str, *names: str
) -> dict[str, Any]:
  """What both configs have."""
  first, guide = f'{own}readout.0.weight', f'{own}guide_injector.'
  keymap.require(shapes, first, *(f'{own}{name}' for name in names))
  out, width = shapes[first]
  kinds = ('coarse', 'fine')
  adapt = [x for x in 'qkv' if f'{own}{x}_alpha' in shapes]
  if f'{guide}guide_alpha' in shapes:
    adapt.append('g')
  return {
    'width': width,
    'text': shapes.get(f'{guide}text2qk_proj.0.weight', (0, width))[1],
    'out': out,
    'guide': next(
      (x for x in kinds if f'{guide}{x}_norm.weight' in shapes), 'direct'
    ),
    'adapt': ''.join(adapt),
    'heads': compressor_keys.heads_of(width),
  }


def describe(config: Any, description: Mapping[str, Any]) -> Any:
  """Adds what HICom's config.json says: the guide, and the regions' sizes.

  Args:
    config: of either compressor, as read off the tensors.
    description: of the file; what it does not say stays.

  Raises:
    UserError: if it says that there is no such compressor.
  """
  said = str(description.get('mm_projector_type', ''))
  local = isinstance(config, HIComLocalConfig)
  own, other = ('local', 'global') if local else ('global', 'local')
  if said and own not in said:
    raise UserError(
      f'The config.json beside the weights is of a projector {said!r}, which '
      f'has no {own} compressor. Put the config.json of these weights there, '
      'or none.'
    )
  phase = said.split(own)[-1].split(other)[0]
  changes: dict[str, Any] = {}
  if 'use_guide' in description:
    changes['guide'] = description['use_guide'] or 'off'
  if forced := re.search('guide([a-z]+)', phase):
    changes['guide'] = forced[1]
  if local and (digits := re.match(r'(\d)(\d{1,2})', phase)):
    frames, side = map(int, digits.groups())
    changes['sizes'] = (frames, side, side)
  return dataclasses.replace(config, **changes)


def released_config(which: str) -> Any:
  """A released compressor: 'local' or 'global', both guided directly."""
  if which == 'local':
    return HIComLocalConfig(guide='direct')
  return HIComGlobalConfig(guide='direct')


prepare = compressor_keys.prepare
expected = compressor_keys.expected
