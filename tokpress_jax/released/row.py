"""What is said of a released file."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokpress_jax.released.kinds import KINDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Released:
  """A published file.

  Attributes:
    name: what `load` takes.
    kind: its layout.
    config: the function of the kind's `keys` that gives its config; '' where
      it is read off the tensors, since nothing at hand says it.
    arguments: of that function.
    parameters: how many numbers the model has; 0 where that is not known.
    repository: on the Hugging Face hub; '' where the authors' page links the
      file elsewhere, so that it must be given to `tokpress convert`.
    file: in the repository.
    instead: what the file may be called there too.
    beside: other files that must lie beside it.
    tokenizer: name of the tokenizer that it belongs to.
  """

  name: str
  kind: str
  config: str = ''
  arguments: tuple[int | str, ...] = ()
  parameters: int = 0
  repository: str
  file: str
  instead: tuple[str, ...] = ()
  beside: tuple[str, ...] = ()
  tokenizer: str = ''

  def make_config(self) -> Any:
    """The config of the weights."""
    return KINDS[self.kind].attribute(self.config)(*self.arguments)
