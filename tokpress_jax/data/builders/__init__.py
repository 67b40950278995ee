"""Data sets that come with the library and prepare themselves.

Each is an ordinary TFDS builder that gives its images as PNG bytes and writes
ArrayRecord files, and so never needs TensorFlow. They are imported by name, on
use, because TFDS takes half a second to import.
"""

import importlib
import types
from typing import Any

# Name -> (builder class, one line). The module has the same name.
EMBEDDED: types.MappingProxyType[str, tuple[str, str]] = types.MappingProxyType(
  {
    'digits': ('Digits', '1,797 scans of handwritten digits, 8x8 grey'),
    'photos': ('Photos', 'random crops of 20 photographs, 64x64 RGB'),
    'scenes': ('Scenes', 'drawings of 1 to 8 shapes, 32x32 RGB'),
  }
)


def builder_class(name: str) -> Any:
  """Returns the TFDS builder class of an embedded data set."""
  module = importlib.import_module(f'{__name__}.{name}')
  return getattr(module, EMBEDDED[name][0])
