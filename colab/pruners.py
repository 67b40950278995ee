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
# # Which tokens can the next layer do without?
#
# A ViT cuts an image into patches, and every layer works on all of them. ToMe
# (arXiv 2210.09461) merges the ones that look alike to it, EViT (arXiv
# 2202.07800) drops those that its class token does not look at. Both take a
# trained model as it is. This notebook shows on a photograph what is left, and
# measures what it saves.
#
# 1. install, 2. a model, 3. ToMe's groups, 4. what the class token keeps,
# 5. tokens, FLOPs and time, 6. what is kept before a language model, 7. pruners
# in JAX code of your own, 8. a pruner of your own.

# %%
import importlib.util
import os
import subprocess
import sys

PACKAGE = 'tokpress-jax[demo,hub,convert]'  # A name, a path or git+https://...

if importlib.util.find_spec('tokpress_jax') is None:
  command = [sys.executable, '-m', 'pip', 'install', '-q', PACKAGE]
  subprocess.run(command, check=True)

# %%
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import display
from skimage import data as photographs

import tokpress_jax as tp
from tokpress_jax import models, pruners, report, types, viz
from tokpress_jax.bench import harness
from tokpress_jax.io import images as image_lib
from tokpress_jax.pruners import before_llm

print('jax', jax.__version__, 'on', jax.devices()[0].device_kind)

# %% [markdown]
# ## A model
#
# `vit-b16` is Google's, trained on ImageNet; the first time, `load` downloads
# and converts it. `deit-s16` is smaller, `clip-b16` has no classes. Without a
# network: `tokpress convert vit FILE --out vit.safetensors` makes a file to
# name here from one that you have.
#
# Layers are stored as one array. `for_inference` takes them apart once, so that
# a layer in which a pruner acts need not be cut out in every call.

# %%
MODEL = os.environ.get('TOKPRESS_MODEL', 'vit-b16')

model = tp.for_inference(tp.load(MODEL))
config = model.module.config
GRID, DEPTH, PATCHES = config.grid, config.depth, config.grid**2
print(f'{PATCHES} patches of {config.patch} pixels, {DEPTH} layers')

# %% [markdown]
# ## A photograph
#
# Upload your own in the panel at the left and name it here.

# %%
PHOTO = ''  # @param {type:"string"}

CELL = 16 * GRID  # pixels of a picture below
pixels = tp.load_image(
  PHOTO or photographs.astronaut(), channels=config.channels
)
square, _ = image_lib.fit_image(pixels, config.image_size, policy='crop')
photo = jnp.asarray(image_lib.to_float(square))  # [1, H, W, 3] in [-1, 1]
shown, _ = image_lib.fit_image(pixels, CELL, policy='crop')
shown = np.broadcast_to(shown[0], (CELL, CELL, 3))
key = jax.random.key(0)  # for pruners that draw


def run(plan):
  """The model under a plan, as one compiled function."""
  return jax.jit(lambda model, x: model(x, plan=plan, rng=key))


def panels(out, picks):
  """What is left of the photograph after some of the pruners."""
  return viz.token_panels(
    shown,
    out.reductions,
    picks,
    grid=(GRID, GRID),
    leading=config.num_special,
  )


whole = run(())(model, photo)
if config.classes:
  print('class', int(whole.logits[0].argmax()))

# %% [markdown]
# ## ToMe's groups
#
# r tokens merge in each layer. A group has the mean colour of its patches and
# an outline of its own; patches that are still alone are shown as they are.
# Where r is more than half of the tokens, half of them merge.

# %%
RATES = [
  max(1, round(part * PATCHES / DEPTH)) for part in (0.3, 0.5, 0.8, 0.95)
]

tome = {r: pruners.tome_plan(r, depth=DEPTH) for r in RATES}
outs = {r: run(plan)(model, photo) for r, plan in tome.items()}
last = [panels(out, [len(out.reductions)])[0] for out in outs.values()]
names = [f'r = {r}: {out.tokens.valid.shape[1]}' for r, out in outs.items()]
display(viz.sheet([[shown, *last]], column_labels=['image', *names], cell=CELL))

# %% [markdown]
# Layer by layer, and the tokens in each layer:

# %%
r = RATES[-2]
picks = viz.pick_panels(len(outs[r].reductions), 4)
display(
  viz.pruned_sheet(
    [[shown, *panels(outs[r], picks)]],
    ['image', *(f'after layer {n} of {DEPTH}' for n in picks)],
    models.token_counts(config, tome[r]),
    cell=CELL,
  )
)

# %% [markdown]
# ## What the class token keeps
#
# In three layers the patches that the class token attends to least are dropped,
# 30% each time. A model without a class token has no such row; there the
# longest features stay.

# %%
score = pruners.TopAttention if config.class_token else pruners.TopNorm
stages = sorted({DEPTH * i // 4 for i in (1, 2, 3)})
dropping = tuple(
  (f'block_{i}.after_attention', score(budget=types.Ratio(ratio=0.7)))
  for i in stages
)
out = run(dropping)(model, photo)
display(
  viz.pruned_sheet(
    [[shown, *panels(out, range(1, len(stages) + 1))]],
    ['image', *(f'after layer {i + 1} of {DEPTH}' for i in stages)],
    models.token_counts(config, dropping),
    cell=CELL,
  )
)

# %% [markdown]
# ## Tokens, FLOPs and time
#
# FLOPs by one formula: multiply-adds, 4 N C² + 2 N² C + 2 M C m in each layer,
# with N tokens in the attention, M in the MLP, C features and m inside the MLP.
# Times are medians of calls that alternate. Small batches on a large
# accelerator may not fill it: then fewer tokens save nothing until the batch
# grows (`BATCH`).

# %%
BATCH = 1
REPEATS = 5

plans = {'all tokens': ()}
plans |= {f'ToMe, r = {r}': plan for r, plan in tome.items()}
plans[score.__name__] = dropping
plans['random'] = tuple(
  (site, pruners.Random(budget=pruner.budget)) for site, pruner in dropping
)
batch = jnp.tile(photo, (BATCH, 1, 1, 1))
programs = {name: run(plan) for name, plan in plans.items()}
seconds = harness.time_calls(
  *(lambda f=f: f(model, batch).pooled for f in programs.values()),
  repeats=REPEATS,
)
full = models.model_flops(config)


def cosine(a, b):
  return float(jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b))


print(f'batch {BATCH} on {jax.devices()[0].device_kind}, {REPEATS} calls each')
print('                 tokens  FLOPs    time  cosine of the features  class')
for (name, plan), second in zip(plans.items(), seconds, strict=True):
  out = programs[name](model, photo)
  tokens = out.tokens.valid.shape[1]
  flops = models.model_flops(config, plan) / full
  same = cosine(out.pooled[0], whole.pooled[0])
  best = int(out.logits[0].argmax()) if config.classes else '-'
  print(
    f'{name:16} {tokens:6}  {flops:5.0%}  {second * 1e3:4.0f} ms  '
    f'{same:22.3f}  {best:>5}'
  )

# %% [markdown]
# ## Before a language model
#
# A language model that sees reads what the tower gives, every patch of it. Many
# methods choose among the patches there. Each keeps a quarter; a token that
# others were merged into has an outline, and they have its colour. Of a CLIP
# (`clip-l14-336`), `texts=` has the features of a text for each image: methods
# that read one then come twice, without and with it.

# %%
METHODS = (
  before_llm.DivPrune,
  before_llm.SCOPE,
  before_llm.HiPrune,
  before_llm.VisPruner,
  before_llm.VisionZip,
)
if not config.class_token:  # whose attention the others read
  METHODS = (before_llm.DivPrune, before_llm.DART, before_llm.CATP)

chosen = {
  cls.__name__: before_llm.at_budget(
    cls, PATCHES // 4, patches=PATCHES, depth=DEPTH
  )
  for cls in METHODS
}
kept = report.keep(model, photo, chosen)
display(report.contact_sheet([shown], kept, cell=CELL))
for one in kept:
  print(f'{one.label:10} keeps {len(one.slots(0))} of {PATCHES} patches')

# %% [markdown]
# ## In JAX code of your own
#
# A pruner decides with `plan` and moves nothing. `apply` moves any array
# `[B, N, ...]` by what was decided, `unmerge` brings it back. Here there is no
# model at all: patches are compared by their own pixels, three times half of
# them are merged, and what is left paints the picture again.


# %%
@jax.jit
def merge(patches):
  """Patches [B, N, F] merged in three steps, and back."""
  tokens = types.Tokens.create(patches)
  total = pruners.identity(tokens)
  merger = pruners.ToMe(budget=types.Ratio(ratio=0.51), metric='features')
  for _ in range(3):
    reduction = merger.plan(tokens, types.Signals())
    tokens = pruners.reduce_tokens(tokens, reduction, mode='mass')
    total = pruners.compose(total, reduction)
  kept = pruners.apply(total, patches, mode='mean')
  return kept, pruners.unmerge(total, kept)


cut = shown.reshape(GRID, 16, GRID, 16, 3).swapaxes(1, 2)
cut = image_lib.to_float(cut).reshape(1, PATCHES, -1)
kept, back = merge(jnp.asarray(cut))
print(f'{PATCHES} patches, {kept.shape[1]} kept, {back.shape[1]} painted')
back = np.asarray(back).reshape(GRID, GRID, 16, 16, 3).swapaxes(1, 2)
back = image_lib.to_uint8(back.reshape(CELL, CELL, 3))
names = ['image', f'of {kept.shape[1]} patches']
display(viz.sheet([[shown, back]], column_labels=names, cell=CELL))

# %% [markdown]
# ## A pruner of your own
#
# A method is a score. It names what it `needs` of the host: here the pixels, of
# which it keeps the patches with most contrast, before the first layer. Budget,
# padding, protected tokens and positions come with the base class.


# %%
@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast(pruners.TopK):
  """Keeps the patches whose brightness varies most."""

  needs: ClassVar[frozenset[str]] = frozenset({'pixels'})

  def score(self, tokens, signals):
    ((_, rows, columns),) = tokens.grids
    grey = signals.pixels.mean(axis=-1)  # [B, H, W]
    size = grey.shape[1] // rows
    grey = grey[:, : rows * size, : columns * size]
    parts = grey.reshape(-1, rows, size, columns, size)
    contrast = parts.std(axis=(2, 4))  # [B, rows, columns]
    at = tokens.positions  # of the tokens that are there, in the grid
    return jax.vmap(lambda c, p: c[p[:, 0], p[:, 1]])(contrast, at)


mine = (('embed', Contrast(budget=types.Ratio(ratio=0.5))),)
out = run(mine)(model, photo)
names = ['image', f'{int(out.tokens.valid.sum())} tokens with most contrast']
display(
  viz.sheet([[shown, panels(out, [1])[0]]], column_labels=names, cell=CELL)
)
print(f'cosine {cosine(out.pooled[0], whole.pooled[0]):.3f}')

# %% [markdown]
# The same from a shell, with any pruner of `tokpress list pruners`:
# `tokpress prune --model vit-b16 --pruner tome --r 13 --image photo.jpg`, and
# `--pruner all --keep 0.25` for a sheet of all methods before a language model.
