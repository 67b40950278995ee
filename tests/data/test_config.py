import dataclasses

import pytest

from tokpress_jax import data


def test_all_that_changes_the_images_is_identity():
  free = {
    field.name
    for field in dataclasses.fields(data.DataConfig)
    if not field.metadata.get('identity')
  }
  assert free == {'workers', 'cache_mib'}


def test_every_wrong_field_is_named():
  with pytest.raises(data.DataError) as error:
    data.DataConfig(
      channels=2, fit='squash', on_error='ignore', workers=-1, image_size=0
    )
  for name in ('channels=2', "'squash'", "'ignore'", 'workers=-1', 'size=0'):
    assert name in str(error.value)


def test_a_folder_needs_a_place():
  with pytest.raises(data.DataError, match='needs data_dir'):
    data.DataConfig(name='folder')
