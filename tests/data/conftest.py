import pytest

from tokpress_jax import data


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A directory of data sets that holds the digits."""
  root = str(tmp_path_factory.mktemp('data'))
  data.prepare('digits', root)
  return root
