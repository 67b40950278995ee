"""Weights of LPIPS with the released names, redrawn."""

import functools

import numpy as np

_CHANNELS = (64, 64, 128, 128, 256, 256, 256, *[512] * 6)
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@functools.cache
def released():
  """`features.N.weight`, `features.N.bias`, `linN.model.1.weight`."""
  rng = np.random.default_rng(0)
  found, before = {}, 3
  for place, after in zip(_PLACES, _CHANNELS, strict=True):
    weight = rng.normal(size=(after, before, 3, 3))
    # Without what all channels share, which would drown the images' difference
    # in the deep maps.
    weight -= weight.mean(1, keepdims=True)
    found |= {
      f'features.{place}.weight': weight * (3 / (9 * before)) ** 0.5,
      f'features.{place}.bias': 0.1 * rng.normal(size=after),
    }
    before = after
  for i, width in enumerate((64, 128, 256, 512, 512)):
    found[f'lin{i}.model.1.weight'] = rng.uniform(size=(1, width, 1, 1))
  return {name: x.astype(np.float32) for name, x in found.items()}
