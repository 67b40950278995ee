# ---
# jupyter:
#   jupytext:
#     notebook_metadata_filter: -all
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # VAR: an image, scale by scale
#
# VAR (arXiv 2404.02905) draws an image in ten steps, from 1 token to 16 x 16.
# Each step draws all tokens of its scale at once. This notebook loads the
# released weights, shows what each scale adds, and edits a photograph, for
# which nothing was trained.
#
# 1. install, 2. weights, 3. samples, 4. scale by scale, 5. a photograph in few
# tokens, 6. edits, 7. speed, 8. another model beside it.
#
# A GPU or TPU runtime draws in seconds, a CPU in minutes.

# %%
import importlib.util
import os
import subprocess
import sys

PACKAGE = 'tokpress-jax[demo,hub,viz]'  # A name, a path or git+https://...

if importlib.util.find_spec('tokpress_jax') is None:
  command = [sys.executable, '-m', 'pip', 'install', '-q', PACKAGE]
  subprocess.run(command, check=True)

# %%
import time

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Image, display
from skimage import data as photographs

import tokpress_jax as tp
from tokpress_jax import generators, metrics, viz
from tokpress_jax.io import images as image_lib

device = jax.devices()[0].device_kind
print('jax', jax.__version__, 'on', device)

# %% [markdown]
# ## The weights
#
# The first time, `load` downloads the official files (1.7 GB) and converts
# them, for which it needs PyTorch (Colab has it). It prints their licence.
# `var-d20`, `var-d24` and `var-d30` are larger and better; a file of `tokpress
# convert` or a model of your own goes too. `for_inference` casts the weights to
# bfloat16 on an accelerator.

# %%
MODEL = os.environ.get('TOKPRESS_MODEL', 'var-d16')

model = tp.for_inference(tp.load(MODEL))
tokenizer, config = model.tokenizer, model.module.config
SIZE = tokenizer.module.config.image_size
print(f'{len(config.grids)} scales, {config.num_tokens} tokens, {SIZE} pixels')

# %% [markdown]
# ## What to draw
#
# Classes are those of ImageNet: golden retriever, otter, giant panda, volcano.
# Guidance trades variety for quality; top-k and top-p drop improbable codes;
# smooth goes on from mixtures of codes, which looks calmer.

# %%
CLASSES = [207, 360, 388, 980]  # @param {type:"raw"}
SEED = 0  # @param {type:"integer"}
GUIDANCE = 4.0  # @param {type:"slider", min:0, max:10, step:0.5}
TOP_K = 900  # @param {type:"integer"}
TOP_P = 0.95  # @param {type:"slider", min:0.05, max:1, step:0.05}
SMOOTH = False  # @param {type:"boolean"}

names = [f'class {c}' for c in CLASSES]
sampler = tp.Sampler(guidance=GUIDANCE, top_k=TOP_K, top_p=TOP_P, smooth=SMOOTH)


def draw(model, labels, *, seed=SEED, **options):
  """Samples, and the seconds that it took."""
  start = time.perf_counter()
  out = tp.sample(
    model,
    np.asarray(labels),
    rng=jax.random.key(seed),
    sampler=sampler,
    **options,
  )
  jax.block_until_ready(out)
  return out, time.perf_counter() - start


# %% [markdown]
# ## Samples
#
# The same seed gives the same images.

# %%
EACH = 4
labels = np.repeat(CLASSES, EACH)
drawn, first_seconds = draw(model, labels)
rows = np.split(np.asarray(drawn.images), len(CLASSES))
display(viz.sheet(rows, row_labels=names, cell=128))

# %% [markdown]
# ## Scale by scale
#
# The tokens so far decode to an image after every step.

# %%
stages, _ = draw(model, CLASSES, show=config.boundaries)
display(
  viz.scale_by_scale(stages.previews, config.grids, row_labels=names, cell=96)
)

# %% [markdown]
# ## A photograph in few tokens
#
# Upload your own in the panel at the left and name it here.

# %%
PHOTO = ''  # @param {type:"string"}

pixels = tp.load_image(PHOTO or photographs.astronaut(), channels=3)
square, _ = image_lib.fit_image(pixels, SIZE, policy='crop')
photo = image_lib.to_float(square)  # [1, H, W, 3] in [-1, 1]
codes = jax.jit(lambda model, x: model.encode(x).codes)(tokenizer, photo)
print('codes', codes.shape)


# %% [markdown]
# The tokenizer decodes any number of scales: the first few hold the layout.


# %%
@jax.jit
def decode(tokenizer, codes, tokens):
  return tokenizer.decode_codes(codes, length=tokens)


ends = config.boundaries
decoded = [decode(tokenizer, codes, n)[0] for n in ends]
display(
  viz.sheet(
    [[*decoded, photo[0]]],
    row_labels=['tokens'],
    column_labels=[*map(str, ends), 'original'],
    cell=96,
  )
)

# %%
unit = lambda x: (x[None] + 1) / 2
psnr = [float(metrics.psnr(unit(x), unit(photo[0]))[0]) for x in decoded]
for tokens, value in zip(ends, psnr, strict=True):
  print(f'{tokens:4d} tokens  {value:5.2f} dB')
display(
  Image(viz.figure_png(viz.quality_by_tokens({'photograph': (ends, psnr)})))
)

# %% [markdown]
# ## Edits
#
# Tokens of the photograph are kept, the rest is drawn around them. The box is
# top, left, bottom, right in fractions of the image.

# %%
BOX = (0.1, 0.25, 0.55, 0.65)  # @param {type:"raw"}

box = generators.Box(*BOX)
NO_CLASS = config.num_classes


def edit(part, label, count=3):
  """Draws what is inside or outside the box, as a class or as none."""
  kept = generators.keep(codes, tokenizer.scales, box, draw=part)
  free = generators.drawn_tokens(tokenizer.scales, box, draw=part)
  h, w = tokenizer.scales[-1]
  out, _ = draw(model, [label] * count, forced=jnp.repeat(kept, count, axis=0))
  finest = free[-h * w :].reshape(h, w)
  return viz.edits(photo[0], finest, [out.images], cell=160)


# %% [markdown]
# In-painting: the inside is drawn, under no class.

# %%
display(edit('inside', NO_CLASS))

# %% [markdown]
# Out-painting: the inside is kept.

# %%
display(edit('outside', NO_CLASS))

# %% [markdown]
# Class-conditional editing: the inside becomes the first of the classes above.

# %%
display(edit('inside', CLASSES[0]))

# %% [markdown]
# ## Speed
#
# The first call compiles one program: all scales, caches, guidance, filters and
# the decoder. Later calls run it; another batch size compiles anew.

# %%
later = [draw(model, labels, seed=seed)[1] for seed in (1, 2, 3)]
seconds = min(later)
print(f'first call {first_seconds:.1f} s, later {seconds:.2f} s')
print(f'{len(labels) / seconds:.2f} images/s in batches of {len(labels)}')

# %% [markdown]
# ## MVAR beside it
#
# MVAR (arXiv 2505.12742) attends to its own scale alone and keeps no cache.
# Name `mvar-d16` to draw the same classes with it.

# %%
SECOND = os.environ.get('TOKPRESS_SECOND', '')  # 'mvar-d16'

if SECOND:
  second = tp.for_inference(tp.load(SECOND))
  others, _ = draw(second, labels)
  _, other_seconds = draw(second, labels, seed=1)
  pair = [np.asarray(x.images)[::EACH] for x in (drawn, others)]
  called = model.spec.name, second.spec.name
  display(viz.sheet(pair, row_labels=called, cell=128))
  print(f'{called[0]} {seconds:.2f} s, {called[1]} {other_seconds:.2f} s')
