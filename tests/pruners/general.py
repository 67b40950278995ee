"""Registered pruners that take any tokens, and any budget but for ratios."""

from tokpress_jax import registry

# The others, which have tests of their own: what they want beside it.
SPECIAL = {
  'aim': 'a ratio of 1/2, 1/4, ...',
  'dtd': 'frames',
  'dycoke': 'frames, and a ratio',
  'globalcom2': 'crops, and a ratio',
  'hiprune': 'a grid',
  'hired': 'crops, and a ratio',
  'mustdrop': 'a grid; the budget is a capacity',
  'ppe': 'positions of three axes',
  'prumerge': 'the budget is a capacity, a slot on top of it',
  'prumerge_plus': 'a slot on top of the budget',
  'recoverable': 'the budget is a capacity, a slot on top of it',
  'segpruner': 'places in space',
  'token_corr': 'the budget is a capacity',
}
METHODS = [e.name for e in registry.list_pruners() if e.name not in SPECIAL]
