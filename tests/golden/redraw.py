"""Weights for golden files: redrawn from a seed by name and shape.

A golden file holds what official code gave for such weights; the script that
made it and the test that reads it draw the same ones, so that no weights are
stored. Fresh initialisation would hide errors: a gate of 1e-5 makes a block
worth nothing, a norm of ones and zeros can be swapped with any other.
"""

import json
import re
import zlib

import numpy as np


def redraw(shapes, *, seed=0, rules=()):
  """Draws every tensor.

  Args:
    shapes: name to shape, torch layout (outputs first).
    seed: of all.
    rules: ordered (part of a name, factor, shift); the first whose part is in a
      name changes its draw.

  Returns:
    name to float32: matrices and kernels normal with deviation fan-in ** -0.5,
    weights of one axis (norms) about 1, all else about 0.2.
  """
  out = {}
  for name, shape in shapes.items():
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    x = rng.standard_normal(shape)
    if len(shape) > 1 and name.endswith('weight'):
      x *= np.prod(shape[1:]) ** -0.5
    elif name.endswith('weight'):
      x = 1 + 0.2 * x
    else:
      x *= 0.2
    factor, shift = next((r[1:] for r in rules if r[0] in name), (1, 0))
    out[name] = (factor * x + shift).astype(np.float32)
  return out


def check_sensitive(
  weights, run, *, tolerance, fixed=(), change=lambda x: x * 1.1
):
  """Asserts that every group of weights matters to the output.

  A group is all weights whose names differ in numbers only; each is changed in
  turn.

  Args:
    weights: name to array.
    run: weights -> array, the output that a test compares.
    tolerance: of that test, relative to the output's deviation.
    fixed: parts of names that are constants.
    change: of a weight; by default it is made 10% larger.
  """
  before = run(weights)
  groups = {}
  for name in weights:
    if not any(part in name for part in fixed):
      groups.setdefault(re.sub(r'\d+', '#', name), []).append(name)
  for group, names in groups.items():
    moved = {n: change(x) if n in names else x for n, x in weights.items()}
    moves = np.abs(run(moved) - before).max() / before.std()
    assert moves > 100 * tolerance, (group, moves)


def pack(shapes):
  """Names and shapes as an array of text, for a golden file."""
  return np.array(json.dumps({k: list(v) for k, v in shapes.items()}))


def unpack(text):
  """The inverse of `pack`."""
  return {k: tuple(v) for k, v in json.loads(str(text)).items()}
