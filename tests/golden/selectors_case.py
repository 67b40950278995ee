"""The inputs of selectors.npz: text, a grid of image tokens, text again."""

import numpy as np

ROWS, SIDE, BEFORE, AFTER, HEADS, WIDTH = 3, 6, 3, 4, 2, 4
IMAGE = SIDE**2
SLOTS = BEFORE + IMAGE + AFTER
RATIOS = (0.5, 0.8)  # of image tokens that leave
KEPT = (18, 7)
IMAGE_PIVOTS, TEXT_PIVOTS = 3, 2
ALPHA = 0.6  # HiPrune's share of anchors with their neighbours
ANCHORS = (2, 1)  # round(KEPT * ALPHA / 5)
BALANCE = 0.4


def inputs():
  """Standard normal arrays by name, float32, of ROWS samples.

  `embeds` and `llm_keys` are of all tokens; `queries` and `keys` of two ViT
  layers have the class token in front; `importance` is of image tokens.
  """
  rng = np.random.default_rng(11)
  draw = lambda *s: rng.normal(size=(ROWS, *s)).astype(np.float32)
  return {
    'embeds': draw(SLOTS, 8),
    'llm_keys': draw(HEADS, SLOTS, WIDTH),
    'queries': draw(2, HEADS, 1 + IMAGE, WIDTH),
    'keys': draw(2, HEADS, 1 + IMAGE, WIDTH),
    'importance': draw(IMAGE),
  }


def is_image():
  """[SLOTS] bool."""
  slots = np.arange(SLOTS)
  return (slots >= BEFORE) & (slots < BEFORE + IMAGE)
