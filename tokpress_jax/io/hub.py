"""From a name to files: a directory, a file, or a Hugging Face repository."""

import difflib
import os
import pathlib
import re

from tokpress_jax.errors import UserError, did_you_mean

_REPOSITORY = re.compile(r'(hf://)?[\w.-]+/[\w.-]+')


def resolve(
  name: str | os.PathLike[str], *, revision: str | None = None
) -> pathlib.Path:
  """Returns a local path for a model's name.

  Args:
    name: A path that exists, or 'owner/name' (also 'hf://owner/name') on the
      Hugging Face hub, which is downloaded to its cache.
    revision: A branch, tag or commit there; the default branch if None.

  Raises:
    UserError: There is no such path, and it is no repository that can be had.
  """
  text = os.fspath(name)
  path = pathlib.Path(text).expanduser()
  if path.exists():
    return path
  is_file = path.suffix in ('.safetensors', '.pth', '.pt', '.ckpt', '.tok')
  if is_file or not _REPOSITORY.fullmatch(text):
    names = [p.name for p in path.parent.iterdir()] if _is_dir(path) else []
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f' {did_you_mean(path.name, near)}' if near else ''
    raise UserError(
      f'There is no {text!r}.{hint} Give a model directory, a work directory, '
      'or owner/name on the Hugging Face hub.'
    )
  repository = text.removeprefix('hf://')
  try:
    import huggingface_hub
  except ImportError:
    raise UserError(
      f'There is no directory {text!r}. (If it is a name on the Hugging Face '
      "hub: pip install 'tokpress_jax[hub]' first.)"
    ) from None
  try:
    # Weights and text only: nothing that would be unpickled or run.
    folder = huggingface_hub.snapshot_download(
      repository,
      revision=revision,
      allow_patterns=['*.safetensors', '*.json', '*.md', '*.txt', 'LICENSE*'],
    )
  except (OSError, ValueError) as error:  # Its errors are all of these.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f'There is no directory {text!r}, and the Hugging Face hub gave no '
      f'{repository!r}: {reason}'
    ) from error
  return pathlib.Path(folder)


def _is_dir(path: pathlib.Path) -> bool:
  return str(path.parent) != '.' and path.parent.is_dir()
