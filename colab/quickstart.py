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
# # How many tokens does an image need?
#
# A tokenizer turns an image into a row of codes. This one is trained so that
# *every prefix* of the row decodes: a few tokens give a rough picture, more
# give a better one. Move the slider at the end.
#
# 1. install, 2. a model: load one, or train a small one here,
# 3. encode, 4. decode at any budget, 5. quality against tokens.

# %%
import importlib.util
import os
import subprocess
import sys

PACKAGE = 'tokpress-jax[demo,viz]'  # A name, a path or git+https://...

if importlib.util.find_spec('tokpress_jax') is None:
  command = [sys.executable, '-m', 'pip', 'install', '-q', PACKAGE]
  subprocess.run(command, check=True)

# %%
import jax
import jax.numpy as jnp
from IPython.display import Image, display

import tokpress_jax as tp
from tokpress_jax import data, metrics, quantize, tokenizers, viz
from tokpress_jax.io import images as image_lib
from tokpress_jax.train import config as train_config
from tokpress_jax.train.tasks import TokenizerTask

print('jax', jax.__version__, 'on', jax.devices()[0].device_kind)

# %% [markdown]
# ## A model
#
# `MODEL` is a directory written by `tokpress export`, the work directory of a
# run, or `owner/name` on the Hugging Face hub. Without one, the next cell
# trains a small tokenizer on 1,500 real scans of digits: a few minutes on a
# CPU. Run it again after an interruption: it goes on where it stopped.

# %%
MODEL = os.environ.get('TOKPRESS_MODEL', '')
WORKDIR = os.environ.get('TOKPRESS_WORKDIR', 'runs/notebook')
STEPS = int(os.environ.get('TOKPRESS_STEPS', 1500))

digits = data.DataConfig(name='digits')
config = tp.Config(
  name='notebook',
  task=TokenizerTask(
    model=tokenizers.OneDConfig(
      image_size=8,
      channels=1,
      patch=4,
      tokens=16,
      width=64,
      heads=4,
      encoder_depth=2,
      decoder_depth=2,
      activation='relu',
      quantizer=quantize.FSQConfig(levels=(8, 6, 5)),
    ),
    loss='decibel',
    loss_weight=0.05,
    lengths='powers',  # Nested dropout: 1, 2, 4, ... or all tokens.
    full=0.25,
  ),
  data=digits,
  train=train_config.TrainConfig(
    steps=STEPS,
    batch_size=128,
    ema_decay=0.995,
    log_every=100,
    checkpoint_every=500,
  ),
  optim=train_config.OptimConfig(
    learning_rate=4e-3, warmup_steps=STEPS // 30, final_scale=0.02, b2=0.99
  ),
)

if not MODEL:
  tp.fit(config, WORKDIR)
model = tp.load(MODEL or WORKDIR)
size = model.spec.config
print(
  f'{size.num_tokens} tokens of {size.bits_per_token:.1f} bits for '
  f'{size.image_size}x{size.image_size} pixels'
)

# %% [markdown]
# ## Encode
#
# `Encoded` is a pytree of arrays with a static capacity: `codes` `[B, N, Q]`,
# `valid` `[B, N]`, `length` `[B]`.

# %%
test = next(data.eval_batches(digits, split='test', batch_size=297))
test_images = image_lib.to_float(test['image'][test['valid']])
encoded = jax.jit(model.encode)(test_images)
capacity = model.num_tokens
print('codes', encoded.codes.shape, encoded.codes[0, :, 0])


# %% [markdown]
# ## Decode at any budget
#
# The budget is traced: one compiled program serves every number of tokens, and
# images in a batch may differ.


# %%
@jax.jit
def decode(encoded, tokens):
  length = jnp.full_like(encoded.length, tokens)
  return model.decode(encoded.replace(length=length))


budgets = [2**i for i in range(capacity.bit_length())]
decoded = {k: decode(encoded, k) for k in budgets}
strip = viz.reconstructions(
  test_images[:10], {k: x[:10] for k, x in decoded.items()}
)
display(strip)

# %%
first = jax.tree.map(lambda x: x[:10], encoded)


def show(tokens):
  return viz.sheet(
    [decode(first, tokens), test_images[:10]],
    row_labels=[f'{tokens} of {capacity}', 'original'],
  )


try:
  from ipywidgets import IntSlider, interact

  interact(show, tokens=IntSlider(value=4, min=1, max=capacity))
except ImportError:  # The strip above shows the same budgets, standing still.
  display(show(min(4, capacity)))

# %% [markdown]
# ## Quality against tokens
#
# PSNR on test images that training never saw, values in [0, 1].

# %%
psnr = [
  float(jnp.mean(metrics.psnr((decoded[k] + 1) / 2, (test_images + 1) / 2)))
  for k in budgets
]
for tokens, value in zip(budgets, psnr, strict=True):
  print(f'{tokens:3d} tokens  {value:5.2f} dB')
curve = viz.quality_by_tokens({'this model': (budgets, psnr)})
display(Image(viz.figure_png(curve)))
