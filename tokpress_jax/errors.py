"""The error that a user can mend, and the exit code of a stopped run."""

import difflib
from collections.abc import Iterable

# Stopped by SIGTERM: not done, start me again (EX_TEMPFAIL of sysexits.h).
EXIT_PREEMPTED = 75


class UserError(ValueError):
  """Something the user gave cannot work; the message says what would.

  The command line prints the message of such an error, without a trace, and
  exits with status 2. In Python it is a `ValueError`.
  """


def did_you_mean(given: str, known: Iterable[str]) -> str:
  """Returns a sentence that names the nearest of `known`, or what there is.

  Args:
    given: the name that was not found.
    known: the names that exist.
  """
  known = sorted(known)
  near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
  if near:
    return f'Did you mean {" or ".join(repr(name) for name in near)}?'
  if not known:
    return 'There are none.'
  shown = ', '.join(repr(name) for name in known[:20])
  more = f' and {len(known) - 20} more' if len(known) > 20 else ''
  return f'Known names: {shown}{more}.'
