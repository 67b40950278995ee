"""Texts of a few known words to codes, and what they say back.

Captions of small data sets need no byte pairs: each word is a code. 0 fills a
row up, 1 begins a text, then come the words, and the largest code ends it,
where `models.ClipText` looks (`pool='end'`).

Dimension letters: B texts, M tokens of a text, V codes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from tokpress_jax.errors import UserError

START = 1
_WORD = re.compile(r'[^\W_]+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordCodec:
  """Words to codes; case and punctuation are ignored.

  Attributes:
    words: that it knows, in the order of their codes.
    length: M, start and end included.
  """

  words: tuple[str, ...]
  length: int

  @property
  def vocabulary(self) -> int:
    """V, the words and three more."""
    return len(self.words) + 3

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Gives the codes of texts.

    Args:
      texts: B of them.

    Returns:
      int32 [B, M].

    Raises:
      UserError: lists every word that it does not know, and those that it does;
        or says that a text has too many.
    """
    if isinstance(texts, str):
      raise UserError('texts is a list of texts, such as [text]; got one str')
    known = {word: code for code, word in enumerate(self.words, START + 1)}
    split = [_WORD.findall(text.lower()) for text in texts]
    foreign = {word for words in split for word in words if word not in known}
    if foreign:
      raise UserError(
        f'unknown words: {", ".join(sorted(foreign))}; the texts that were '
        f'trained on have {", ".join(sorted(self.words))}'
      )
    codes = np.zeros((len(split), self.length), np.int32)
    for row, words in zip(codes, split, strict=True):
      if len(words) + 2 > self.length:
        raise UserError(
          f'{" ".join(words)!r} has {len(words)} words, and there is room for '
          f'{self.length - 2}; give a shorter text'
        )
      line = [START, *(known[word] for word in words), self.vocabulary - 1]
      row[: len(line)] = line
    return codes

  def decode(self, codes: np.ndarray) -> list[str]:
    """Gives the words of codes [B, M], without punctuation."""
    inside = range(START + 1, self.vocabulary - 1)
    return [
      ' '.join(self.words[code - START - 1] for code in row if code in inside)
      for row in codes.tolist()
    ]
