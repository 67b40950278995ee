"""Makes rar.npz: what the official RAR gives.

  python tests/golden/make_rar.py CHECKOUT

bytedance/1d-tokenizer, commit 942a96fbdd873780179d1b78d5462911528bf8c8
(Apache-2.0), class RAR, PyTorch 2.13.0 on a CPU, float32; needs omegaconf. Its
MLP is timm's, for which the one below stands in. Weights are redrawn
(redraw.py); codes, labels, orders and noise are drawn from seed 1
(rar_case.py). Multinomial draws become argmax(log p + g).

`python tests/golden/make_rar.py CHECKOUT --compare rar-b` writes no file: it
compares a released architecture with this library.
"""

import argparse
import pathlib
import sys
import types

import numpy as np
import torch
from rar_case import RULES, SAMPLING, SMALL, inputs
from redraw import check_sensitive, pack, redraw

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4


class Mlp(torch.nn.Module):
  """timm's MLP: two layers, dropout after each."""

  def __init__(self, in_features, hidden_features, act_layer, drop):
    super().__init__()
    self.fc1 = torch.nn.Linear(in_features, hidden_features)
    self.act = act_layer()
    self.fc2 = torch.nn.Linear(hidden_features, in_features)
    self.drop = torch.nn.Dropout(drop)

  def forward(self, x):
    return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def stand_in(name, **contents):
  module = sys.modules[name] = types.ModuleType(name)
  for key, value in contents.items():
    setattr(module, key, value)


def official(c):
  from modeling.rar import RAR
  from omegaconf import OmegaConf

  config = OmegaConf.create(
    {
      'model': {
        'vq_model': {'codebook_size': c['codes']},
        'generator': {
          'condition_num_classes': c['classes'],
          'image_seq_len': c['tokens'],
          'hidden_size': c['width'],
          'num_hidden_layers': c['layers'],
          'num_attention_heads': c['heads'],
          'intermediate_size': c['hidden'],
          'dropout': 0.1,
          'attn_drop': 0.1,
        },
      }
    }
  )
  return RAR(config).eval()


def put(model, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  model.load_state_dict(tensors)


def taught(model, codes, labels, orders):
  """Logits [B, N, V] in the order of prediction, and their targets."""
  condition = model.preprocess_condition(torch.from_numpy(labels.copy()))
  logits, targets = model.forward_fn(
    torch.from_numpy(codes),
    condition,
    return_labels=True,
    orders=torch.from_numpy(orders),
  )
  # The first is that of the class, the last predicts nothing: see ARLoss.
  return logits[:, :-1].numpy(), targets.numpy()


def sampled(model, labels, noise, **options):
  """Codes drawn with the given noise, and the log probabilities behind."""
  queue, found = [torch.from_numpy(g) for g in noise.swapaxes(0, 1)], []

  def draw(probs, num_samples):
    assert num_samples == 1
    found.append(probs.log().numpy())
    return (probs.log() + queue.pop(0)).argmax(-1)[:, None]

  kept = torch.multinomial
  torch.multinomial = draw
  try:
    codes = model.generate(
      torch.from_numpy(labels.copy()), **SAMPLING, **options
    )
  finally:
    torch.multinomial = kept
  assert not queue
  return codes.numpy(), np.stack(found, axis=1)


def prepare_imports(checkout):
  sys.path.insert(0, str(checkout))
  # Its __init__ imports the losses, and with them torchvision.
  stand_in('modeling.modules')
  parts = sys.modules['modeling.modules']
  parts.__path__ = [str(checkout / 'modeling' / 'modules')]
  from modeling.modules.base_model import BaseModel

  parts.BaseModel = BaseModel
  stand_in('timm')
  stand_in('timm.layers', Mlp=Mlp)


def make():
  codes, labels, orders, noise = inputs(SMALL)
  model = official(SMALL)
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  weights = redraw(shapes, rules=RULES)

  def run(weights):
    put(model, weights)
    return taught(model, codes, labels, orders)[0]

  # A bias of normed keys moves all logits of a query alike: it cannot matter.
  check_sensitive(weights, run, tolerance=TOLERANCE, fixed=('k_norm.bias',))
  put(model, weights)
  logits, targets = taught(model, codes, labels, orders)
  assert (targets == np.take_along_axis(codes, orders, 1)).all()
  drawn, log_probs = sampled(model, labels[:2], noise[:2])
  # Without a cache the official sampler draws the same.
  again, _ = sampled(model, labels[:2], noise[:2], kv_cache=False)
  assert (drawn == again).all()
  best = np.sort(log_probs + noise[:2], axis=-1)
  print('codes', drawn)
  print('smallest lead of a drawn code', (best[..., -1] - best[..., -2]).min())
  np.savez_compressed(
    HERE / 'rar.npz',
    shapes=pack(shapes),
    logits=logits,
    codes=drawn,
    log_probs=log_probs,
  )
  print((HERE / 'rar.npz').stat().st_size, 'bytes')


def compare(name):
  """A released architecture, theirs against ours, by hand."""
  import jax
  import jax.numpy as jnp

  from tokpress_jax import generators, released, types
  from tokpress_jax.generators import rar_keys, sampling
  from tokpress_jax.io import keymap

  config = released.RELEASED[name].make_config()
  c = {
    'codes': config.codebook_size,
    'classes': config.num_classes,
    'tokens': config.tokens,
    'width': config.width,
    'heads': config.heads,
    'layers': config.depth,
    'hidden': round(config.mlp_ratio * config.width),
  }
  codes, labels, orders, noise = inputs(c, 2)
  model = official(c)
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  print(name, sum(map(np.prod, shapes.values())), 'official parameters')
  assert rar_keys.config_of(shapes) == config
  weights = redraw(shapes, rules=RULES)
  put(model, weights)
  theirs, _ = taught(model, codes, labels, orders)
  drawn, log_probs = sampled(model, labels, noise)
  del model
  variables = keymap.convert(
    rar_keys.prepare(weights), rar_keys.RULES, rar_keys.expected(config)
  )
  spec = types.Spec(name=name, family='generator', config=config)
  ours = types.Loaded(config.build(), variables, spec)
  rank = jnp.asarray(np.argsort(orders, axis=1), jnp.int32)
  ranked = generators.Ranked(codes=jnp.asarray(codes), rank=rank)
  logits = jax.jit(lambda g, x, y: g(x, y))(ours, ranked, labels)
  logits = np.take_along_axis(np.asarray(logits), orders[..., None], axis=1)
  for row, order in enumerate(('raster', 'random')):
    error = np.abs(logits[row] - theirs[row]).max() / theirs.std()
    print(f'logits in {order} order differ by {error:.2e} deviations')
  sampling.token_gumbel = lambda rng, rows, slots, size: noise[:, slots]
  noise = jnp.asarray(noise)
  sampler = generators.Sampler(
    guidance=SAMPLING['guidance_scale'],
    schedule='power-cosine',
    power=SAMPLING['guidance_scale_pow'],
    temperature=SAMPLING['randomize_temperature'],
  )
  again = generators.sample(
    ours, jnp.asarray(labels), rng=jax.random.key(0), sampler=sampler
  )
  differ = int((np.asarray(again.codes[..., 0]) != drawn).sum())
  best = np.sort(log_probs + np.asarray(noise), axis=-1)
  lead = (best[..., -1] - best[..., -2]).min()
  print(f'{differ} of {drawn.size} sampled codes differ; closest race {lead}')
  print(len(np.unique(drawn)), 'different codes drawn')


@torch.no_grad()
def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout', type=pathlib.Path)
  parser.add_argument('--compare')
  flags = parser.parse_args()
  prepare_imports(flags.checkout.resolve())
  if flags.compare:
    compare(flags.compare)
  else:
    make()


if __name__ == '__main__':
  main()
