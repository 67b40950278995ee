"""TFRecord files to ArrayRecord files, byte for byte and without TensorFlow.

A TFRecord is: length (uint64), its checksum (uint32), the bytes, their
checksum (uint32), all little-endian. ArrayRecord adds an index, which is what
reading in any order needs; the records themselves stay the same.
"""

import json
import os
import pathlib
import struct
from collections.abc import Iterator

from tokpress_jax.data.config import DataError


def read_tfrecord(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of an uncompressed TFRecord file.

  Args:
    path: The file.

  Yields:
    The bytes of each record; checksums are not verified.

  Raises:
    DataError: If the file ends inside a record.
  """
  with path.open('rb') as file:
    while header := file.read(12):
      length = struct.unpack('<Q', header[:8])[0] if len(header) == 12 else -1
      record = file.read(length) if length >= 0 else b''
      if len(record) != length or len(file.read(4)) != 4:
        raise DataError(
          f'{path} is truncated or no TFRecord file. Remove its directory and '
          'prepare the data set again.'
        )
      yield record


def to_array_record(directory: pathlib.Path) -> None:
  """Writes an ArrayRecord file beside every TFRecord file of a data set.

  Args:
    directory: A prepared TFDS data set, whose `dataset_info.json` will name
      the new format as an alternative, last of all.

  Raises:
    DataError: If the files do not hold what `dataset_info.json` says.
  """
  from array_record.python import array_record_module

  info_path = directory / 'dataset_info.json'
  info = json.loads(info_path.read_text())
  shards = [
    (f'{info["name"]}-{split["name"]}', index, len(lengths), int(length))
    for split in info['splits']
    for lengths in [split['shardLengths']]
    for index, length in enumerate(lengths)
  ]
  for stem, index, count, length in shards:
    source = directory / f'{stem}.tfrecord-{index:05}-of-{count:05}'
    if not source.exists():
      raise DataError(f'{source} is missing: prepare the data set again.')
    target = directory / source.name.replace('.tfrecord-', '.array_record-')
    partial = target.with_name(f'.{target.name}.{os.getpid()}')
    try:
      writer = array_record_module.ArrayRecordWriter(
        str(partial), 'group_size:1'
      )
      written = 0
      for record in read_tfrecord(source):
        writer.write(record)
        written += 1
      writer.close()
      if written != length:
        raise DataError(
          f'{source} holds {written} records, dataset_info.json says {length}: '
          'prepare the data set again.'
        )
      partial.replace(target)
    finally:
      partial.unlink(missing_ok=True)
  others = info.get('alternativeFileFormats', [])
  info['alternativeFileFormats'] = [*others, 'array_record']
  partial = directory / f'.dataset_info.{os.getpid()}'
  partial.write_text(json.dumps(info, indent=2))
  partial.replace(info_path)
