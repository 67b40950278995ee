"""Makes elastictok.npz: what the official functions give.

  python tests/golden/make_elastictok.py CHECKOUT

LargeWorldModel/ElasticTok, commit a175cdb8f5ae43ce684c98a5993d4631ba2c845e
(Apache-2.0): ElasticTok, MaskSampler and ElasticInference, float32 on a CPU.
They were written for jax 0.4.34, the package tux and several devices: stand-ins
for tux, for pjit and shard_map (one device) and for readers of videos are
below, and one for ringattention_inference, whose arithmetic on one device is a
softmax over masked float32 logits, scaled by E ** -0.5. Weights are redrawn
(redraw.py), videos drawn from seed 1.

The official attention without chunks needs inputs of exactly
`max_sequence_length` slots, and the KL counts 2,048 slots a block whatever the
config says: here it is told the case's own.
"""

import argparse
import pathlib
import sys
import types

import elastictok_case as case
import flax
import jax
import jax.numpy as jnp
import numpy as np
from redraw import check_sensitive, pack, redraw

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-5


def stand_in(name, **contents):
  module = sys.modules[name] = types.ModuleType(name)
  vars(module).update(contents)
  module.__getattr__ = lambda attribute: None
  return module


def attention(q, k, v, mask, axis_name):
  """[B, T, A, E] over [B, S, A, E]; mask [B, 1, T, S]."""
  del axis_name
  logits = jnp.einsum('bqhd,bkhd->bhqk', q, k) / jnp.sqrt(q.shape[-1])
  logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
  return jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(logits), v)


def prepare(checkout):
  """Makes the official modules importable."""
  sys.path.insert(0, str(checkout))
  same = lambda x, *args, **options: x
  stand_in(
    'tux',
    with_sharding_constraint=same,
    get_jax_mesh=lambda *args: types.SimpleNamespace(shape={'sp': 1}),
  )
  stand_in('ml_collections', ConfigDict=dict)
  stand_in('jax.experimental.shard_map', shard_map=lambda f, **options: f)
  stand_in('jax.experimental.pjit', pjit=lambda f, **options: jax.jit(f))
  stand_in('jax.experimental.multihost_utils')
  stand_in('ringattention', ringattention_inference=attention)
  for name in ('decord', 'gcsfs', 'ffmpeg'):
    stand_in(name)
  jax.tree_map = jax.tree.map


def named(tree):
  """Flax parameters by official names joined with dots."""
  flat = flax.traverse_util.flatten_dict(tree, sep='.')
  return {name: np.asarray(x) for name, x in flat.items()}


def nested(weights):
  return {'params': flax.traverse_util.unflatten_dict(weights, sep='.')}


def patches_of(video, patch):
  """As `_process_video` of elastic/data.py: [B, slots, numbers]."""
  t, p, q = patch
  batch, length, rows, columns, channels = video.shape
  x = video.reshape(
    batch, length // t, t, rows // p, p, columns // q, q, channels
  )
  x = np.transpose(x, (0, 1, 3, 5, 2, 4, 6, 7))
  return x.reshape(batch, -1, t * p * q * channels)


def make(name):
  from elastic import bottleneck, inference, model

  settings = case.CASES[name]
  config = model.ElasticTokConfig(**settings)
  # A field that the official constructor takes and does not keep.
  config.vae_bottleneck_dim = settings.get('vae_bottleneck_dim', 8)
  network = model.ElasticTok(config)
  gaussian = bottleneck.DiagonalGaussianDistribution
  divergence = gaussian.kl if name == 'vae' else None
  if divergence is not None:
    gaussian.kl = lambda self, mask, size: divergence(
      self, mask, config.max_toks
    )
  vision = patches_of(case.inputs(), config.patch_size)
  batch, slots, _ = vision.shape
  pixels = jnp.asarray(vision, jnp.float32) / 127.5 - 1
  data = types.SimpleNamespace(elastic_config=config, resolution=case.SIDE)
  search = inference.ElasticInference(
    network, config, data, None, None, None, 'linear'
  )
  asked = case.ASKED[name]
  mask = np.stack(
    [np.concatenate([search.mask_sampler(n) for n in row]) for row in asked]
  )
  rest = {
    'attention_mask': np.ones((batch, slots), bool),
    'segment_ids': np.zeros((batch, slots), np.int32),
    'position_ids': np.tile(np.arange(slots, dtype=np.int32), (batch, 1)),
  }
  drawn = jax.eval_shape(
    lambda key: network.init(
      {'params': key, 'sample': key}, pixels, mask, **rest
    ),
    jax.random.key(0),
  )
  shapes = {
    k: x.shape
    for k, x in flax.traverse_util.flatten_dict(
      drawn['params'], sep='.'
    ).items()
  }
  weights = redraw(shapes, rules=case.RULES)

  encode = jax.jit(
    lambda v: network.apply(
      v, pixels, mask, **rest, training=False, method='encode'
    )[0]
  )
  decode = jax.jit(
    lambda v, z: network.apply(v, z, mask, **rest, method='decode')
  )
  variables = nested(weights)
  z = encode(variables)
  painted = decode(variables, z)
  arrays = {
    'shapes': pack(shapes),
    'kept': mask.reshape(batch, case.BLOCKS, -1).sum(-1),
    'z': z,
    'painted': painted,
  }
  if name == 'fsq':
    arrays['codes'] = network.apply(
      variables, z, method='codes_to_indexes'
    ).astype(np.int32)
  else:
    loss = network.apply(
      variables, pixels, mask, **rest, training=False, method='encode'
    )[1]['aux_loss']
    arrays['kl'] = loss

  # The linear search, at a threshold between errors.
  errors = []
  once = search._recon_with_mask

  def recon(*args):
    error, cache = once(*args)
    errors.append(np.asarray(error))
    return error, cache

  search.__dict__['_recon_with_mask'] = recon
  run = lambda threshold: search.inference_linear(
    variables, {'vision': vision, **rest}, threshold, n_interp=case.TRIED
  )
  run(0.0)
  tried = np.unique(np.concatenate(errors))
  some = tried[len(tried) // 5 : len(tried) // 2]
  gap = np.argmax(np.diff(some))
  threshold = float(some[gap : gap + 2].mean())
  errors.clear()
  _, _, lengths, codes = run(threshold)
  margin = np.abs(np.concatenate(errors) - threshold).min()
  assert margin > 1e-5, margin
  assert len(np.unique(lengths)) > 2, lengths
  arrays |= {
    'threshold': np.float32(threshold),
    'search': lengths,
    'search_kept': np.array([[len(x) for x in row] for row in codes]),
  }

  def moved(changed):
    changed = nested(changed)
    z = encode(changed)
    # The tokens before rounding would jump; what is painted from them does.
    return np.concatenate(
      [np.ravel(z) / np.std(z), np.ravel(decode(changed, z))]
    )

  check_sensitive(weights, moved, tolerance=TOLERANCE)
  return {f'{name}/{k}': np.asarray(v) for k, v in arrays.items()}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout')
  prepare(parser.parse_args().checkout)
  arrays = make('fsq') | make('vae')
  path = HERE / 'elastictok.npz'
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size, 'bytes')


if __name__ == '__main__':
  main()
