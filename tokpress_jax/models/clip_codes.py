"""Texts to CLIP's codes, by its released vocabulary.

Dimension letters: B texts, M tokens of a text.
"""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tokpress_jax.errors import UserError

REPOSITORY = 'openai/clip-vit-large-patch14-336'
FILE = 'tokenizer.json'


def clip_codes(
  texts: Sequence[str],
  *,
  vocabulary: str | os.PathLike[str] | None = None,
  length: int = 77,
) -> np.ndarray:
  """Gives what `ClipText` reads.

  As open_clip does, with which TA-TiTok and MaskGen were trained: texts in
  lower case with single spaces, cut off where they are too long, and filled
  with zeros after their end (Hugging Face's own fills with the end, and gives
  other features there). Characters that were garbled by a wrong decoding are
  not mended as there.

  Args:
    texts: B of them.
    vocabulary: a `tokenizer.json` of CLIP; of the Hugging Face hub if None.
    length: M.

  Returns:
    int32 [B, M].

  Raises:
    UserError: if the vocabulary, or a package to read it with, is missing.
  """
  try:
    import tokenizers
  except ImportError:
    raise UserError(
      "reading texts needs the package tokenizers: pip install 'tokpress-jax"
      "[hub]'"
    ) from None
  if isinstance(texts, str):
    raise UserError('texts is a list of texts, such as [text]; got one str')
  path = _find(vocabulary)
  try:
    codec = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # It raises a bare Exception.
    raise UserError(f'{path} is no {FILE} of CLIP: {error}') from error
  codec.no_padding()
  codec.no_truncation()
  codes = np.zeros((len(texts), length), np.int32)
  for row, text in zip(codes, texts, strict=True):
    plain = html.unescape(html.unescape(text))
    ids = codec.encode(' '.join(plain.split()).lower()).ids
    row[: len(ids)] = ids[:length]
    if len(ids) > length:
      row[-1] = ids[-1]  # Where a text is cut off it ends.
  return codes


def _find(vocabulary: str | os.PathLike[str] | None) -> pathlib.Path:
  """The file, downloaded where none is given."""
  if vocabulary is not None:
    path = pathlib.Path(vocabulary).expanduser()
    if not path.is_file():
      raise UserError(
        f'there is no file {str(path)!r}; it is {FILE} of '
        f'https://huggingface.co/{REPOSITORY}'
      )
    return path
  try:
    import huggingface_hub

    return pathlib.Path(huggingface_hub.hf_hub_download(REPOSITORY, FILE))
  except (ImportError, OSError, ValueError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = reason.rstrip('.')
    raise UserError(
      f'the vocabulary of CLIP could not be downloaded: {reason}. Give '
      f'{FILE} of https://huggingface.co/{REPOSITORY} as a file.'
    ) from error
