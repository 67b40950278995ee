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
# 1. install, 2. a model: load one, or train a small one here in two minutes,
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
import optax
from IPython.display import Image, display

from tokpress_jax import data, metrics, quantize, tokenizers, types, viz
from tokpress_jax.io import images as image_lib

print('jax', jax.__version__, 'on', jax.devices()[0].device_kind)

# %% [markdown]
# ## A model
#
# `MODEL` may be a directory written by `tokpress export` or by
# `launch/quickstart.sh`, or `owner/name` on the Hugging Face hub. Without one,
# the next cells train a small tokenizer on 1,497 real scans of digits, with
# nothing but the library's parts and optax: this is all that a training loop
# needs. (`tokpress train` adds sharding, checkpoints, exact resume, logs.)

# %%
MODEL = os.environ.get('TOKPRESS_MODEL', '')
STEPS = int(os.environ.get('TOKPRESS_STEPS', 1200))

digits = data.DataConfig(name='digits')
config = tokenizers.OneDConfig(
  image_size=8,
  channels=1,
  patch=2,
  tokens=16,
  width=64,
  heads=4,
  encoder_depth=2,
  decoder_depth=2,
  quantizer=quantize.FSQConfig(levels=(8, 5, 5)),
)
print(
  f'{config.num_tokens} tokens of {config.bits_per_token:.1f} bits for '
  f'{config.image_size}x{config.image_size} pixels'
)


# %%
def train(steps):
  module = config.build()
  stream = data.Stream(digits, batch_size=64, seed=0)
  first = image_lib.to_float(next(stream.batches())['image'])
  params = jax.jit(module.init)(jax.random.key(0), first)
  optimizer = optax.adamw(
    optax.warmup_cosine_decay_schedule(0.0, 3e-3, max(1, steps // 10), steps)
  )

  def loss(params, x, rng):
    # Nested dropout: each image may use a random number of its tokens.
    length = tokenizers.sample_lengths(
      rng, len(x), config.boundaries, sampler='powers', full=0.3
    )
    out = module.apply(params, x, length, method='reconstruct')
    return jnp.mean((out.images - x) ** 2) + out.quantized.loss

  @jax.jit
  def step(params, state, image, number):
    x = image_lib.to_float(image)
    rng = jax.random.fold_in(jax.random.key(1), number)
    value, grads = jax.value_and_grad(loss)(params, x, rng)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  state = optimizer.init(params)
  for number, batch in zip(range(steps), stream.batches(), strict=False):
    params, state, value = step(params, state, batch['image'], number)
    if number % 250 == 0 or number == steps - 1:
      print(f'step {number:5d}  loss {float(value):.4f}')
  spec = types.Spec(name='one_d', family='tokenizer', config=config)
  return types.Loaded(module=module, variables=params, spec=spec)


if MODEL:
  import tokpress_jax

  model = tokpress_jax.load(MODEL)
else:
  model = train(STEPS)

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
