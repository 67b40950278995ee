"""What is trained on: TFDS data sets, folders, three embedded sets, tokens.

Importing this package imports neither Grain nor TFDS.
"""

from tokpress_jax.data.catalog import describe, list_datasets
from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.data.dataset import (
  Dataset,
  DatasetInfo,
  Record,
  open_dataset,
)
from tokpress_jax.data.pipeline import Batch, Stream, eval_batches
from tokpress_jax.data.storage import prepare

__all__ = [
  'Batch',
  'DataConfig',
  'DataError',
  'Dataset',
  'DatasetInfo',
  'Record',
  'Stream',
  'describe',
  'eval_batches',
  'list_datasets',
  'open_dataset',
  'prepare',
]
