"""Makes maskgen.npz: what the official MaskGens give.

  python tests/golden/make_maskgen.py CHECKOUT

bytedance/1d-tokenizer, commit 942a96fbdd873780179d1b78d5462911528bf8c8
(Apache-2.0), classes MaskGen_VQ, MaskGen_KL and DiffLoss, PyTorch 2.13.0 on a
CPU, float32; needs diffusers 0.32.2 (whose joint blocks they are made of),
einops and omegaconf. Weights are redrawn (redraw.py); tokens, texts and noise
are drawn from fixed seeds (maskgen_case.py). Stand-ins: the text encoder gives
the drawn features; what is sent to a GPU stays; uniform draws are those whose
Gumbel noise is the given one. The official trainer of vectors gives its loss a
text that the loss does not take: here the loss is called without it.

`python tests/golden/make_maskgen.py CHECKOUT --count` writes no file: it prints
the released sizes' parameters.
"""

import argparse
import importlib.machinery
import itertools
import pathlib
import sys
import types

import numpy as np
import torch
from maskgen_case import (
  CODES,
  DIFFUSION_STEPS,
  RULES,
  SCORE,
  SMALL,
  VECTORS,
  code_inputs,
  texts,
  vector_inputs,
  vector_noise,
)
from redraw import check_sensitive, pack, redraw

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4
TIED = 'lm_head.weight'  # The same tensor as the embeddings.


def stand_in(name, **contents):
  module = sys.modules[name] = types.ModuleType(name)
  module.__spec__ = importlib.machinery.ModuleSpec(name, None)
  for key, value in contents.items():
    setattr(module, key, value)
  return module


class Mixin:
  """The hub's, whose options only matter on the hub."""

  def __init_subclass__(cls, **options):
    pass


def prepare_imports(checkout):
  import diffusers.models.attention  # noqa: F401  Before any stand-in.

  sys.path.insert(0, str(checkout))
  stand_in('open_clip')
  stand_in('open_clip.transformer', text_global_pool=None)
  for name in ('accelerate', 'accelerate.utils'):
    stand_in(name)
  stand_in('accelerate.utils.operations', gather=None)
  stand_in('huggingface_hub', PyTorchModelHubMixin=Mixin)
  # Its __init__ imports the perceptual losses, and with them torchvision.
  parts = stand_in('modeling.modules')
  parts.__path__ = [str(checkout / 'modeling' / 'modules')]
  stand_in('modeling.modules.perceptual_loss', PerceptualLoss=None)
  from modeling.modules.base_model import BaseModel

  parts.BaseModel = BaseModel
  torch.Tensor.cuda = lambda self: self
  from modeling import maskgen

  maskgen.open_clip_text_encoding = encoded
  return maskgen


def encoded(_, __, captions):
  """Features of texts that are called by their rows; '' is the empty one."""
  t = texts()
  pick = lambda name: torch.from_numpy(
    np.stack([t[f'null_{name}'] if x == '' else t[name][x] for x in captions])
  )
  return pick('features'), pick('pooled')[:, None]


def official(maskgen, kind):
  from omegaconf import OmegaConf

  c = SMALL
  config = OmegaConf.create(
    {
      'model': {
        'vq_model': {
          'codebook_size': c['codes'],
          'num_latent_tokens': c['tokens'],
          'token_size': c['channels'],
          'scale_factor': c['scale'],
          'text_embed_dim': c['text_features'],
        },
        'maskgen': {
          'decoder_embed_dim': c['width'],
          'decoder_depth': c['layers'],
          'decoder_num_heads': c['heads'],
          'micro_condition': True,
          'micro_condition_embed_dim': c['score_features'],
          'sample_aesthetic_score': SCORE,
          'text_drop_prob': 0.1,
          'condition_num_classes': 1000,
          'diffusion_batch_mul': c['draws'],
        },
      },
      'losses': {
        'diffloss_d': c['head_layers'],
        'diffloss_w': c['head_width'],
        'num_sampling_steps': str(DIFFUSION_STEPS),
      },
      'dataset': {'preprocessing': {'crop_size': 256}},
    }
  )
  cls = maskgen.MaskGen_VQ if kind == 'vq' else maskgen.MaskGen_KL
  return cls(config).eval()


def put(model, weights):
  last = str(SMALL['layers'] - 1)
  tensors = {
    k.replace('LAST', last): torch.from_numpy(np.array(v))
    for k, v in weights.items()
  }
  missing, unknown = model.load_state_dict(tensors, strict=False)
  assert not unknown and set(missing) <= {TIED}, (missing, unknown)


def fed(queue, name):
  """Puts the given draws in place of a function's, in turn."""

  def draw(*args, **kwargs):
    del args, kwargs
    return torch.from_numpy(np.ascontiguousarray(queue.pop(0)))

  return (torch, name, draw)


class Patched:
  """Attributes replaced for a while."""

  def __init__(self, *changes):
    self.changes = changes

  def __enter__(self):
    self.kept = [getattr(where, name) for where, name, _ in self.changes]
    for where, name, new in self.changes:
      setattr(where, name, new)

  def __exit__(self, *_):
    for (where, name, _), old in zip(self.changes, self.kept, strict=True):
      setattr(where, name, old)


def tensor(name):
  return torch.from_numpy(texts()[name])


def logits_of(model):
  codes = torch.from_numpy(code_inputs()[0])
  logits, _ = model(
    codes, tensor('features'), tensor('pooled')[:, None], tensor('score')
  )
  return logits.numpy()


def sampled_codes(model, batch=2):
  """Codes drawn with the given noise: per step that of the codes, then that of
  the confidences."""
  queue = []
  for step in code_inputs()[1][:, :batch]:
    queue += [step[..., :-1], step[..., -1]]

  def uniform(self, low, high):
    g = torch.from_numpy(np.ascontiguousarray(queue.pop(0))).double()
    return self.copy_(torch.exp(-torch.exp(-g)))

  with Patched((torch.Tensor, 'uniform_', uniform)):
    codes = model.generate(
      list(range(batch)), sample_aesthetic_score=SCORE, **CODES
    )
  assert not queue
  return codes.numpy()


def seen(model):
  """The trunk's output for the training pass over vectors."""
  x = vector_inputs()
  score = model.get_sinusoidal_encoding(
    tensor('score') * 100, SMALL['score_features']
  )
  pooled = torch.cat([tensor('pooled'), score], dim=1)[:, None]
  return model.forward_mae_decoder(
    torch.from_numpy(x['values']),
    torch.from_numpy(x['masked']),
    model.text_emb(tensor('features')),
    model.text_pooled_emb(pooled),
  )


def losses_of(model, z):
  """The loss of each vector and draw [B, N, K], and the official mean."""
  x = vector_inputs()
  first = lambda a: np.moveaxis(a, 2, 0)  # Draws before rows, as repeated.
  flat = lambda a: np.ascontiguousarray(a).reshape(-1, *a.shape[3:])
  repeat = lambda a: (
    torch.from_numpy(a)
    .flatten(0, 1)
    .repeat(SMALL['draws'], *(1,) * (a.ndim - 2))
  )
  target, mask = repeat(x['values']), repeat(x['masked'].astype(np.float32))
  features = z.flatten(0, 1).repeat(SMALL['draws'], 1)
  time, noise = flat(first(x['time'])), flat(first(x['noise']))
  each = model.diffloss.train_diffusion.training_losses(
    model.diffloss.net,
    target,
    torch.from_numpy(time),
    {'c': features},
    noise=torch.from_numpy(noise),
  )['loss'].numpy()
  with Patched(fed([time], 'randint'), fed([noise], 'randn_like')):
    mean, _ = model.diffloss(target=target, z=features, mask=mask)
  shape = (SMALL['draws'], *x['masked'].shape)
  return np.moveaxis(each.reshape(shape), 0, 2), mean.numpy()


def tamed(model):
  """The head as if it were trained, while vectors are drawn.

  Random weights do not know that a vector of almost pure noise is its noise:
  the first step would blow up all errors 20,000 times, and what the later ones
  do would be lost beside it. See `test_maskgen.py` for the same.
  """
  net, plain = model.diffloss.net, model.diffloss.net.forward
  signal = torch.from_numpy(model.diffloss.train_diffusion.alphas_cumprod)

  def forward(x, t, c):
    noise, place = plain(x, t, c).chunk(2, dim=1)
    share = signal[t].float()[:, None]
    noise = (1 - share).sqrt() * x + share.sqrt() * noise
    return torch.cat([noise, place], dim=1)

  return Patched((net, 'forward', forward))


def drawn(model, z, noise, guidance):
  """Vectors of the head for features [2 P, D], noise [P, T, C]: [P, C]."""
  steps = [*np.moveaxis(noise, 1, 0)[1:], np.zeros_like(noise[:, 0])]
  queue = [np.concatenate([step, step]) for step in steps]
  given = Patched(fed([noise[:, 0]], 'randn'), fed(queue, 'randn_like'))
  with given, tamed(model):
    found = model.diffloss.sample_of(z, VECTORS['temperature'], guidance)
  assert not queue
  return found


def head_sample(model, z):
  """The head alone: the first row of features under the second's guidance."""
  noise = vector_noise()[1]
  return drawn(model, z[:2].flatten(0, 1), noise[0], VECTORS['cfg'])


def sampled_vectors(model, batch=2):
  """Vectors [B, N, C] drawn with the given orders and noise."""
  orders, noise = vector_noise()
  orders, noise = orders[:batch], noise[:batch]
  left = [SMALL['tokens']]
  steps = VECTORS['num_iter']
  for k in range(steps):
    target = np.floor(SMALL['tokens'] * np.cos(np.pi / 2 * (k + 1) / steps))
    left.append(int(max(1, min(left[-1] - 1, target))))
  left[-1] = 0
  pairs = list(itertools.pairwise(left))

  def sample(z, temperature, guidance):
    before, after = pairs.pop(0)
    # In the order of rows, then of positions.
    places = [
      (row, place)
      for row in range(batch)
      for place in sorted(orders[row, after:before])
    ]
    mine = np.stack([noise[row, place] for row, place in places])
    assert temperature == VECTORS['temperature'] and len(z) == 2 * len(mine)
    return drawn(model, z, mine, guidance)

  with Patched(
    (model, 'sample_orders', lambda _: torch.from_numpy(orders)),
    (model.diffloss, 'sample', sample),
  ):
    found = model.sample_tokens(
      batch,
      None,
      None,
      captions=list(range(batch)),
      aes_scores=tensor('score')[:batch],
      **VECTORS,
    )
  assert not pairs
  return found[:, :, 0].numpy().transpose(0, 2, 1)


def count(maskgen, checkout):
  from omegaconf import OmegaConf

  folder = checkout / 'configs' / 'infer' / 'MaskGen'
  for path in sorted(folder.glob('*.yaml')):
    codes = '_vq_' in path.stem
    cls = maskgen.MaskGen_VQ if codes else maskgen.MaskGen_KL
    cls.initialize_weights = lambda self: None
    config = OmegaConf.load(path)
    with torch.device('meta'):
      model = cls(config)
    total = sum(p.numel() for p in model.parameters())
    unread = 1001 * config.model.maskgen.decoder_embed_dim if codes else 0
    print(f'{path.stem}: {total:,}, of which {total - unread:,} are read')


@torch.no_grad()
def main(args):
  checkout = args.checkout.resolve()
  maskgen = prepare_imports(checkout)
  if args.count:
    count(maskgen, checkout)
    return
  out = {}
  for kind in ('vq', 'kl'):
    model = official(maskgen, kind)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    shapes.pop(TIED, None)
    weights = redraw(shapes, rules=RULES)
    # The last block, which only reads the text, is a group of its own.
    block = f'blocks.{SMALL["layers"] - 1}.'
    named = {k.replace(block, 'blocks.LAST.'): x for k, x in weights.items()}
    if kind == 'kl':
      model.diffloss.sample_of = model.diffloss.sample

    def run(weights, model=model, kind=kind):
      put(model, weights)
      if kind == 'vq':
        return logits_of(model)
      z = seen(model)
      parts = z.numpy(), losses_of(model, z)[0], head_sample(model, z).numpy()
      return np.concatenate([(x / x.std()).reshape(-1) for x in parts])

    # What the text asks in the last block, nothing reads.
    unread = ('LAST.attn.add_q_proj',)
    check_sensitive(named, run, tolerance=TOLERANCE, fixed=unread)
    put(model, weights)
    out[f'{kind}_shapes'] = pack(shapes)
    if kind == 'vq':
      out['vq_logits'] = logits_of(model)
      out['vq_codes'] = sampled_codes(model)
    else:
      z = seen(model)
      out['kl_features'] = z.numpy()
      out['kl_losses'], out['kl_loss'] = losses_of(model, z)
      out['kl_drawn'] = head_sample(model, z).numpy()[: SMALL['tokens']]
      out['kl_vectors'] = sampled_vectors(model)
  for name, x in out.items():
    if x.dtype.kind == 'f':
      print(f'{name}: {x.shape}, deviation {x.std():.3g}')
  np.savez_compressed(HERE / 'maskgen.npz', **out)


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout', type=pathlib.Path)
  parser.add_argument('--count', action='store_true')
  main(parser.parse_args())
