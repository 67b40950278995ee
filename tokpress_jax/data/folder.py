"""A folder of images: one subfolder per class.

Either `DIR/class/image`, of which a tenth of every class is held out as
`test`, or `DIR/train/class/image` and `DIR/test/class/image` with splits of
any name. Images may also lie directly in the folder, without classes. Hidden
files and folders (a leading dot) are ignored.
"""

import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator

from PIL import Image

from tokpress_jax import errors
from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.data.dataset import Dataset, DatasetInfo, Record

log = logging.getLogger(__name__)

HELD_OUT = 10  # one image in ten


class FolderDataset(Dataset):
  """One split of a folder of images."""

  def __init__(self, config: DataConfig, split: str):
    """Lists the files of a split; none is opened.

    Args:
      config: `data_dir` is the folder. With `on_error='skip'`, files that are
        no images are passed over.
      split: A subfolder's name, or `train`, `test` or `all`.

    Raises:
      DataError: If there is no such folder or split, or a file is no image.
    """
    root = pathlib.Path(config.data_dir or '.').expanduser()
    if not root.is_dir():
      raise DataError(
        f'{root} is not a folder. Give the folder of images as data_dir.'
      )
    skip = config.on_error == 'skip'
    if (root / 'train').is_dir():
      names = [path.name for path in _visible(root) if path.is_dir()]
      splits = {name: _list_classes(root / name, skip) for name in names}
      every = list(splits.values())
    else:
      every = [_list_classes(root, skip)]
      splits = _hold_out(every[0])
    if split not in splits:
      raise DataError(
        f'{root} has no split {split!r}. {errors.did_you_mean(split, splits)}'
      )
    # The classes of all splits together, so that a label means one thing.
    names = sorted({name for classes in every for name in classes})
    labelled = names != ['']
    label = {
      name: index if labelled else -1 for index, name in enumerate(names)
    }
    self._files = [
      (path, label[name])
      for name, paths in splits[split].items()
      for path in paths
    ]
    self.info = DatasetInfo(
      name='folder',
      split=split,
      num_records=len(self._files),
      image_size=config.image_size,
      channels=config.channels or 3,
      num_classes=len(names) if labelled else 0,
      class_names=tuple(names) if labelled else (),
      splits=tuple(
        (name, sum(map(len, classes.values())))
        for name, classes in splits.items()
      ),
      directory=str(root),
      description='A folder of images.',
    )

  def read(self, index: int) -> Record:
    """See the base class."""
    return Record(*self._files[index])

  def where(self, index: int) -> str:
    """See the base class."""
    return f'{self._files[index][0]} (record {index})'


# Paths are plain strings below: there may be millions.
_Classes = dict[str, list[str]]


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  paths = (path for path in folder.iterdir() if path.name[0] != '.')
  return sorted(paths, key=lambda path: path.name)


def _files_below(folder: pathlib.Path) -> Iterator[str]:
  """Yields every file that is not hidden, in a fixed order."""
  for at, folders, files in os.walk(folder, followlinks=True):
    folders[:] = sorted(name for name in folders if name[0] != '.')
    for name in sorted(files):
      if name[0] != '.':
        yield os.path.join(at, name)


def _list_classes(folder: pathlib.Path, skip: bool) -> _Classes:
  """Lists the image files of each class; '' is the folder itself."""
  extensions = Image.registered_extensions()
  classes: _Classes = {}
  foreign = []
  for path in _visible(folder):
    name = path.name if path.is_dir() else ''
    for file in _files_below(path) if name else (str(path),):
      if os.path.splitext(file)[1].lower() in extensions:
        classes.setdefault(name, []).append(file)
      else:
        foreign.append(file)
  if foreign and not skip:
    more = f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''
    raise DataError(
      f'{foreign[0]}{more} is not an image file (by its extension), and a '
      'folder of images must hold nothing else. Move it away, or pass over '
      'such files with --data.on-error skip.'
    )
  for file in foreign:
    log.warning('Skipped %s: not an image file', file)
  if '' in classes and len(classes) > 1:
    raise DataError(
      f'{classes[""][0]} lies beside the class folders of {folder}. Put every '
      'image into the subfolder of its class, or all into one folder.'
    )
  if not classes:
    raise DataError(
      f'{folder} holds no images. Expected {folder}/CLASS/IMAGE.png, or '
      f'{folder}/train/CLASS/IMAGE.png and {folder}/test/CLASS/IMAGE.png.'
    )
  return classes


def _hold_out(classes: _Classes) -> dict[str, _Classes]:
  """Holds out a tenth of every class, by a hash of the file's name.

  An image keeps its split when others are added, but for those at the edge. A
  class of one image is trained on only.
  """
  train: _Classes = {}
  test: _Classes = {}
  for name, paths in classes.items():
    ranked = sorted(paths, key=_hash_of_name)
    count = max(1, round(len(paths) / HELD_OUT)) if len(paths) > 1 else 0
    held = set(ranked[:count])
    test[name] = [path for path in paths if path in held]
    train[name] = [path for path in paths if path not in held]
  return {'train': train, 'test': test, 'all': classes}


def _hash_of_name(path: str) -> bytes:
  return hashlib.sha256(os.path.basename(path).encode()).digest()
