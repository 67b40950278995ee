import pathlib

from tokpress_jax import data


def test_list_shows_embedded_prepared_and_folder(data_dir, tmp_path):
  assert [name for name, _ in data.list_datasets(data_dir)] == [
    'digits',
    'photos',
    'scenes',
    'folder',
    'tokens',
  ]
  directory = pathlib.Path(tmp_path) / 'birds' / 'small' / '1.0.0'
  directory.mkdir(parents=True)
  (directory / 'dataset_info.json').write_text('{}')
  assert ('birds/small', f'prepared in {directory}') in data.list_datasets(
    str(tmp_path)
  )


def test_describe_says_what_is_trained_on(data_dir):
  text = data.describe(data.DataConfig(data_dir=data_dir, split='train[:9%]'))
  for part in (
    'digits: 8x8 scans',
    'train    1,500 records, trained on (train[:9%])',
    'test     297 records, evaluated on',
    '8 x 8, 1 channel',
    'classes  10: 0, 1, 2',
  ):
    assert part in text
