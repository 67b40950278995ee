"""Texts on the command line: their flags, and their features.

Dimension letters: B texts, M tokens of a text, D features of one.
"""

import dataclasses
from collections.abc import Sequence

import jax

from tokpress_jax import models
from tokpress_jax.cli import common


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFlags:
  """What a model that reads texts is told.

  Attributes:
    text: Of models that read texts (TA-TiTok, MaskGen).
    text_encoder: What encodes them: released weights by name, or a file of
      `tokpress convert clip-text`.
    vocabulary: Its tokenizer.json; downloaded by default.
  """

  text: tuple[str, ...] = ()
  text_encoder: str = 'clip-text-l14'
  vocabulary: str | None = None

  def encode(self, texts: Sequence[str]) -> models.TextFeatures:
    """Encodes texts; B rows, on the host.

    Raises:
      UserError: The encoder or its vocabulary cannot be had.
    """
    encoder = common.load(self.text_encoder, 'encoder')
    codes = models.clip_codes(
      texts,
      vocabulary=self.vocabulary,
      length=encoder.module.config.length,
    )
    run = jax.jit(lambda encoder, codes: encoder(codes))
    return common.in_batches(lambda x: run(encoder, x), [codes], 16)
