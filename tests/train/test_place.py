"""A generator and its tokenizer over eight devices: the same samples."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax import generators, inference, released
from tokpress_jax.errors import UserError
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train import place, sharding
from tokpress_jax.train.config import MeshConfig
from tokpress_jax.train.tasks.generate import GeneratorTask

LABELS = np.array([0, 1, 2, 3, 3, 2, 1, 0], np.int32)


def redraw(loaded, seed):
  """No gate or head starts near zero, where it would hide an error."""
  rng = np.random.default_rng(seed)

  def draw(x):
    scale = 0.5 if x.ndim < 2 else x.shape[-2] ** -0.5
    return jnp.asarray(rng.normal(size=x.shape) * scale, jnp.float32)

  return dataclasses.replace(
    loaded, variables=jax.tree.map(draw, loaded.variables)
  )


@functools.cache
def model():
  config = dataclasses.replace(tiny_models.SCALE_WISE, depth=2)
  tokenizer = redraw(tiny_models.scale_wise().tokenizer, 0)
  inputs = config.example_inputs()
  return redraw(
    tiny_models.loaded(config, 'generator', *inputs, tokenizer=tokenizer), 1
  )


def sample(model, labels):
  sampler = generators.Sampler(top_k=12, top_p=0.95, guidance=2.0)
  rng = jax.random.key(3)
  return generators.sample(model, labels, rng=rng, sampler=sampler)


@functools.cache
def wanted():
  return sample(inference.for_inference(model()), LABELS)


@pytest.mark.parametrize(
  'sizes, prepare, cut',
  [
    # The layers stacked, run by a scan, and split, run one by one.
    ({'data': 2, 'fsdp': 4}, lambda model: model, (2, 16 // 4, 48)),
    (
      {'data': 2, 'fsdp': 2, 'model': 2},
      inference.for_inference,
      (16 // 2, 48 // 2),
    ),
  ],
)
def test_sharded_sampling_equals_a_single_device(sizes, prepare, cut):
  config = MeshConfig(fsdp_min_size=16, **sizes)
  mesh = mesh_lib.make_mesh(config)
  placed = prepare(place.place(model(), mesh, config))
  shape = lambda x: x.sharding.shard_shape(x.shape)
  layers = placed.variables['params']['stack']['layers']
  layer = layers if isinstance(layers, dict) else layers[1]
  assert shape(layer['attn']['qkv']['kernel']) == cut
  whole = [
    jax.tree_util.keystr(path)
    for path, x in jax.tree_util.tree_leaves_with_path(placed)
    if x.ndim > 1 and x.size >= 256 and x.sharding.is_fully_replicated
  ]
  assert not whole
  got = sample(placed, place.spread(LABELS, mesh))
  np.testing.assert_array_equal(got.codes, wanted().codes)
  np.testing.assert_allclose(got.images, wanted().images, atol=1e-5)


def test_what_does_not_fit_is_said():
  mesh = mesh_lib.make_mesh(MeshConfig(data=4, model=2))
  with pytest.raises(UserError, match=r'6 rows .* mesh.data=4; give a mult'):
    place.spread(LABELS[:6], mesh)
  strict = MeshConfig(model=2, guard_min_mb=0.0, fsdp_min_size=1)
  with pytest.raises(
    UserError, match=r'whole on every .* params/positions/table'
  ):
    place.place(model(), mesh, strict)


@pytest.mark.parametrize('name', ['var-d16', 'var-d36'])
def test_released_sizes_are_cut_by_the_model_axis_alone(name):
  config = released.RELEASED[name].make_config()
  variables = jax.eval_shape(
    config.build().init, jax.random.key(0), *config.example_inputs()
  )
  sizes = MeshConfig(data=4, model=2)
  mesh = mesh_lib.make_mesh(sizes)
  rules = GeneratorTask.sharding_rules
  placed = sharding.shard(variables, mesh, sizes, rules=rules)
  part = sharding.bytes_per_device(variables, placed)
  assert part / sum(map(sharding.bytes_of, jax.tree.leaves(variables))) < 0.52
