"""Redrawn weights of the official compressors, through the library's key maps.

The official classes' own names, of `compressors_case`, are put where the
released checkpoints have these classes.
"""

import compressors_case as case
from redraw import redraw

from tokpress_jax import released
from tokpress_jax.io import keymap

# Kind -> what leads the names of the official class in a checkpoint.
PLACES = {
  'm3': 'mm_projector.',
  'mqt': 'query_abstractor.',
  'token-packer': 'mm_projector.',
  'quecc': 'mm_projector.0.',
  'token-flex': 'projector.',
  'slime': 'sampler.post_qformer.',
  'hicom-local': 'mm_projector.local_compressor.',
  'hicom-global': 'mm_projector.global_compressor.',
}
RULES = {
  'mqt': case.MQT_RULES,
  'quecc': case.QUECC_RULES,
  'slime': case.SLIME_RULES,
  'hicom-local': case.HICOM_RULES,
  'hicom-global': case.HICOM_RULES,
}


def tensors(kind, shapes):
  """Redrawn tensors as a checkpoint has them.

  Args:
    kind: of `released.KINDS`.
    shapes: names in the official class to shapes.
  """
  drawn = redraw(shapes, rules=RULES.get(kind, ()))
  return {PLACES[kind] + name: x for name, x in drawn.items()}


def variables(kind, shapes, config):
  """Our variables of a config, of redrawn official weights."""
  keys, found = released.KINDS[kind], tensors(kind, shapes)
  if keys.prepare:
    found = keys.attribute('prepare')(found)
  expected = keys.attribute('expected')(config)
  return keymap.convert(found, keys.attribute('RULES'), expected)
