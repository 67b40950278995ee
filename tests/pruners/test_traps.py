"""Where codes and papers mislead who writes a method again.

`TRAPS` says what each is, and which test fails for one who falls into it. The
tests here are of those that no method's own test holds.
"""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.pruners import before_llm, compressors, scores
from tokpress_jax.types import OneHot, Reduction, Signals, Tap, Tokens

HERE = pathlib.Path(__file__).parent
MERGING = 'before_llm/test_merging.py::'
CROPS = 'before_llm/test_crops.py::'
VIDEO = 'before_llm/test_video.py::'
SPACE = 'before_llm/test_outliers_and_space.py::'
ORACLES = 'before_llm/test_oracles.py::'
ANGELSLIM = 'before_llm/test_angelslim.py::'
OFFICIAL = 'compressors/test_official.py::'
OWN = 'test_traps.py::'
TRAPS = {
  # Merging and applying.
  'a mean counts the token that others join (include_self)': OWN
  + 'test_a_mean_counts_the_token_that_others_join',
  'ToMe sorts what it does not merge only if there is a class token': (
    'test_tome.py::'
    'test_without_a_class_token_the_official_order_falls_with_similarity'
  ),
  "VisionZip adds the target to the others' mean, AngelSlim averages": MERGING
  + 'test_visionzip_adds_target_and_mean_where_angelslim_averages',
  'VisionZip counts the class token among its dominant ones': OWN
  + 'test_visionzip_counts_the_class_token_among_54',
  'PruMerge attends with all heads as one': MERGING
  + 'test_prumerge_equals_the_official_code',
  "PruMerge's softmax counts the class token": MERGING
  + 'test_the_softmax_of_prumerge_counts_the_class_token',
  'PruMerge+ adds a stride of its own for each setting': MERGING
  + 'test_prumerge_plus_equals_the_official_code',
  'Recoverable takes the width, not the tokens, times the outliers': SPACE
  + 'test_recoverable_equals_the_official_code',
  'AIM takes means of means': MERGING + 'test_aim_equals_the_official_code',
  'AIM masks and shortens nothing': OWN + 'test_aim_shortens_the_row',
  'MustDrop merges as many windows in each image of a batch': OWN
  + 'test_mustdrop_merges_as_many_windows_as_an_image_has',
  'MustDrop rounds its key set up': SPACE + 'test_the_key_set_is_rounded_up',
  # Scores and selection.
  'DivPrune starts far from its nearest neighbour, rounds its ratio': ANGELSLIM
  + 'test_tokens_are_those_of_angelslim',
  'VTC-CLS leaves the last layer out': OWN
  + 'test_vtc_cls_leaves_the_last_layer_out',
  "HiPrune's neighbours go on in the next row": OWN
  + 'test_hiprunes_neighbours_go_on_in_the_next_row',
  'HiPrune counts layers from 1, and rounds halves to even': OWN
  + 'test_hiprune_counts_layers_from_1_and_rounds_halves_to_even',
  'HiRED groups raster places, not blocks': CROPS
  + 'test_hired_groups_raster_places_unless_told_to_take_blocks',
  'GlobalCom2 reads logits': CROPS + 'test_globalcom2_equals_the_official_code',
  "GlobalCom2's thumbnail is in the order of scores": CROPS
  + 'test_globalcom2_equals_the_official_code',
  'DART measures keys by the sum of absolute values': ANGELSLIM
  + 'test_tokens_are_those_of_angelslim',
  'IDPruner picks first by importance alone': ANGELSLIM
  + 'test_tokens_are_those_of_angelslim',
  'SCOPE multiplies gain and saliency': ANGELSLIM
  + 'test_tokens_are_those_of_angelslim',
  'VisPruner drops few duplicates at a time': ANGELSLIM
  + 'test_tokens_are_those_of_angelslim',
  'ToDRE adds similarities up (max-sum, not max-min)': ORACLES
  + 'test_rows_equal_the_loop_and_ignore_padding',
  'CATP is facility location, no determinant': ORACLES
  + 'test_rows_equal_the_loop_and_ignore_padding',
  'ZOO-Prune: tokens share their directions': OWN
  + 'test_zoo_prune_shares_its_directions',
  'ZOO-Prune: a step of 0.01 is lost in bfloat16': OWN
  + 'test_zoo_prune_steps_in_float32',
  'ZOO-Prune: sensitivities lie in 0 to 1, and are multiplied': ORACLES
  + 'test_rows_equal_the_loop_and_ignore_padding',
  "SeGPruner's distances are over the first one's largest": SPACE
  + 'test_segpruner_equals_the_official_code',
  # Frames and positions.
  'DTD compares with the frame before, dropped or not': VIDEO
  + 'test_dtd_compares_with_the_frame_before_though_it_was_dropped',
  'DyCoke spares the last four frames its second pass': VIDEO
  + 'test_dycoke_equals_lightcompress',
  'DyCoke loses the last of an odd number of frames': VIDEO
  + 'test_shorter_videos_equal_single_ones',
  "PPE's K must divide the sections of M-RoPE": VIDEO
  + 'test_what_does_not_fit_is_said',
  "PPE's members repeat where a cluster has few": (
    'test_positions.py::test_the_heaviest_members_come_first_and_repeat'
  ),
  # Learned compressors.
  'M3 leaves out what its windows do not tile': (
    'compressors/test_nested.py::test_numbers_that_do_not_tile_are_refused'
  ),
  "MQT's keys hold no content": (
    'compressors/test_nested.py::test_keys_have_no_content'
  ),
  "MQT's random numbers are even": (
    'compressors/test_nested.py::test_random_prefixes_are_even_and_all_occur'
  ),
  'TokenPacker does not add the query to its output': OFFICIAL
  + 'test_token_packer',
  "QueCC's keys and values do not see the question": OFFICIAL + 'test_quecc',
  'TokenFLEX draws its numbers 2 to 3 to 5': (
    'compressors/test_token_flex.py::test_sides_are_drawn_two_to_three_to_five'
  ),
  'HICom starts as if nothing were adapted': (
    'compressors/test_hicom.py::test_what_is_adapted_starts_as_it_was'
  ),
  "HICom's published global queries are all the text": OFFICIAL
  + 'test_hicom_global',
  'SliME adds over words, and exceeds its mass': (
    'compressors/test_slime.py::test_kept_tokens_are_the_official_ones'
  ),
  'LLaVolta averages positions in half precision': (
    'compressors/test_llavolta.py::'
    'test_half_precision_loses_positions_and_the_mean_does_not'
  ),
  "LLaVolta's stages have a step more than its script says": (
    'compressors/test_llavolta.py::test_the_curriculum_is_the_official_one'
  ),
  'Mini-Monkey leaves out the token behind the compressed ones': (
    'compressors/test_mini_monkey.py::'
    'test_the_kept_tokens_are_the_official_ones'
  ),
  'Mini-Monkey takes the first tiles to be the fine ones': OWN
  + 'test_mini_monkeys_fine_tiles_may_come_last',
}


@pytest.mark.parametrize('trap', TRAPS)
def test_each_trap_has_a_test(trap):
  file, name = TRAPS[trap].split('::')
  tree = ast.parse((HERE / file).read_text())
  assert name in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}


@functools.partial(jax.jit, static_argnums=0)
def run(pruner, tokens, signals):
  return pruner(tokens, signals)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_mean_counts_the_token_that_others_join():
  x = draw(0, 1, 3, 2)
  target = jnp.array([[1, 0, 1]])  # the first joins the last
  index = jnp.array([[1, 2]])
  for merged in (1, None):
    result = Reduction(
      index=index,
      valid=jnp.ones((1, 2), bool),
      assign=OneHot(target, merged=merged),
      positions=jnp.zeros((1, 2, 1)),
    )
    got = pruners.apply(result, jnp.asarray(x), mode='mean')
    np.testing.assert_allclose(got[0, 0], x[0, 1], rtol=1e-6)
    np.testing.assert_allclose(got[0, 1], (x[0, 0] + x[0, 2]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
  ('published', 'budget', 'contextual'),
  [(64, 63, 10), (128, 127, 20), (192, 191, 30)],
)
def test_visionzip_counts_the_class_token_among_54(
  published, budget, contextual
):
  """54 + 10, 108 + 20 and 162 + 30 of 576 and a class token."""
  pruner = before_llm.VisionZip(budget=budget)
  shape = jax.ShapeDtypeStruct((1, 577, 4), 'float32')
  attention = jnp.ones((1, 2, 577))
  taps = {
    Tap('attention_row', -2): attention,
    Tap('keys', -2): jnp.ones((1, 2, 577, 3)),
  }

  def outcome(x):
    first = jnp.arange(577)[None] == 0
    tokens = Tokens.create(x, protected=first, num_protected=1)
    return pruner(tokens, Signals(taps=taps))[0]

  assert jax.eval_shape(outcome, shape).valid.shape == (1, published)
  out = jax.jit(outcome)(draw(0, *shape.shape))
  # Of equal keys all the rest join one target; the other targets are alone.
  rest = 576 - (published - contextual - 1)
  assert out.valid.all()
  assert sorted(np.asarray(out.mass[0]))[-1] == rest - (contextual - 1)


def test_aim_shortens_the_row():
  tokens = Tokens.create(draw(0, 2, 36, 4))
  out, _ = run(before_llm.AIM(), tokens, Signals())
  assert out.features.shape == (2, 9, 4) and out.valid.all()


def test_mustdrop_merges_as_many_windows_as_an_image_has():
  x = draw(0, 2, 16, 8)
  x[0] = x[0, :1]  # four windows of equal tokens, and none
  at = np.stack(np.divmod(np.arange(16), 4), axis=-1)
  tokens = Tokens.create(x, positions=np.broadcast_to(at, (2, 16, 2)))
  out, _ = run(before_llm.MustDrop(window=2), tokens, Signals())
  assert out.valid.sum(axis=1).tolist() == [4, 16]


def test_vtc_cls_leaves_the_last_layer_out():
  """CLIP's layers 16 to 22 of 24, counted from 0."""
  pruner = before_llm.VTCCLS()
  assert pruner.needs == {Tap('attention_row', n - 24) for n in range(16, 23)}


def hiprune(edges, first, deep):
  """Kept slots of a grid 3 x 4, of which `first` is the anchor."""
  pruner = before_llm.HiPrune(budget=6, share=0.9, width=4, edges=edges)
  score = lambda at: (
    jnp.zeros((1, 1, 12))
    .at[0, 0, jnp.array(at)]
    .set(jnp.arange(len(at), 0, -1.0))
  )
  taps = {
    Tap('attention_column', 8): score([first]),
    Tap('attention_column', -2): score(deep),
  }
  _, result = run(pruner, Tokens.create(draw(0, 1, 12, 3)), Signals(taps=taps))
  return result.index[0].tolist()


def test_hiprunes_neighbours_go_on_in_the_next_row():
  # 7 ends the second row: beside it are 6 and, of the third row, 8.
  assert hiprune('clamp', 7, [0, 1, 2]) == [0, 3, 6, 7, 8, 11]
  assert hiprune('stop', 7, [0, 1, 2]) == [0, 1, 3, 6, 7, 11]
  # Beyond the ends is the first token itself.
  assert hiprune('clamp', 0, [9, 10, 11]) == [0, 1, 4, 9, 10, 11]


def test_hiprune_counts_layers_from_1_and_rounds_halves_to_even():
  pruner = before_llm.HiPrune(budget=25, share=0.5, width=10)
  assert pruner.middle == 9 - 1  # the paper's 9
  # 25 * 0.5 / 5 = 2.5 anchors are 2, which have 4 neighbours each.
  column = jnp.zeros((1, 1, 100)).at[0, 0, jnp.array([22, 55, 88])].set(1.0)
  taps = {
    Tap('attention_column', 8): column,
    Tap('attention_column', -2): jnp.arange(100.0)[None, None],
  }
  _, result = run(pruner, Tokens.create(draw(0, 1, 100, 3)), Signals(taps=taps))
  kept = set(result.index[0].tolist())
  around = lambda n: {n - 10, n - 1, n, n + 1, n + 10}
  assert kept == around(22) | around(55) | set(range(85, 100))


def test_zoo_prune_shares_its_directions():
  x = np.broadcast_to(draw(0, 1, 1, 6), (2, 5, 6))  # equal tokens
  keys = jax.random.split(jax.random.key(0), 2)
  got = jax.jit(
    lambda x: scores.zeroth_order(jnp.sin, x, rng=keys, directions=3, step=0.1)
  )(5 * x)
  np.testing.assert_allclose(got, np.broadcast_to(got[:, :1], got.shape))
  assert abs(got[0, 0] - got[1, 0]) > 1e-3  # and rows do not


def test_zoo_prune_steps_in_float32():
  weight = jnp.asarray(draw(1, 6, 7))
  x = jnp.asarray(8 * draw(0, 1, 5, 6), jnp.bfloat16)
  keys = jax.random.split(jax.random.key(0), 1)
  got = jax.jit(
    lambda x: scores.zeroth_order(lambda y: y @ weight, x, rng=keys)
  )(x)
  # Of a linear map all tokens have the same; in bfloat16 steps are lost.
  np.testing.assert_allclose(got, np.full(got.shape, got.mean()), rtol=1e-2)
  bank = np.array(jax.random.normal(keys[0], (64, 6)))
  bank /= np.linalg.norm(bank, axis=1, keepdims=True)
  want = np.linalg.norm(bank @ np.asarray(weight), axis=1).mean()
  np.testing.assert_allclose(got.mean(), want, rtol=1e-2)


def test_mini_monkeys_fine_tiles_may_come_last():
  """The demo puts the coarse tiles first; what is fine is said."""
  slots = 12  # 4 coarse, 6 fine, 2 words
  fine = jnp.asarray((np.arange(slots) >= 4) & (np.arange(slots) < 10))[None]
  paid = np.zeros((1, 1, slots, slots), np.float32)
  paid[0, 0, 10:, 5:8] = 1  # the words look at three of the fine ones
  result = compressors.scale_compression(
    Tokens.create(draw(0, 1, slots, 2)),
    jnp.asarray(paid),
    fine=fine,
    capacity=9,
  )
  assert result.index[0].tolist() == [0, 1, 2, 3, 5, 6, 7, 10, 11]
