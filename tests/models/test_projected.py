"""From images through a tower and a released projector to a language model."""

import host_cases
import jax
import numpy as np
from redraw import redraw

import tokpress_jax as tp
from tokpress_jax.io import convert, export, safetensors
from tokpress_jax.pruners import compressors
from tokpress_jax.types import VISION

SIDE, D, F = 24, host_cases.D, 6
GRID = (SIDE, SIDE)


def loaded(folder, kind, shapes):
  """A model as `load` gives it, of redrawn tensors with official names."""
  rules = (*host_cases.RULES, ('in_proj_weight', 2, 0), ('query', 3, 0))
  source, out = (folder / f'{name}-{kind}.safetensors' for name in 'ab')
  safetensors.save(source, redraw(shapes, rules=rules))
  export.save_file(convert.convert(source, kind), out)
  return tp.load(out)


def clip_shapes():
  """A CLIP of 24 x 24 patches, as large towers have."""
  shapes = host_cases.clip()
  shapes['vision_model.embeddings.position_embedding.weight'] = (
    1 + SIDE**2,
    D,
  )
  return shapes


def dense(name, outputs, inputs):
  return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def test_images_become_tokens_of_a_language_model(tmp_path):
  clip = loaded(tmp_path, 'clip', clip_shapes())
  own = 'model.query_abstractor.'
  mqt = loaded(
    tmp_path,
    'mqt',
    {
      f'{own}query': (16, D),
      f'{own}attn.in_proj_weight': (3 * D, D),
      f'{own}attn.in_proj_bias': (3 * D,),
      **dense(f'{own}attn.out_proj', D, D),
      **{
        f'{own}ln_{x}.{kind}': (D,)
        for x in 'qkv'
        for kind in ('weight', 'bias')
      },
      f'{own}proj': (D, F),
    },
  )
  own = 'model.mm_projector.'
  m3 = loaded(
    tmp_path, 'm3', {**dense(f'{own}0', F, D), **dense(f'{own}2', F, F)}
  )
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (2, 96, 96, 3)).astype(np.float32)

  @jax.jit
  def see(clip, mqt, m3, images):
    seen, _ = clip.observe(images, layer=-2)
    x = seen.features
    pooled = compressors.as_tokens(m3(x, count=36), grid=GRID, new_grid=(6, 6))
    few, fewer = (
      compressors.as_tokens(mqt(x, count=n), grid=GRID) for n in (8, 2)
    )
    return seen, pooled, few, fewer

  seen, pooled, few, fewer = see(clip, mqt, m3, images)
  assert seen.features.shape == (2, 576, D)  # the class token is left out
  for tokens, number in ((pooled, 36), (few, 8), (fewer, 2)):
    assert tokens.features.shape == (2, number, F)
    assert tokens.valid.all() and (np.asarray(tokens.kind) == VISION).all()
    np.testing.assert_allclose(tokens.mass, 576 / number, rtol=1e-6)
    assert np.isfinite(tokens.features).all()
    # Images differ, and so do the tokens of one.
    assert np.std(tokens.features, axis=0).mean() > 1e-3
    assert np.std(tokens.features, axis=1).mean() > 1e-3
  # Fewer of MQT's are the first of its tokens; M3's have places.
  np.testing.assert_allclose(few.features[:, :2], fewer.features, rtol=1e-4)
  np.testing.assert_array_equal(pooled.positions[0, 7], [5.5, 5.5])
  # What is read of CLIP is the layer before the last.
  hidden = jax.jit(lambda m, x: m(x, hidden=(2,)))(clip, images).hidden[0]
  np.testing.assert_allclose(
    hidden.features[:, 1:], seen.features, atol=1e-4, rtol=1e-4
  )
