"""Texts on the command line: their flags, and their features.

Dimension letters: B texts, M tokens of a text, D features of one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tokpress_jax import generators, models
from tokpress_jax.cli import common
from tokpress_jax.data import streaming
from tokpress_jax.errors import UserError
from tokpress_jax.types import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFlags:
  """What a model that reads texts is told.

  Attributes:
    text: Texts, of models that read them: TA-TiTok's decoder, MaskGen.
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
    return streaming.in_batches(lambda x: run(encoder, x), [codes], 16)

  def for_tower(self, model: Loaded) -> tuple[Loaded, np.ndarray | None]:
    """The image tower of a model, and what stands for each text beside it.

    Args:
      model: a CLIP, whose own text tower is read; or an image tower, beside
        `text_encoder`.

    Returns:
      The tower; float32 [B, P], or None if there are no texts.

    Raises:
      UserError: a text has words that are not known, or see `encode`.
    """
    config = model.module.config
    if not isinstance(config, models.CLIPConfig):
      if not self.text:
        return model, None
      return model, np.asarray(self.encode(self.text).pooled)
    image, text = models.clip_towers(model)
    if not self.text:
      return image, None
    pooled = jax.jit(lambda text, codes: text(codes).pooled)
    return image, np.asarray(pooled(text, config.codes(self.text)))

  def for_decoder(self, config: Any, count: int) -> np.ndarray | None:
    """What the decoder of a tokenizer reads of the texts.

    Args:
      config: the tokenizer's.
      count: images; one text stands for all of them.

    Returns:
      float32 [count, M, D], or None if it reads no text.

    Raises:
      UserError: There are too few texts, or none is read.
    """
    given = len(self.text)
    if config.condition_shape is None:
      if given:
        raise UserError(
          '--text is of tokenizers whose decoder reads a text (TA-TiTok); the '
          'decoder of this one reads none.'
        )
      return None
    if given not in (1, count):
      raise UserError(
        'The decoder of this tokenizer reads a text: give --text, one for all '
        f'images or one for each ({count}); got {given}. An empty one, '
        '--text "", says nothing.'
      )
    features = self.encode(self.text).last
    return np.broadcast_to(features, (count, *features.shape[1:]))

  def for_generator(self, config: Any, *, score: float) -> Any:
    """What a generator and its tokenizer read of the texts.

    Args:
      config: the generator's.
      score: how beautiful the images are to be.

    Returns:
      A `generators.Text` of B rows, or None if it draws classes.

    Raises:
      UserError: There is no text, or none is read.
    """
    if not config.reads_text:
      if self.text:
        raise UserError(
          '--text is of generators that read texts (MaskGen); this one draws '
          f'{config.num_classes} classes: give --labels.'
        )
      return None
    if not self.text:
      raise UserError('This generator draws texts: give --text "what to draw".')
    found = self.encode((*self.text, ''))
    return generators.text(
      found.before_last[:-1],
      found.pooled[:-1],
      null_features=found.before_last[-1:],
      null_pooled=found.pooled[-1:],
      score=score,
      for_decoder=found.last[:-1],
    )
