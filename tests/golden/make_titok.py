"""Makes titok.npz and one_d_piece.npz: what the official classes give.

  python tests/golden/make_titok.py titok CHECKOUT
  python tests/golden/make_titok.py one_d_piece CHECKOUT

The first is bytedance/1d-tokenizer, commit
942a96fbdd873780179d1b78d5462911528bf8c8 (Apache-2.0), classes TiTok, TATiTok
and PretrainedTokenizer; the second turingmotors/One-D-Piece, commit
473665d1ec5d4f96e07f1c379166f668ee17b961 (Apache-2.0), class OneDPiece. Their
table of sizes is replaced by a smaller one, and the width of the VQGAN.
PyTorch 2.13.0 on a CPU, float32; omegaconf, einops and huggingface_hub must be
there. Weights are redrawn (redraw.py), images, text and noise drawn from seed
1.

`--compare titok_l32` writes no file: it compares an architecture of
CHECKOUT/configs at its real size with this library, and both with the official
class in float64. Errors are in deviations of the official output.
"""

import argparse
import pathlib
import re
import sys
import types

import numpy as np
import titok_case as case
import torch
from redraw import check_sensitive, pack, redraw

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-5


def stand_in(name, **attributes):
  module = types.ModuleType(name)
  vars(module).update(attributes)
  sys.modules[name] = module
  return module


def prepare(checkout, towers):
  """Makes the official classes importable, with towers of other sizes."""
  sys.path.insert(0, str(checkout))
  for name in ('accelerate', 'accelerate.utils'):
    stand_in(name)
  stand_in('accelerate.utils.operations', gather=lambda x: x)
  # Its __init__ imports the losses, and with them torchvision.
  folder = pathlib.Path(checkout) / 'modeling' / 'modules'
  stand_in('modeling.modules', __path__=[str(folder)])
  if towers is None:
    return
  text = (folder / 'blocks.py').read_text()
  for key, sizes in towers.items():
    entries = iter(sizes * 2)  # Width, layers, heads, in two classes.
    text = re.sub(
      rf'"{key}": \d+', lambda m, k=key, e=entries: f'"{k}": {next(e)}', text
    )
    assert next(entries, None) is None
  blocks = stand_in('modeling.modules.blocks')
  exec(compile(text, 'blocks.py', 'exec'), vars(blocks))
  from modeling import titok as official

  create = official.OmegaConf.create

  def narrower(conf):
    return create(conf | case.VQGAN if 'z_channels' in conf else conf)

  official.OmegaConf = types.SimpleNamespace(create=narrower)


def shapes_of(module):
  return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def redrawn(module):
  """Redraws a module's weights in place; returns them."""
  shapes = shapes_of(module)
  fixed = [k for k in shapes if any(part in k for part in case.FIXED)]
  weights = redraw(
    {k: s for k, s in shapes.items() if k not in fixed}, rules=case.RULES
  )
  put(module, weights)
  return weights


def put(module, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  module.load_state_dict(tensors, strict=False)


def config_of(name):
  vq_model = {
    'commitment_cost': 0.25,
    'vit_enc_patch_size': 16,
    'vit_dec_patch_size': 16,
    **case.CASES[name],
  }
  return {
    'model': {'vq_model': vq_model},
    'dataset': {'preprocessing': {'crop_size': case.SIDE}},
  }


def make(name):
  """Latents, codes and reconstruction of one variant."""
  from omegaconf import OmegaConf

  config = OmegaConf.create(config_of(name))
  images, text, noise = map(torch.from_numpy, case.inputs())
  extra = ()
  if name == 'one_d_piece':
    from modeling.one_d_piece import OneDPiece as Official
  elif name.startswith('tatitok'):
    from modeling.tatitok import TATiTok as Official

    extra = (text,)
  else:
    from modeling.titok import TiTok as Official
  module = Official(config).eval()
  weights = redrawn(module)
  latents = module.encoder(images, module.latent_tokens)
  arrays = {'shapes': pack(shapes_of(module)), 'latents': latents.numpy()}
  if name.endswith('vae'):
    kept, torch.randn = torch.randn, lambda shape: noise
    tokens, posterior = module.encode(images)
    torch.randn = kept
    kl = posterior.kl()
    arrays |= {
      'tokens': tokens.numpy(),
      'kl': (kl.sum() / kl.shape[0]).numpy(),
    }
  else:
    _, found = module.quantize(latents)
    tokens = found['min_encoding_indices']
    check_margin(module, latents)
    arrays |= {
      'codes': tokens[:, 0].numpy(),
      'vq_loss': found['quantizer_loss'].numpy(),
    }
  lengths = case.PREFIXES if name == 'one_d_piece' else (None,)

  def paint():
    return np.stack(
      [
        module.decode_tokens(
          tokens, *extra, **({'length': n} if n else {})
        ).numpy()
        for n in lengths
      ]
    )

  # All prefixes, every third pixel.
  arrays['painted'] = paint()[..., ::3, ::3]

  def run(changed):
    put(module, changed)
    out = [module.encoder(images, module.latent_tokens).numpy(), paint()]
    put(module, weights)
    return np.concatenate([x.ravel() / x.std() for x in out])

  check_sensitive(weights, run, tolerance=TOLERANCE, change=case.tilted)
  return {f'{name}/{k}': v for k, v in arrays.items()}


def check_margin(module, latents):
  """Asserts that no code is nearly a tie."""
  z = latents.permute(0, 2, 3, 1).flatten(0, 2)
  codebook = module.quantize.embedding.weight
  if module.quantize.use_l2_norm:
    z = torch.nn.functional.normalize(z, dim=-1)
    codebook = torch.nn.functional.normalize(codebook, dim=-1)
  near = torch.cdist(z, codebook).square().topk(2, largest=False)[0]
  margin = (near[:, 1] - near[:, 0]).min() / z.square().sum(-1).mean()
  assert margin > 1e-4, margin


def make_vqgan():
  """Latents, codes and reconstruction of MaskGIT's VQGAN alone."""
  from modeling.titok import PretrainedTokenizer

  # The class loads a file when it is made: its strict check is kept.
  load, torch.load = torch.load, lambda *args, **options: {}
  strict = torch.nn.Module.load_state_dict
  torch.nn.Module.load_state_dict = lambda *args, **options: None
  module = PretrainedTokenizer('none')
  torch.load, torch.nn.Module.load_state_dict = load, strict
  weights = redrawn(module)
  images, _, _ = map(torch.from_numpy, case.inputs())
  latents = module.encoder(images)
  codes = module.encode(images)

  def paint():
    return module.decoder(module.quantize.get_codebook_entry(codes)).numpy()

  def run(changed):
    put(module, changed)
    out = [module.encoder(images).numpy(), paint()]
    put(module, weights)
    return np.concatenate([x.ravel() / x.std() for x in out])

  check_sensitive(weights, run, tolerance=TOLERANCE, change=case.tilted)
  arrays = {
    'shapes': pack(shapes_of(module)),
    'latents': latents.numpy()[:, ::8],
    'codes': codes.numpy(),
    'painted': paint()[..., ::3, ::3],
  }
  return {f'maskgit/{k}': v for k, v in arrays.items()}


def compare(checkout, name):
  """A real architecture, theirs against ours, by hand."""
  import jax
  from omegaconf import OmegaConf

  from tokpress_jax.io import keymap
  from tokpress_jax.tokenizers import titok_keys

  found = pathlib.Path(checkout).glob(f'configs/**/{name}.yaml')
  (path,) = [path for path in found if 'training' not in path.parts]
  config = OmegaConf.load(path)
  extra, piece = {}, name.startswith('one-d-piece')
  if piece:
    from modeling.one_d_piece import OneDPiece as Official
  elif name.startswith('tatitok'):
    from modeling.tatitok import TATiTok as Official

    rng = np.random.default_rng(2)
    extra['condition'] = rng.standard_normal((1, 77, 768)).astype(np.float32)
  else:
    from modeling.titok import TiTok as Official
  module = Official(config).eval()
  weights = redrawn(module)
  rng = np.random.default_rng(1)
  images = np.kron(rng.uniform(0, 1, (1, 3, 32, 32)), np.ones((8, 8)))
  x = torch.from_numpy(images.astype(np.float32))
  options = {'prefixes': 'any'} if piece else {}
  config = titok_keys.config_of(shapes_of(module), **options)
  model = config.build()
  variables = keymap.convert(
    weights, titok_keys.RULES, titok_keys.expected(config)
  )
  weights.clear()
  pixels = np.moveaxis(2 * x.numpy() - 1, 1, -1)
  apply = jax.jit(model.apply, static_argnames='method')
  encoded = apply(variables, pixels, method='encode')
  lengths = (1, 16, 100, 256) if piece else (config.num_tokens,)

  tokens = module.quantize(module.encoder(x, module.latent_tokens))
  if config.continuous:
    tokens = tokens.mode()
  else:
    tokens = tokens[1]['min_encoding_indices']
    differ = int((encoded.codes[..., 0] != tokens[:, 0].numpy()).sum())
    print(name, 'codes that differ', differ, 'of', tokens.numel())

  def theirs(dtype):
    """Latents and reconstructions of all lengths, channels last."""
    module.to(dtype)
    cast = lambda t: t.to(dtype) if t.is_floating_point() else t
    out = [module.encoder(cast(x), module.latent_tokens)[:, :, 0]]
    text = [cast(torch.from_numpy(t)) for t in extra.values()]
    for n in lengths:
      cut = {'length': n} if piece else {}
      out.append(module.decode_tokens(cast(tokens), *text, **cut).clamp(0, 1))
    return [np.moveaxis(t.numpy(), 1, -1) for t in out]

  if config.continuous:
    vectors = np.moveaxis(tokens.numpy()[:, :, 0], 1, -1)
    encoded = encoded.replace(embeddings=vectors)
  else:
    encoded = encoded.replace(codes=tokens[:, 0, :, None].numpy())
  ours = [apply(variables, pixels, method='latents')]
  for n in lengths:
    image = apply(variables, encoded.first(n), method='decode', **extra)
    ours.append((np.asarray(image) + 1) / 2)
  names = ['latents', *(f'image from {n}' for n in lengths)]
  error = lambda a, b: f'{np.abs(np.asarray(a) - b).max() / b.std():.1e}'
  for what, a, b, truth in zip(
    names, ours, theirs(torch.float32), theirs(torch.float64), strict=True
  ):
    print(
      f'{name} {what}: between us {error(a, b)}; from its float64: ours '
      f'{error(a, truth)}, theirs {error(b, truth)}',
      flush=True,
    )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('which', choices=('titok', 'one_d_piece'))
  parser.add_argument('checkout')
  parser.add_argument('--compare')
  flags = parser.parse_args()
  torch.set_grad_enabled(False)
  prepare(flags.checkout, None if flags.compare else case.TOWERS)
  if flags.compare:
    compare(flags.checkout, flags.compare)
    return
  if flags.which == 'one_d_piece':
    arrays = make('one_d_piece')
  else:
    arrays = make_vqgan()
    for name in ('legacy', 'vq8k', 'vae', 'tatitok', 'tatitok_vae'):
      arrays |= make(name)
  path = HERE / f'{flags.which}.npz'
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
