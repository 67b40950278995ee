"""Whether a file can be written, asked before hours of work and not after."""

from __future__ import annotations

import os
import pathlib

from tokpress_jax.errors import UserError


def check_file(path: str | os.PathLike[str], what: str) -> pathlib.Path:
  """Makes the folder of a file that is to be written.

  Args:
    path: of the file.
    what: it is, for the message: '--json'.

  Raises:
    UserError: if it cannot be written there.
  """
  file = pathlib.Path(path)
  check_folder(file.parent, what)
  if file.is_dir():
    raise UserError(f'{what} {path} is a folder; name a file')
  if file.exists() and not os.access(file, os.W_OK):
    raise UserError(f'{what} {path} may not be written; name another file')
  return file


def check_folder(path: str | os.PathLike[str], what: str) -> None:
  """Makes a folder that is to be written into.

  Raises:
    UserError: if that cannot be.
  """
  folder = pathlib.Path(path)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'{what} {path} cannot be made ({error.strerror}); name another place'
    ) from error
  if not os.access(folder, os.W_OK):
    raise UserError(
      f'{what} {path} may not be written into; name another place'
    )
