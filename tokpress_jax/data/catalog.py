"""What data sets there are, and what one of them holds, in words."""

from tokpress_jax.data import builders, storage
from tokpress_jax.data.config import DataConfig
from tokpress_jax.data.dataset import open_dataset


def list_datasets(data_dir: str | None = None) -> tuple[tuple[str, str], ...]:
  """Lists the data sets that can be used at once, with a line on each.

  Args:
    data_dir: The directory of data sets; see `storage.data_root`.

  Returns:
    (name, line) of the embedded ones, of those prepared in the directory, of
    `folder` and of `tokens`.
  """
  embedded = [
    (name, f'{line} (embedded)')
    for name, (_, line) in builders.EMBEDDED.items()
  ]
  prepared = [
    (name, f'prepared in {directory}')
    for name, directory in storage.prepared(data_dir)
    if name not in builders.EMBEDDED
  ]
  folder = ('folder', 'your own images, a subfolder per class, in data_dir')
  tokens = ('tokens', 'what `tokpress encode --data` wrote, in data_dir')
  return (*embedded, *prepared, folder, tokens)


def describe(config: DataConfig) -> str:
  """Describes a data set: files, splits, sizes, classes, hold-outs.

  Args:
    config: The data set; an embedded one is prepared if need be.

  Returns:
    A few lines of text.

  Raises:
    DataError: If the data set cannot be opened.
  """
  info = open_dataset(config).info
  size, fit = info.image_size, config.fit
  shown = 'of various sizes' if size is None else f'{size} x {size}'
  lines = [f'{info.name}: {info.description}', f'  files    {info.directory}']
  if info.tokens is not None:
    fit = info.tokens.fit
    lines.append(
      f'  tokens   {info.tokens.tokens} of {info.tokens.codebook_size} codes, '
      f'by {info.tokens.tokenizer} (fingerprint {info.tokens.fingerprint})'
    )
  lines.append(f'  images   {shown}, {info.channels} channel(s), fit {fit}')
  for name, count in info.splits:
    uses = (('trained on', config.split), ('evaluated on', config.eval_split))
    roles = [
      f', {role}' + (f' ({split})' if split != name else '')
      for role, split in uses
      if split.partition('[')[0] == name
    ]
    lines.append(f'  {name:8} {count:,} records{"".join(roles)}')
  if info.num_classes:
    names = ', '.join(info.class_names[:20])
    more = ', ...' if info.num_classes > 20 else ''
    lines.append(f'  classes  {info.num_classes}: {names}{more}')
  else:
    lines.append('  classes  none')
  return '\n'.join(lines)
