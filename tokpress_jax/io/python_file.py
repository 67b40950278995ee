"""Running a Python file that a user names: a config, a pruner of their own."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import types


def import_file(path: pathlib.Path, *, name: str) -> types.ModuleType:
  """Runs a file as a module, anew at each call.

  Args:
    path: of a file that ends in .py.
    name: of the module, in `sys.modules` too: dataclasses and tyro look up a
      class's module there.

  Returns:
    The module.

  Raises:
    Exception: what the file raises; `sys.modules` is then as it was.
  """
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None  # It ends in .py.
  module = importlib.util.module_from_spec(spec)
  before = sys.modules.get(name)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    if before is not None:
      sys.modules[name] = before
    raise
  return module
