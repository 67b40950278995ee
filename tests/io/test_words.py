"""Texts of known words."""

import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.io.words import WordCodec

CODEC = WordCodec(words=('red', 'green', 'disc', 'ring'), length=6)


def test_codes_are_words_between_start_and_end():
  codes = CODEC.encode(['Red disc,  green RING', 'disc.', ''])
  expected = [[1, 2, 4, 3, 5, 6], [1, 4, 6, 0, 0, 0], [1, 6, 0, 0, 0, 0]]
  np.testing.assert_array_equal(codes, expected)
  assert codes.dtype == np.int32 and CODEC.vocabulary == 7
  # The largest code ends a text, where `ClipText` looks for what it says.
  assert (codes.max(axis=1) == 6).all()
  assert CODEC.decode(codes) == ['red disc green ring', 'disc', '']


def test_unknown_words_are_named_with_the_known_ones():
  with pytest.raises(UserError) as error:
    CODEC.encode(['a red cat', 'blue'])
  assert 'unknown words: a, blue, cat' in str(error.value)
  assert 'disc, green, red, ring' in str(error.value)


def test_texts_that_are_too_long_are_refused():
  with pytest.raises(UserError, match='5 words, and there is room for 4'):
    CODEC.encode(['red disc red disc red'])
  with pytest.raises(UserError, match='list of texts'):
    CODEC.encode('red disc')
