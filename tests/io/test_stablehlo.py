"""Exported programs, read back, do what the model does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax import generators
from tokpress_jax.errors import UserError
from tokpress_jax.io import stablehlo


def test_tokenizer(tmp_path):
  model, images = tiny_models.one_d(), tiny_models.IMAGES
  names = stablehlo.export_programs(model, tmp_path, batch_size=2)
  assert names == ['encode', 'decode']
  programs = stablehlo.load_programs(tmp_path)
  encoded = model.encode(images)
  codes = programs['encode'](images)
  np.testing.assert_array_equal(codes, encoded.codes)
  length = jnp.array([1, 3], jnp.int32)
  np.testing.assert_allclose(
    programs['decode'](codes, length),
    model.decode(encoded.replace(length=length)),
    atol=1e-6,
  )
  with pytest.raises(ValueError, match='shape'):
    programs['encode'](images[:1])


def test_generator(tmp_path):
  model = tiny_models.scale_wise()
  sampler = generators.Sampler(guidance=1.5, top_k=8)
  stablehlo.export_programs(model, tmp_path, batch_size=2, sampler=sampler)
  labels = jnp.array([0, 2], jnp.int32)
  images = stablehlo.load_programs(tmp_path)['sample'](labels, np.uint32(7))
  expected = generators.sample(
    model, labels, rng=jax.random.key(7), sampler=sampler
  )
  np.testing.assert_allclose(images, expected.images, atol=1e-6)


def test_classifier(tmp_path):
  model = tiny_models.vit()
  stablehlo.export_programs(model, tmp_path, batch_size=2, platforms=('cpu',))
  logits = stablehlo.load_programs(tmp_path)['apply'](tiny_models.IMAGES)
  np.testing.assert_allclose(
    logits, model(tiny_models.IMAGES).logits, atol=1e-6
  )


def test_nothing_there(tmp_path):
  with pytest.raises(UserError, match=r'programs\.json'):
    stablehlo.load_programs(tmp_path)
