"""The error that a user can mend."""


class UserError(ValueError):
  """Something the user gave cannot work; the message says what would.

  The command line prints the message of such an error, without a trace, and
  exits with status 2. In Python it is a `ValueError`.
  """
