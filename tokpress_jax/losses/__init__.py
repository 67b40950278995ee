"""Losses: pure functions of arrays, float32, with masks."""

from tokpress_jax.losses.classification import accuracy, cross_entropy
from tokpress_jax.losses.decibel import decibel
from tokpress_jax.losses.reconstruction import charbonnier, l1, l2

__all__ = ['accuracy', 'charbonnier', 'cross_entropy', 'decibel', 'l1', 'l2']
