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
# # How many tokens does this image need?
#
# One-D-Piece (arXiv 2501.10064) writes an image as a row of up to 256 tokens
# of which every prefix decodes. This notebook moves the number of tokens of one
# photograph, lets ten photographs choose their own, and shows what mixed
# lengths cost.
#
# 1. install, 2. weights, 3. one photograph, 4. quality by tokens, 5. ten
# photographs, each with the length that it needs, 6. buckets and packed rows.

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
import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Image, display
from skimage import data as photographs

import tokpress_jax as tp
from tokpress_jax import metrics, tokenizers, viz
from tokpress_jax.io import images as image_lib

print('jax', jax.__version__, 'on', jax.devices()[0].device_kind)

# %% [markdown]
# ## The weights
#
# `one-d-piece-s256` is the smallest of three (`-b256`, `-l256`). The first
# time, `load` downloads and converts it. A tokenizer of your own goes too: the
# work directory of `tokpress train configs/one_d_photos.py`.

# %%
MODEL = os.environ.get('TOKPRESS_MODEL', 'one-d-piece-s256')

tokenizer = tp.load(MODEL)
SIZE, MOST = tokenizer.module.config.image_size, tokenizer.num_tokens
print(f'1 to {MOST} tokens, {SIZE} pixels')

# %% [markdown]
# ## One photograph
#
# Upload your own in the panel at the left and name it here, and move the
# slider.

# %%
PHOTO = ''  # @param {type:"string"}
TOKENS = 64  # @param {type:"slider", min:1, max:256, step:1}


def fit(source):
  """Any image as [1, H, W, 3] in [-1, 1]."""
  pixels = tp.load_image(source, channels=3)
  square, _ = image_lib.fit_image(pixels, SIZE, policy='crop')
  return image_lib.to_float(square)


@jax.jit
def encode(tokenizer, images):
  return tokenizer.encode(images)


@jax.jit
def decode(tokenizer, encoded, tokens):
  return tokenizer.decode(encoded.first(tokens))


def decibels(decoded, images):
  return metrics.psnr((decoded + 1) / 2, (images + 1) / 2)


photo = fit(PHOTO or photographs.chelsea())
encoded = encode(tokenizer, photo)
tokens = min(TOKENS, MOST)
shown = decode(tokenizer, encoded, tokens)
value = float(decibels(shown, photo)[0])
print(f'{tokens} tokens: {value:.2f} dB')
names = [f'{tokens} tokens', 'original']
display(viz.sheet([[shown[0], photo[0]]], column_labels=names, cell=256))

# %% [markdown]
# ## Quality by tokens
#
# Lengths are traced: any number of tokens runs in the program that is there
# already.

# %%
some = sorted({min(2**k, MOST) for k in range(9)})
prefixes = [decode(tokenizer, encoded, n) for n in some]
display(
  viz.sheet(
    [[*(x[0] for x in prefixes), photo[0]]],
    column_labels=[*map(str, some), 'original'],
    cell=96,
  )
)
psnr = [float(decibels(x, photo)[0]) for x in prefixes]
figure = viz.quality_by_tokens({'photograph': (some, psnr)})
display(Image(viz.figure_png(figure)))

# %% [markdown]
# ## Ten photographs, each with the length that it needs
#
# `Quality(target)` looks for the shortest prefix that reaches a PSNR, by
# decoding inside the program that encodes. The target here is the median PSNR
# of all ten at half of the tokens.

# %%
TEN = (
  *('astronaut', 'brick', 'camera', 'cat', 'coffee'),
  *('coins', 'grass', 'gravel', 'moon', 'rocket'),
)
ten = np.concatenate([fit(getattr(photographs, name)()) for name in TEN])
half = decode(tokenizer, encode(tokenizer, ten), MOST // 2)
target = float(np.median(decibels(half, ten)))


@jax.jit
def choose(tokenizer, images, target):
  policy = tokenizers.Quality(target=target)
  encoded = tokenizer.encode(images, policy=policy)
  return encoded, tokenizer.decode(encoded)


chosen, pictures = choose(tokenizer, ten, target)
lengths = np.asarray(chosen.length)
print(f'for {target:.2f} dB: {lengths.mean():.1f} tokens on average')
order = np.argsort(lengths)
display(
  viz.sheet(
    [pictures[order], ten[order]],
    row_labels=['decoded', 'original'],
    column_labels=[f'{n}' for n in lengths[order]],
    cell=96,
  )
)
for i in order:
  got = float(decibels(pictures[i : i + 1], ten[i : i + 1])[0])
  print(f'{TEN[i]:10} {lengths[i]:4d} tokens  {got:6.2f} dB')

# %% [markdown]
# ## Buckets and packed rows
#
# Mixed lengths are padded to one capacity. `bucket` picks the smallest of a few
# that holds a batch, so that there is one compilation for each of them and no
# more. `pack` puts several images into one row, for a generator to train on.

# %%
capacities = [max(MOST // 4, 1), max(MOST // 2, 1), MOST]
size = tokenizers.bucket(lengths, capacities)
short = tokenizers.shorten(chosen, size)
print(f'capacity {size} of {capacities}: codes {short.codes.shape}')
again = jax.jit(lambda model, x: model.decode(x))(tokenizer, short)
print('decodes the same:', bool(jnp.allclose(again, pictures, atol=1e-3)))

packed = tokenizers.pack(chosen.codes, lengths, capacity=MOST)
rows, used = len(packed.image), int((packed.image >= 0).sum())
print(f'{len(TEN)} images in {rows} rows, {used / (rows * MOST):.0%} full')
