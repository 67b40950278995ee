"""Makes flextok.npz: what the official FlexTok and its autoencoder give.

  PYTHONPATH=EXTRA python tests/golden/make_flextok.py CHECKOUT

CHECKOUT is apple/ml-flextok, commit
87d00cc8babf4a25ffce0f3f0c4d8b529d3d6abf (Apple sample code licence; nothing of
it is kept here): FlexTransformer and the modules around it, FSQ, MinRFPipeline
and StableDiffusionVAE, put together as the released files describe them.
Attention runs through its materialised mask. PyTorch 2.13.0 on a CPU, float32;
diffusers 0.42.1 (Apache-2.0), hydra-core, mup and einops must be there.

Weights are redrawn (redraw.py), inputs drawn from a seed. `small` and
`vae_small` are small; `d12` has the sizes of the released d12-d12 and random
latents, `vae` those of its autoencoder. Every group of weights of the small
ones, and the large ones have no others, is moved by 10% and must matter.
"""

import argparse
import importlib.metadata
import pathlib
import sys
import types

import flextok_case as case
import numpy as np
import torch
from redraw import check_sensitive, pack, redraw

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4


def prepare(checkout):
  """Makes the official classes importable, without what they do not need."""
  sys.path.insert(0, str(checkout))
  sys.modules['importlib_metadata'] = importlib.metadata
  import diffusers.models  # Before torchvision's stand-in, which it looks for.

  diffusers.models.AutoencoderKL  # noqa: B018
  names = ('transforms', 'transforms.functional')
  for name in ('torchvision', *(f'torchvision.{n}' for n in names)):
    sys.modules[name] = types.ModuleType(name)
  for name in names:
    parent = f'torchvision.{name}'.rpartition('.')
    setattr(sys.modules[parent[0]], parent[2], sys.modules[''.join(parent)])
  sys.modules['flextok.utils.demo'] = types.ModuleType('flextok.utils.demo')
  torch.compile = lambda function, **_: function


def build(name):
  """Encoder, quantiser, decoder and pipeline, as the releases have them."""
  from flextok.flow_matching.pipelines import MinRFPipeline
  from flextok.model.layers.attention import FlexAttention
  from flextok.model.postprocessors.heads import LinearHead, ToPatchesLinearHead
  from flextok.model.postprocessors.seq_unpacking import SequenceUnpacker
  from flextok.model.preprocessors.flex_seq_packing import (
    BlockWiseSequencePacker,
  )
  from flextok.model.preprocessors.linear import LinearLayer
  from flextok.model.preprocessors.nullcond import LearnedNullCond
  from flextok.model.preprocessors.patching import PatchEmbedder
  from flextok.model.preprocessors.registers import Registers1D
  from flextok.model.preprocessors.time_embedding import TimestepEmbedder
  from flextok.model.preprocessors.token_dropout import MaskedNestedDropout
  from flextok.model.trunks.transformers import FlexTransformer
  from flextok.model.utils.dict_ops import (
    PerSampleOp,
    channels_first_to_last,
    channels_last_to_first,
  )
  from flextok.model.utils.posembs import PositionalEmbeddingAdder
  from flextok.model.utils.wrappers import SequentialModuleDictWrapper
  from flextok.regularizers.quantize_fsq import FSQ

  c = case.CASES[name]
  side = c['grid'] // case.PATCH
  patch_sizes = [case.PATCH, case.PATCH]
  wide, deep = c['width'], c['depth']

  def packer(patches, registers, prefix, **more):
    return BlockWiseSequencePacker(
      [patches, registers],
      f'{prefix}_packed_seq',
      f'{prefix}_block_mask',
      f'{prefix}_ps_inner',
      f'{prefix}_ps_outer',
      pad_to_multiple=128,
      return_materialized_mask=True,
      **more,
    )

  def unpacker(patches, registers, prefix):
    return SequenceUnpacker(
      f'{prefix}_packed_seq',
      [patches, registers],
      f'{prefix}_ps_inner',
      f'{prefix}_ps_outer',
    )

  def trunk(prefix, dim, depth, **more):
    return FlexTransformer(
      f'{prefix}_packed_seq',
      f'{prefix}_packed_seq',
      dim=dim,
      depth=depth,
      head_dim=c['head'],
      block_mask_read_key=f'{prefix}_block_mask',
      **more,
    )

  def patches_of(read, write, dim):
    return PatchEmbedder(
      read,
      write,
      f'{write}_n',
      patch_sizes,
      c['channels'],
      dim,
      flatten_patches=False,
    )

  encoder = SequentialModuleDictWrapper(
    {
      'enc_channels_to_last': PerSampleOp(
        'vae_latents', 'latents_last', channels_first_to_last
      ),
      'enc_patch_emb': patches_of('latents_last', 'enc_patches', wide[0]),
      'enc_posemb_module': PositionalEmbeddingAdder(
        'enc_patches', 'enc_patches', wide[0], [side, side]
      ),
      'enc_register_module': Registers1D(
        'enc_patches',
        'sizes',
        'enc_registers',
        wide[0],
        c['tokens'],
        c['tokens'],
      ),
      'enc_seq_packer': packer(
        'enc_patches', 'enc_registers', 'enc', mask_mode='causal_last'
      ),
      'enc_transformer': trunk('enc', wide[0], deep[0]),
      'enc_unpacker': unpacker('enc_patches', 'enc_registers', 'enc'),
      'enc_to_latents': LinearHead(
        'enc_registers',
        'enc_registers',
        wide[0],
        len(case.LEVELS),
        use_mup_readout=False,
      ),
    }
  )
  regularizer = FSQ('enc_registers', 'quants', 'tokens', list(case.LEVELS))
  decoder = SequentialModuleDictWrapper(
    {
      'dec_from_latents': LinearLayer(
        'quants', 'registers', len(case.LEVELS), wide[1]
      ),
      'dec_registers_posemb_module': PositionalEmbeddingAdder(
        'registers', 'registers', wide[1], [c['tokens']], 'learnable_sum'
      ),
      'dec_nested_dropout': MaskedNestedDropout('registers', wide[1]),
      'dec_latent_dropout': LearnedNullCond('registers', wide[1]),
      'dec_noise_channels_to_last': PerSampleOp(
        'noised', 'noised_last', channels_first_to_last
      ),
      'dec_noise_patch_emb': patches_of('noised_last', 'dec_patches', wide[1]),
      'dec_patches_posemb_module': PositionalEmbeddingAdder(
        'dec_patches', 'dec_patches', wide[1], [side, side]
      ),
      'dec_seq_packer': packer(
        'dec_patches',
        'registers',
        'dec',
        emb_packing_fn_write_key='packing',
        per_subseq_embs=True,
      ),
      'dec_time_embedder': TimestepEmbedder(
        'timesteps', 'temb', wide[1], max_timestep=c['max_timestep']
      ),
      'dec_transformer': trunk(
        'dec',
        wide[1],
        deep[1],
        adaLN_emb_read_key='temb',
        adaLN_packing_fn_read_key='packing',
        adaLN_expansion=2,
      ),
      'dec_unpacker': unpacker('dec_patches', 'registers', 'dec'),
      'dec_to_patches': ToPatchesLinearHead(
        'dec_patches',
        'dec_patches',
        wide[1],
        c['channels'],
        patch_sizes,
        use_mup_readout=False,
        adaLN_emb_read_key='temb',
      ),
      'dec_channels_to_first': PerSampleOp(
        'dec_patches', 'reconst', channels_last_to_first
      ),
    }
  )
  for part in (*encoder.modules(), *decoder.modules()):
    if isinstance(part, FlexAttention):
      part.use_flex_attention = False
  pipeline = MinRFPipeline(
    model=decoder,
    noise_read_key='noise',
    latents_read_key='quants',
    timesteps_read_key='timesteps',
    noised_images_read_key='noised',
    reconst_write_key='reconst',
    out_channels=c['channels'],
  )
  whole = torch.nn.ModuleDict({'encoder': encoder, 'decoder': decoder}).eval()
  return whole, regularizer.eval(), pipeline


def redrawn(module):
  """Redraws a module's weights in place; gives their shapes and them."""
  shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
  weights = redraw(
    {k: s for k, s in shapes.items() if not k.endswith(case.FIXED)},
    rules=case.RULES,
  )
  put(module, weights)
  return shapes, weights


def put(module, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  module.load_state_dict(tensors, strict=False)


def numbers(rows):
  return torch.cat(list(rows)).numpy()


def make(name):
  """Codes, one step of the flow, guided too, and all of the sampling."""
  c = case.CASES[name]
  module, regularizer, pipeline = build(name)
  shapes, weights = redrawn(module)
  clean, noise = (torch.from_numpy(x) for x in case.latents(name))
  lengths = list(case.LENGTHS[name])

  def encode():
    data = module['encoder']({'vae_latents': list(clean.split(1))})
    z = numbers(data['enc_registers'])
    data = regularizer(data)
    return z, numbers(data['tokens']), data['quants']

  z, tokens, quants = encode()
  # No value may lie so close to a rounding that another order of sums decides.
  bounded = regularizer.bound(torch.from_numpy(z)).numpy()
  margin = np.abs(bounded - np.floor(bounded) - 0.5).min()
  assert margin > 2e-5, margin

  def step(length=None, null=False):
    data = {
      'quants': [q.clone() for q in quants],
      'noised': list(noise.split(1)),
      'timesteps': torch.full((c['batch'],), case.TIME),
    }
    if length is not None:
      data['eval_keep_k'] = length
    if null:
      data['eval_dropout_mask'] = [True] * c['batch']
    return numbers(module['decoder'](data)['reconst'])

  def sampled(**options):
    data = {
      'quants': quants,
      'noise': list(noise.split(1)),
      'eval_keep_k': lengths,
    }
    size = (c['grid'], c['grid'])
    data = pipeline(
      data,
      timesteps=case.STEPS,
      vae_image_sizes=[size] * c['batch'],
      verbose=False,
      **options,
    )
    return numbers(data['reconst'])

  guided = {'guidance_scale': case.GUIDANCE}
  arrays = {
    'shapes': pack(shapes),
    'z': z if name == 'small' else z[:, ::4],
    'tokens': tokens.astype(np.int32),
    'step': step(),
    'step_cut': step(lengths),
    'step_null': step(null=True),
    'drawn': sampled(),
    'drawn_projected': sampled(**guided, perform_norm_guidance=True),
  }
  if name == 'small':
    arrays['drawn_plain'] = sampled(**guided)

  def run(changed):
    put(module, changed)
    out = [encode()[0], step(lengths), step(null=True)]
    put(module, weights)
    return np.concatenate([x.ravel() / x.std() for x in out])

  if name == 'small':  # The large one has the same groups.
    check_sensitive(weights, run, tolerance=TOLERANCE, change=case.tilted)
  places = {k: case.thin(name, v) for k, v in arrays.items() if v.ndim == 4}
  return {f'{name}/{k}': v for k, v in (arrays | places).items()}


def make_vae(name):
  """Scaled means of an autoencoder, and the images of them."""
  from flextok import vae_wrapper

  c = case.VAES[name]
  many = len(c['widths'])
  vae_wrapper.VAE_BASE_CFG |= {
    'block_out_channels': list(c['widths']),
    'down_block_types': ['DownEncoderBlock2D'] * many,
    'up_block_types': ['UpDecoderBlock2D'] * many,
  }
  module = vae_wrapper.StableDiffusionVAE(
    'rgb',
    'latents',
    'latents',
    'painted',
    latent_channels=c['channels'],
    scaling_factor=case.SCALING,
    sample_posterior=False,
  ).eval()
  shapes, weights = redrawn(module)
  images = torch.from_numpy(case.images(name))

  def call():
    data = module.encode({'rgb': images})
    return data['latents'].numpy(), module.decode(data)['painted'].numpy()

  def run(changed):
    put(module, changed)
    out = call()
    put(module, weights)
    return np.concatenate([x.ravel() / x.std() for x in out])

  latents, painted = call()
  if name == 'vae_small':
    check_sensitive(
      weights, run, tolerance=TOLERANCE, fixed=case.IDLE, change=case.tilted
    )
  arrays = {
    'shapes': pack(shapes),
    'latents': latents,
    'painted': case.thin(name, painted),
  }
  return {f'{name}/{k}': v for k, v in arrays.items()}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout')
  parser.add_argument('--only', nargs='*')
  args = parser.parse_args()
  prepare(args.checkout)
  path = HERE / 'flextok.npz'
  arrays = dict(np.load(path)) if args.only and path.is_file() else {}
  with torch.no_grad():
    for name in args.only or (*case.CASES, *case.VAES):
      arrays |= (make if name in case.CASES else make_vae)(name)
      print(name, flush=True)
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
