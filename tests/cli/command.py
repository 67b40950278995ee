"""The command line, called in this process."""

from tokpress_jax import __main__ as entry


def run(*argv):
  """Gives the exit code of `tokpress ARGV ...`."""
  try:
    return entry.main(list(map(str, argv)))
  except SystemExit as leave:
    return leave.code
