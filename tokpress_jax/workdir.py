"""A work directory: one run's config, metrics and checkpoints.

* `config.json`: the resolved config
* `metrics.jsonl`: one JSON object per line
* `checkpoints/`: see `tokpress_jax.train.checkpoint`
"""

import json
import logging
import os
from typing import Any

import jax

from tokpress_jax import config as config_lib
from tokpress_jax.errors import UserError

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
METRICS = 'metrics.jsonl'

_log = logging.getLogger(__name__)


def claim(
  workdir: str | os.PathLike[str], config: config_lib.Config
) -> list[str]:
  """Makes a directory the work directory of a config, or checks that it is.

  Args:
    workdir: A new or empty directory, or the work directory of the same run.
      One in which no step was done yet takes any config.
    config: The resolved config, which is written to `config.json`.

  Returns:
    What changed since the config there, as of `config.diff`; it is logged.

  Raises:
    UserError: The directory holds another run, or is no work directory.
  """
  path = _path(workdir)
  text = json.dumps(config_lib.to_json(config), indent=2) + '\n'
  changes = check(path, config)
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices('workdir')  # All have looked.
  if jax.process_index() == 0:
    path.mkdir(parents=True, exist_ok=True)
    partial = path / f'{CONFIG}.partial'
    partial.write_text(text)
    partial.replace(path / CONFIG)
    for line in changes:
      _log.warning('Changed since this run was started: %s', line)
  return changes


def check(
  workdir: str | os.PathLike[str], config: config_lib.Config
) -> list[str]:
  """Checks what `claim` checks, and writes nothing."""
  path = _path(workdir)
  if is_workdir(path):
    if not is_started(path):
      return []
    old = read_config(path)
    wrong = config_lib.diff(old, config, only_identity=True)
    if wrong:
      raise UserError(
        f'{path} holds another run; these fields may not change on resume:\n  '
        + '\n  '.join(wrong)
        + '\nGive another --workdir, or the fields as they were.'
      )
    return config_lib.diff(old, config)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise UserError(
      f'{path} exists and is not a work directory (it has no {CONFIG}). Give '
      'a new or an empty directory as --workdir.'
    )
  return []


def is_started(workdir: str | os.PathLike[str]) -> bool:
  """Whether a run in this directory may have done a step."""
  path = _path(workdir)
  steps = path / CHECKPOINTS
  return (path / METRICS).exists() or (steps.exists() and any(steps.iterdir()))


def read_config(workdir: str | os.PathLike[str]) -> config_lib.Config:
  """Reads the config of a work directory.

  Raises:
    UserError: There is none, or it is not readable as a config.
  """
  path = _path(workdir)
  if not is_workdir(path):
    what = 'has no config.json' if path.is_dir() else 'does not exist'
    raise UserError(
      f'{path} is not a work directory: it {what}. Give the --workdir of a '
      '`tokpress train`.'
    )
  try:
    return config_lib.from_json(json.loads((path / CONFIG).read_text()))
  except ValueError as error:
    raise UserError(f'{path / CONFIG} cannot be read: {error}') from error


def is_workdir(path: str | os.PathLike[str]) -> bool:
  """Whether there is the config of a run."""
  config = _path(path) / CONFIG
  if not config.is_file():
    return False
  try:
    return 'task' in json.loads(config.read_text())
  except ValueError:
    return True


def _path(workdir: str | os.PathLike[str]) -> Any:
  """A local path or a bucket's."""
  from etils import epath

  return epath.Path(workdir).expanduser()
