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


def test_a_range_of_crops():
  data.DataConfig(crop_min=0.9, crop_max=0.9)
  with pytest.raises(data.DataError, match=r'crop_min=0\.9 and crop_max=0\.8'):
    data.DataConfig(crop_min=0.9, crop_max=0.8)


def test_a_folder_needs_a_place():
  with pytest.raises(data.DataError, match='needs data_dir'):
    data.DataConfig(name='folder')
