"""`tokpress COMMAND ...`, also `python -m tokpress_jax COMMAND ...`."""

import contextlib
import importlib
import os
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

from tokpress_jax.errors import EXIT_PREEMPTED, UserError, did_you_mean

_COMMANDS = {
  'train': 'train a config, or go on with a work directory',
  'evaluate': "measure a run's checkpoint, or an exported model",
  'sample': 'draw images from a generator, or edit one',
  'encode': 'image files, or a whole data set, to tokens',
  'decode': 'files of tokens to images',
  'reconstruct': 'images through a tokenizer, at several token budgets',
  'complexity': 'tokens of images against what is known of them',
  'rate': 'bytes of token files against quality, beside JPEG and WebP',
  'prune': 'show which patches of an image a pruner keeps',
  'export': 'write a model directory from a run, or StableHLO from a model',
  'convert': 'released weights of other code to a file that `load` reads',
  'report': 'measure runs, and show them on one page',
  'data': 'prepare, describe and list data sets',
  'bench': 'time something, beside a peer where there is one',
  'new': 'a pruner of your own and its test, to be edited',
  'list': 'the models, pruners, tasks and data sets that there are',
}
_PACKAGE = pathlib.Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: The words after `tokpress`; those of the process by default.

  Returns:
    The exit status: 0, 2 for an error of the user's, or what the command
    documents (`train`: see `tokpress_jax.train.preempt`).
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] in ('-h', '--help', 'help'):
    print(_usage())
    return 0 if argv else 2
  warnings.formatwarning = _one_line
  try:
    if argv[0] not in _COMMANDS:
      raise UserError(
        f'There is no command {argv[0]!r}. {did_you_mean(argv[0], _COMMANDS)}'
      )
    if argv[0] == 'train':
      # Until the trainer takes over there is nothing to save, and its imports
      # alone take seconds.
      signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_PREEMPTED))
    if argv[0] != 'bench':  # which times compilation too
      _keep_programs()
    command = importlib.import_module(f'tokpress_jax.cli.{argv[0]}')
    return command.main(argv[1:]) or 0
  except (ValueError, FileNotFoundError) as error:
    if os.environ.get('TOKPRESS_TRACEBACK') or not _is_ours(error):
      raise
    print(f'tokpress: error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('tokpress: interrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:  # `tokpress list | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _keep_programs() -> None:
  """Compiled programs are kept for the next command, as far as possible.

  $JAX_COMPILATION_CACHE_DIR says where, $JAX_ENABLE_COMPILATION_CACHE=0 that
  they are not. JAX reads both when it is imported.
  """
  with contextlib.suppress(OSError, RuntimeError):  # no home, or read-only
    place = pathlib.Path('~/.cache/tokpress_jax/programs').expanduser()
    place.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(place))


def _usage() -> str:
  width = max(map(len, _COMMANDS))
  lines = [f'  {name:{width}}  {text}' for name, text in _COMMANDS.items()]
  return '\n'.join(
    (
      'usage: tokpress COMMAND ...',
      '',
      'Fewer tokens: train, use and measure tokenizers, generators, pruners.',
      '',
      *lines,
      '',
      '`tokpress COMMAND --help` lists every option. TOKPRESS_TRACEBACK=1',
      'shows where an error comes from.',
    )
  )


def _is_ours(error: Exception) -> bool:
  """Whether this library raised it, which is then written for the reader."""
  if isinstance(error, UserError):
    return True
  frames = traceback.extract_tb(error.__traceback__)
  return bool(frames) and _PACKAGE in pathlib.Path(frames[-1].filename).parents


def _one_line(
  message: Warning | str,
  category: type[Warning],
  filename: str,
  lineno: int,
  line: str | None = None,
) -> str:
  del filename, lineno, line
  return f'{category.__name__}: {message}\n'


if __name__ == '__main__':
  sys.exit(main())
