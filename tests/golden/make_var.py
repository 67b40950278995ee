"""Makes var.npz and mvar.npz: what the official VAR and MVAR give.

  python tests/golden/make_var.py var CHECKOUT
  python tests/golden/make_var.py mvar CHECKOUT

VAR is FoundationVision/VAR, commit 78b95394fc5896192e3a003e4b295f8ea743c48f
(MIT), classes VQVAE and VAR. MVAR is CVL-UESTC/MVAR, commit
d0e035abcdaa8be7d7d5ec8673a98292fdbf73c5 (MIT), class MVAR, its na2d (NATTEN)
replaced by the loop over windows below. PyTorch 2.13.0 on a CPU,
float32. Weights are redrawn (redraw.py), images, labels and noise drawn from
seed 1. Multinomial draws become argmax(log p + g), Gumbel draws a given g.

`python tests/golden/make_var.py var CHECKOUT --compare 16` writes no file: it
compares the released depth-16 architecture with this library.
"""

import argparse
import pathlib
import sys
import types

import numpy as np
import torch
from redraw import check_sensitive, pack, redraw
from var_case import FIXED, RULES, SMALL, inputs, is_fixed, some_codes

HERE = pathlib.Path(__file__).parent


def shapes_of(module):
  return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def redrawn(module):
  """Redraws a module's weights in place; returns them."""
  state = module.state_dict()
  shapes = {k: s for k, s in shapes_of(module).items() if not is_fixed(k)}
  weights = redraw(shapes, rules=RULES)
  put(module, weights)
  return {**{k: state[k].numpy() for k in state if is_fixed(k)}, **weights}


def put(module, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  module.load_state_dict(tensors, strict=False)


class Draws:
  """Stands in for the random functions of an official sampler's module."""

  def __init__(self, official, noise, quantize):
    self.official, self.quantize = official, quantize
    self.noise, self.mixing = map(torch.from_numpy, noise)
    self.logits, self.codes, self.totals, self.edge = [], [], [], 0

  def __enter__(self):
    self.kept = self.official.sample_with_top_k_top_p_
    self.official.sample_with_top_k_top_p_ = self.sample
    self.official.gumbel_softmax_with_rng = self.gumbel
    step = self.quantize.get_next_autoregressive_input

    def record(*args):
      total, following = step(*args)
      self.totals.append(total.numpy().copy())
      return total, following

    self.quantize.get_next_autoregressive_input = record
    return self

  def __exit__(self, *_):
    self.official.sample_with_top_k_top_p_ = self.kept
    del self.quantize.get_next_autoregressive_input

  def sample(self, logits, *, rng, top_k, top_p, num_samples):
    """The official filter, then argmax(log p + g); records its logits."""
    raw = logits.clone()
    start = sum(x.shape[1] for x in self.codes)
    self.here = slice(start, start + logits.shape[1])
    g = self.noise[:, self.here]
    multinomial = torch.multinomial
    torch.multinomial = lambda probs, **_: (
      probs.log() + g.reshape(probs.shape)
    ).argmax(-1)[:, None]
    codes = self.kept(
      logits, rng=rng, top_k=top_k, top_p=top_p, num_samples=num_samples
    )
    torch.multinomial = multinomial
    # Places where a sum of probabilities comes near the top-p edge.
    total = raw.topk(top_k)[0].flip(-1).softmax(-1).cumsum(-1)
    self.edge += int(((total - (1 - top_p)).abs() < 1e-5).any(-1).sum())
    self.logits.append(raw.numpy())
    self.codes.append(codes[..., 0].numpy())
    return codes

  def gumbel(self, logits, tau, **kwargs):
    """Gumbel-softmax with the given noise."""
    del kwargs
    return ((logits + self.mixing[:, self.here]) / tau).softmax(-1)


def na2d(q, k, v, *, kernel_size, dilation, scale):
  """Attention in a window that is shifted inwards at the borders."""
  assert dilation == 1
  height, width = q.shape[1:3]
  out = torch.zeros_like(v)
  first = lambda i, n: min(max(i - kernel_size // 2, 0), n - kernel_size)

  def near(x, a, b):
    return x[:, a : a + kernel_size, b : b + kernel_size].flatten(1, 2)

  for i in range(height):
    for j in range(width):
      a, b = first(i, height), first(j, width)
      logits = torch.einsum('bhc,bnhc->bhn', q[:, i, j], near(k, a, b)) * scale
      out[:, i, j] = torch.einsum(
        'bhn,bnhc->bhc', logits.softmax(-1), near(v, a, b)
      )
  return out


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('which', choices=('var', 'mvar'))
  parser.add_argument('checkout')
  parser.add_argument('--compare', type=int)
  flags = parser.parse_args()
  sys.path.insert(0, flags.checkout)
  if flags.which == 'mvar':
    natten = types.ModuleType('natten')
    natten.na2d = na2d
    sys.modules['natten'] = natten
  torch.set_grad_enabled(False)
  torch.distributed.get_world_size = lambda: 1
  if flags.compare:
    compare(flags.compare)
    return
  arrays = make_var() if flags.which == 'var' else make_mvar()
  path = HERE / f'{flags.which}.npz'
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size, 'bytes')


def vqvae(c):
  from models.vqvae import VQVAE

  module = VQVAE(
    vocab_size=c['codes'],
    z_channels=c['features'],
    ch=c['channels'],
    v_patch_nums=c['scales'],
  )
  return module.eval(), redrawn(module)


def make_var():
  from models import var as official

  c = SMALL
  vae, vae_weights = vqvae(c)
  images, labels, noise = inputs(c, 2)
  x = torch.from_numpy(images)
  latents = vae.quant_conv(vae.encoder(x))
  codes = vae.img_to_idxBl(x)
  painted = vae.idxBl_to_img(codes, same_shape=True)
  _, _, loss = vae(x)
  arrays = {
    'vae_shapes': pack(shapes_of(vae)),
    'latents': latents.numpy(),
    'codes': torch.cat(codes, 1).numpy(),
    # Every scale's reconstruction, every eighth pixel.
    'painted': torch.stack(painted)[..., ::8, ::8].numpy(),
    'vq_loss': loss.numpy(),
  }

  def paint(weights):
    put(vae, weights)
    found = vae.idxBl_to_img(codes, same_shape=True, last_one=True)
    latents = vae.quant_conv(vae.encoder(x)).numpy()
    out = [latents.ravel(), found.numpy().ravel()]
    put(vae, vae_weights)
    return np.concatenate([a / a.std() for a in out])

  check_sensitive(vae_weights, paint, tolerance=1e-5, fixed=FIXED)
  for name in ('block', 'shared'):
    module = official.VAR(
      vae,
      num_classes=c['classes'],
      depth=c['depth'],
      embed_dim=c['width'],
      num_heads=c['heads'],
      cond_drop_rate=0.0,
      shared_aln=name == 'shared',
      attn_l2_norm=True,
      patch_nums=c['scales'],
    ).eval()
    arrays |= generated(c, official, module, vae, labels, noise, name)
  return arrays


def generated(c, official, module, vae, labels, noise, name):
  """Teacher-forced and sampled logits, codes and images of one VAR."""
  weights = redrawn(module)
  assert max(v.max() for k, v in weights.items() if 'scale_mul' in k) > 4.7
  label = torch.from_numpy(labels)
  codes = torch.from_numpy(some_codes(c))
  latents = vae.quantize.idxBl_to_var_input(by_scale(c, codes))

  def teach(changed):
    put(module, changed)
    out = module(label, latents).numpy()
    put(module, weights)
    return out

  check_sensitive(weights, teach, tolerance=1e-5, fixed=FIXED)
  arrays = {
    f'{name}_shapes': pack(shapes_of(module)),
    f'{name}_taught': teach(weights)[..., ::3],
  }
  for smooth in (False, True):
    with Draws(official, noise, vae.quantize) as draws:
      image = module.autoregressive_infer_cfg(
        2,
        label,
        cfg=c['guidance'],
        top_k=c['top_k'],
        top_p=c['top_p'],
        more_smooth=smooth,
      )
    assert not draws.edge, draws.edge
    if smooth:
      # Each scale magnifies the error of the one before, so not the last.
      arrays[f'{name}_smooth_total'] = draws.totals[2]
    else:
      arrays[f'{name}_codes'] = np.concatenate(draws.codes, 1)
      arrays[f'{name}_logits'] = np.concatenate(draws.logits, 1)[..., ::3]
      arrays[f'{name}_image'] = image[..., ::8, ::8].numpy()
  return arrays


def by_scale(c, codes):
  return list(codes.split([s * s for s in c['scales']], 1))


def make_mvar():
  from models import mvar as official

  c = SMALL
  vae, _ = vqvae(c)
  _, labels, noise = inputs(c, 2)
  label = torch.from_numpy(labels)
  module = official.MVAR(
    vae,
    num_classes=c['classes'],
    depth=c['depth'],
    embed_dim=c['width'],
    num_heads=c['heads'],
    cond_drop_rate=0.0,
    attn_l2_norm=True,
    patch_nums=c['scales'],
    kernel_size=c['kernel'],
    refine_step=c['refine'],
  ).eval()
  weights = redrawn(module)
  codes = torch.from_numpy(some_codes(c))
  # Its tokenizer's function for the inputs is VAR's under another name.
  latents = vae.quantize.idxBl_to_mvar_input(by_scale(c, codes))
  ends = np.cumsum([s * s for s in c['scales']]).tolist()
  starts = [0, *ends[c['refine'] - 1 : -1]]
  spans = list(zip(starts, ends[c['refine'] - 1 :], strict=True))

  def teach(changed):
    put(module, changed)
    out = [
      module(
        label_B=label,
        x_BlCv_wo_first_l=latents[:, max(a - 1, 0) : b - 1],
        L_bg=a,
        L_ed=b,
        using_nattn=a > 0,
      ).numpy()
      for a, b in spans
    ]
    put(module, weights)
    return np.concatenate(out, 1)

  check_sensitive(weights, teach, tolerance=1e-5, fixed=FIXED)
  with Draws(official, noise, vae.quantize) as draws:
    total = module.autoregressive_infer(
      B=2,
      label_B=label,
      cfg=c['guidance'],
      top_k=c['top_k'],
      top_p=c['top_p'],
    )
  assert not draws.edge, draws.edge
  return {
    'shapes': pack(shapes_of(module)),
    'taught': teach(weights)[..., ::3],
    'codes': np.concatenate(draws.codes, 1),
    'logits': np.concatenate(draws.logits, 1)[..., ::3],
    'total': total.numpy(),
  }


def compare(depth):
  """The released architecture at a depth, theirs against ours, by hand."""
  import jax
  from models import build_vae_var
  from models import var as official

  from tokpress_jax import generators, types
  from tokpress_jax.generators import sampling, scale_wise_keys
  from tokpress_jax.io import keymap
  from tokpress_jax.tokenizers import var_keys

  c = {
    **SMALL,
    'codes': 4096,
    'classes': 1000,
    'scales': var_keys.SCALES_256,
    'top_k': 900,
    'top_p': 0.96,
  }
  vae, var = build_vae_var('cpu', depth=depth)
  ours = []
  for module, keys in ((vae, var_keys), (var, scale_wise_keys)):
    module.eval()
    weights = redrawn(module)
    config = keys.config_of(shapes_of(module))
    variables = keymap.convert(weights, keys.RULES, keys.expected(config))
    family = type(config).family
    spec = types.Spec(name='', family=family, config=config)
    ours.append(types.Loaded(config.build(), variables, spec))
  var.cond_drop_rate = 0.0
  tokenizer = ours[0]
  generator = types.Loaded(ours[1].module, ours[1].variables, spec, tokenizer)
  images, labels, noise = inputs(c, 1)
  x = torch.from_numpy(images)

  def show(name, a, b):
    print(f'{name:32} {np.abs(a - b).max() / b.std():.2e}', flush=True)

  pixels = np.moveaxis(images, 1, -1)
  to_nhwc = lambda t: np.moveaxis(t.numpy(), 1, -1)
  latents = jax.jit(tokenizer.latents)(pixels)
  show('latents', latents, to_nhwc(vae.quant_conv(vae.encoder(x))))
  codes = vae.img_to_idxBl(x)
  encoded = jax.jit(tokenizer.encode)(pixels)
  theirs = torch.cat(codes, 1).numpy()
  print('codes that differ', int((encoded.codes[..., 0] != theirs).sum()))
  painted = vae.idxBl_to_img(codes, same_shape=True, last_one=True)
  again = jax.jit(tokenizer.decode_codes)(theirs[..., None])
  show('reconstruction', again, to_nhwc(painted))
  taught = var(torch.from_numpy(labels), vae.quantize.idxBl_to_var_input(codes))
  next_inputs = tokenizer.next_inputs(theirs[..., None])
  logits = jax.jit(lambda g, x, y: g(x, y))(generator, next_inputs, labels)
  show('teacher-forced logits', logits, taught.numpy())
  with Draws(official, noise, vae.quantize) as draws:
    image = var.autoregressive_infer_cfg(
      1,
      torch.from_numpy(labels),
      cfg=c['guidance'],
      top_k=c['top_k'],
      top_p=c['top_p'],
    )
  sampling.token_gumbel = lambda *_: noise[0]
  drawn = generators.sample(
    generator,
    labels,
    rng=jax.random.key(0),
    sampler=generators.Sampler(
      top_k=c['top_k'], top_p=c['top_p'], guidance=c['guidance']
    ),
  )
  theirs = np.concatenate(draws.codes, 1)
  print('sampled codes that differ', int((drawn.codes[..., 0] != theirs).sum()))
  print('places at the top-p edge', draws.edge)
  show('sampled image', drawn.images, 2 * to_nhwc(image) - 1)


if __name__ == '__main__':
  main()
