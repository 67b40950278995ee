"""Zero-shot edits: which tokens are kept, and that they are."""

import jax
import numpy as np
import pytest
import tiny_models

from tokpress_jax import generators
from tokpress_jax.errors import UserError
from tokpress_jax.generators import editing

SIDES = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
SCALES = tuple((s, s) for s in SIDES)


def oracle(box, inside):
  """The mask of the official demo, with torch's bilinear interpolation."""
  torch = pytest.importorskip('torch')
  side = SIDES[-1]
  mask = torch.zeros(side, side)
  top, left, bottom, right = (round(x * side) for x in box)
  mask[top:bottom, left:right] = 1
  if inside:
    mask = 1 - mask
  parts = []
  for s in SIDES:
    small = torch.nn.functional.interpolate(
      mask[None, None], size=(s, s), mode='bilinear', align_corners=False
    )
    kept = small[0, 0] > 0.5
    if s * s <= 3:
      kept = torch.ones_like(kept)
    parts.append(~kept.reshape(-1))
  return torch.cat(parts).numpy()


@pytest.mark.parity
@pytest.mark.parametrize('box', [(0.1, 0.1, 0.8, 0.8), (0, 0.4, 0.33, 1)])
@pytest.mark.parametrize('draw', ['inside', 'outside'])
def test_the_mask_is_that_of_the_official_demo(box, draw):
  ours = editing.drawn_tokens(SCALES, editing.Box(*box), draw=draw)
  np.testing.assert_array_equal(ours, oracle(box, draw == 'inside'))


def test_a_hand_checked_mask():
  box = editing.Box(0, 0, 0.5, 1)  # the upper half
  scales = ((1, 1), (2, 2), (4, 4))
  drawn = editing.drawn_tokens(scales, box)
  want = [False] + [True] * 2 + [False] * 2 + [True] * 8 + [False] * 8
  np.testing.assert_array_equal(drawn, want)
  other = editing.drawn_tokens(scales, box, draw='outside')
  assert not other[0] and (other[1:] != drawn[1:]).all()


def test_kept_tokens_are_kept_and_the_class_matters_inside():
  model = tiny_models.scale_wise()
  codes = model.tokenizer.encode(tiny_models.IMAGES).codes
  box = editing.Box(0, 0, 0.5, 1)
  forced = editing.keep(codes, model.tokenizer.scales, box)
  drawn = editing.drawn_tokens(model.tokenizer.scales, box)
  sampler = generators.Sampler(guidance=3.0)
  run = lambda labels, seed: generators.sample(
    model, labels, rng=jax.random.key(seed), sampler=sampler, forced=forced
  ).codes[..., 0]
  got = [run(np.array([0, 1]), seed) for seed in range(4)]
  for found in got:
    np.testing.assert_array_equal(found[:, ~drawn], codes[:, ~drawn, 0])
  assert any((a != got[0])[:, drawn].any() for a in got[1:])


def test_bad_boxes_and_codes_are_refused():
  with pytest.raises(UserError, match='fractions of the image'):
    editing.Box(0.5, 0.1, 0.2, 0.8)
  scales = ((1, 1), (4, 4))
  with pytest.raises(UserError, match=r'draw inside .* 4 x 4 .* it larger'):
    editing.drawn_tokens(scales, editing.Box(0.5, 0.5, 0.6, 0.6))
  with pytest.raises(UserError, match=r'draw outside .* make it smaller'):
    whole = editing.Box(0, 0, 0.99, 1)
    editing.drawn_tokens(scales, whole, draw='outside')
  with pytest.raises(UserError, match=r'codes of these scales are \[B, 5, 1\]'):
    box = editing.Box(0, 0, 1, 1)
    editing.keep(np.zeros((2, 4, 1)), ((1, 1), (2, 2)), box)
