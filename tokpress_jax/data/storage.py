"""Where data sets lie on disk, and how they get there.

A prepared data set is a TFDS directory, `DIR/name[/config]/version`, with
ArrayRecord files, which can be read in any order and without TensorFlow.
"""

import contextlib
import glob
import importlib.util
import io
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile

from tokpress_jax import errors
from tokpress_jax.data import builders, convert
from tokpress_jax.data.config import DataError

log = logging.getLogger(__name__)


def data_root(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
  """Returns the directory of data sets.

  Args:
    data_dir: The directory, if it was chosen; otherwise
      `$TOKPRESS_DATA_DIR`, and otherwise `tokpress_jax` in `$XDG_CACHE_HOME`
      or `~/.cache`.
  """
  if data_dir is None:
    data_dir = os.environ.get('TOKPRESS_DATA_DIR') or os.path.join(
      os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'tokpress_jax'
    )
  return pathlib.Path(data_dir).expanduser()


def find(name: str, data_dir: str | None = None) -> pathlib.Path | None:
  """Finds the newest prepared version of a data set.

  Args:
    name: `name`, `name/config`, `name:version` or `name/config:version`.
    data_dir: See `data_root`.

  Returns:
    The directory that holds `dataset_info.json`, or None.

  Raises:
    DataError: If the name has no config and several configs are prepared.
  """
  path, _, version = name.partition(':')
  root = glob.escape(str(data_root(data_dir)))
  for config in ('', '*') if '/' not in path else ('',):
    pattern = os.path.join(
      root, path, config, version or '[0-9]*.*.*', 'dataset_info.json'
    )
    found = [pathlib.Path(match).parent for match in glob.glob(pattern)]
    parents = {directory.parent for directory in found}
    if len(parents) > 1:
      names = ', '.join(sorted(f'{path}/{parent.name}' for parent in parents))
      raise DataError(f'Several configs of {path} are prepared: name {names}.')
    if found:
      return max(found, key=lambda directory: _version(directory.name))
  return None


def prepared(data_dir: str | None = None) -> list[tuple[str, pathlib.Path]]:
  """Lists (name, directory) of every data set that is prepared."""
  root = data_root(data_dir)
  found = {}
  for info in sorted(root.glob('[!.]*/**/dataset_info.json')):
    path = info.parent.parent
    found[path.relative_to(root).as_posix()] = info.parent
  return list(found.items())


def prepare(name: str, data_dir: str | None = None) -> pathlib.Path:
  """Prepares a data set, unless it is prepared already.

  One that was prepared with TFRecord files gets ArrayRecord files beside them.

  Args:
    name: An embedded data set or any TFDS name.
    data_dir: See `data_root`.

  Returns:
    The directory of the prepared data set.

  Raises:
    DataError: If the name is unknown, TensorFlow is needed and missing, or
      TFDS fails, as it does where data must be downloaded by hand.
  """
  if name in builders.EMBEDDED:
    return _prepare_embedded(name, data_dir)
  if name == 'tokens':
    raise DataError(
      'Tokens are prepared by `tokpress encode MODEL --data NAME --split SPLIT '
      '--out DIR`; train on them with --data.name tokens --data.data-dir DIR.'
    )
  if name == 'folder':
    raise DataError(
      'A folder of images needs no preparation: train with '
      '--data.name folder --data.data-dir FOLDER.'
    )
  found = find(name, data_dir)
  if found is not None and stored_format(found) == 'array_record':
    return found
  if found is not None and stored_format(found) == 'tfrecord':
    convert.to_array_record(found)
    return found
  return _prepare_tfds(name, data_dir)


def locate(name: str, data_dir: str | None = None) -> pathlib.Path:
  """Finds a data set that can be read, preparing it if it is embedded.

  Args:
    name: An embedded data set or any TFDS name.
    data_dir: See `data_root`.

  Returns:
    The directory of the prepared data set.

  Raises:
    DataError: If the name is unknown, or the data must be prepared first; the
      message gives the command.
  """
  if name in builders.EMBEDDED:
    return _prepare_embedded(name, data_dir)
  found = find(name, data_dir)
  if found is not None and stored_format(found) == 'array_record':
    return found
  chosen = '' if data_dir is None else f' --data-dir {data_dir}'
  command = f'`tokpress data prepare {name}{chosen}`'
  if found is not None:
    raise DataError(
      f'{found} holds {stored_format(found)} files, which cannot be read '
      f'in any order. Run {command}, which writes ArrayRecord files beside '
      'them.'
    )
  check_name(name)
  raise DataError(
    f'{name} is not prepared in {data_root(data_dir)}. Run {command}, or '
    'point data_dir at the directory that holds it.'
  )


def check_name(name: str) -> None:
  """Raises `DataError` with the nearest names if TFDS does not know `name`."""
  import tensorflow_datasets as tfds

  known = {
    *tfds.list_builders(with_community_datasets=False),
    *builders.EMBEDDED,
    'folder',
    'tokens',
  }
  base = name.partition(':')[0].partition('/')[0]
  if base not in known:
    raise DataError(
      f'Unknown data set {name!r}. {errors.did_you_mean(base.lower(), known)} '
      '`tokpress data list` shows the embedded ones; any TFDS name works.'
    )


def stored_format(directory: pathlib.Path) -> str:
  """The file format of a prepared data set.

  Args:
    directory: What `find` returned.

  Returns:
    `array_record` if the data set has it, be it beside another one, else the
    format that it was written in.
  """
  info = json.loads((directory / 'dataset_info.json').read_text())
  formats = [info.get('fileFormat') or 'tfrecord']
  formats += info.get('alternativeFileFormats', [])
  return 'array_record' if 'array_record' in formats else formats[0]


def _prepare_embedded(name: str, data_dir: str | None) -> pathlib.Path:
  """Builds in a private directory, then renames: safe when processes race."""
  root = data_root(data_dir)
  made_by = builders.builder_class(name)
  target = root / name / str(made_by.VERSION)
  if (target / 'dataset_info.json').exists():
    return target
  try:
    root.mkdir(parents=True, exist_ok=True)
    private = pathlib.Path(tempfile.mkdtemp(prefix='.prepare-', dir=root))
  except OSError as error:
    raise DataError(
      f'Cannot write the data set {name} into {root}: {error}. Choose '
      'another directory by data_dir or TOKPRESS_DATA_DIR.'
    ) from error
  log.info('Preparing %s in %s', name, root)
  try:
    builder = made_by(data_dir=str(private), file_format='array_record')
    # TFDS's bars and messages speak of the private directory.
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      builder.download_and_prepare()
    target.parent.mkdir(exist_ok=True)
    try:
      pathlib.Path(builder.data_path).rename(target)
    except OSError:
      if not (target / 'dataset_info.json').exists():
        raise
      # Another process was faster, and its files are the same.
    return target
  finally:
    shutil.rmtree(private, ignore_errors=True)


def _prepare_tfds(name: str, data_dir: str | None) -> pathlib.Path:
  import tensorflow_datasets as tfds

  check_name(name)
  if importlib.util.find_spec('tensorflow') is None:
    raise DataError(
      f'Preparing {name} needs TensorFlow, once (training does not): '
      "pip install 'tokpress-jax[prepare]', or copy a directory that TFDS "
      f'prepared with file_format=array_record into {data_root(data_dir)}.'
    )
  try:
    # TFDS prints; stdout stays the caller's.
    with contextlib.redirect_stdout(sys.stderr):
      builder = tfds.builder(
        name, data_dir=str(data_root(data_dir)), file_format='array_record'
      )
      builder.download_and_prepare()
  except Exception as error:  # of any kind: builders run code of their own
    raise DataError(f'TFDS could not prepare {name}: {error}') from error
  return pathlib.Path(builder.data_path)


def _version(text: str) -> tuple[int, ...]:
  return tuple(int(part) for part in text.split('.') if part.isdigit())
