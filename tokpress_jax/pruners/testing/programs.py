"""Promises about a pruner's program: what it reads, compiles and computes in.

Dimension letters: B batch, N token slots, K kept slots, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tokpress_jax.pruners import base, reduction
from tokpress_jax.pruners.random_inputs import (
  SIGNALS,
  field_of,
  make_signals,
  signal_shapes,
)
from tokpress_jax.pruners.testing.arrangements import Inputs
from tokpress_jax.pruners.testing.running import Result, Running, expect
from tokpress_jax.types import Array, OneHot, Reduction, Signals, Tap, Tokens

_EVERY: base.Needs = frozenset(SIGNALS)


class Programs(Running):
  """Promises about the program."""

  def runs_on_what_it_needs(self) -> None:
    """It is a pruner, and reads no signal that `needs` does not name."""
    missing = [n for n in ('needs', 'plan') if not hasattr(self.pruner, n)]
    expect(not missing, f'a pruner has `needs` and `plan`; missing: {missing}')
    needs = self.pruner.needs
    unknown = sorted(str(n) for n in needs if field_of(n) not in _EVERY)
    expect(not unknown, f'needs {unknown}; there are {sorted(SIGNALS)}')
    try:
      self.program(*self.inputs())
    except Exception as error:
      try:
        self.eager(*self.on.make(_EVERY | needs))
      except Exception:
        raise error from None
      raise AssertionError(
        'it runs only with signals that `needs` does not name '
        f'({sorted(map(str, needs))}): {error!r}'
      ) from error

  def is_hashable(self) -> None:
    """It may stand in a plan and be a static argument of `jit`."""
    try:
      hash(self.pruner)
    except TypeError as error:
      raise AssertionError(
        f'not hashable ({error}): fields are numbers, strings and tuples'
      ) from error
    if isinstance(self.pruner, nn.Module):
      return
    same = dataclasses.replace(self.pruner)
    expect(
      same == self.pruner and hash(same) == hash(self.pruner),
      'two pruners of equal fields are not equal, so that each would compile: '
      'make the class a frozen dataclass',
    )

  def jit_equals_eager(self) -> None:
    """Compiled and not compiled give the same."""
    inputs = self.inputs()
    self._compare(self.program(*inputs), self.eager(*inputs))

  def bfloat16_is_finite(self) -> None:
    """Features in bfloat16 stay so, without NaN."""
    tokens, signals = self.inputs()
    low = lambda tree: jax.tree.map(
      lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, tree
    )
    features = low(tokens.features)
    out, _ = self.program(
      dataclasses.replace(tokens, features=features), low(signals)
    )
    expect(
      out.features.dtype == jnp.bfloat16,
      f'bfloat16 features became {out.features.dtype}',
    )
    expect(
      bool(jnp.isfinite(out.features).all()), 'features in bfloat16 hold NaN'
    )

  def gradients_reach_what_was_kept(self) -> None:
    """They are finite, reach every kept token, and never padding.

    With one-hot assignments they reach nothing else; weights may carry them to
    other tokens.
    """
    tokens, signals = self.inputs()

    def loss(features: Array) -> tuple[Array, Reduction]:
      given = dataclasses.replace(tokens, features=features)
      out, result = self.program(given, signals)
      return jnp.sum(out.features), result

    gradient, result = jax.grad(loss, has_aux=True)(tokens.features)
    expect(bool(jnp.isfinite(gradient).all()), 'a gradient is not finite')
    moved = np.asarray(jnp.abs(gradient).max(axis=-1) > 0)
    kept = np.asarray(reduction.dense(result).sum(axis=1) > 0)
    if not isinstance(result.assign, OneHot):
      expect(not moved[~np.asarray(tokens.valid)].any(), 'padding has one')
      moved = moved & kept
    np.testing.assert_array_equal(
      moved, kept, err_msg='tokens with a gradient, and those that were kept'
    )

  def devices_equal_one(self) -> None:
    """Rows over up to eight devices give what one device gives."""
    count = max(n for n in (1, 2, 4, 8) if n <= jax.device_count())
    mesh = jax.make_mesh(
      (count,),
      ('data',),
      axis_types=(AxisType.Auto,),
      devices=jax.devices()[:count],
    )
    inputs = self.inputs()
    split = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec('data')))
    got = self.program(*split)
    found = len(got[0].features.sharding.device_set)
    expect(found == count, f'{count} devices in, {found} out')
    self._compare(got, self.program(*inputs))

  def compiles_once(self) -> None:
    """Other images and lengths run in the same program."""
    self.program(*self.inputs())
    traced = self._traces
    for seed, lengths in enumerate(self.on.others, 1):
      self.program(*self.inputs(lengths=lengths, seed=seed))
    expect(self._traces == traced, 'other lengths compiled another program')

  def vmap_adds_an_axis(self) -> None:
    """`jax.vmap` over whole batches, as over crops."""
    pairs = [self.inputs(seed=seed) for seed in (0, 4)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *pairs)
    got = jax.vmap(self.program)(*both)
    self._compare(jax.tree.map(lambda x: x[1], got), self.program(*pairs[1]))

  def shapes_at_published_sizes(self) -> None:
    """It traces on 576 and 2880 tokens of 4096 features, in bfloat16."""
    for slots in (576, 2880):
      shapes = _shapes(self.pruner.needs, slots, self.on.published(slots))
      out, result = jax.eval_shape(self._fresh, *shapes)
      kept = result.index.shape[1]
      expect(
        out.features.shape == (2, kept, 4096) and 1 <= kept < slots,
        f'{slots} tokens of 4096 features became {out.features.shape}',
      )
      expect(out.features.dtype == jnp.bfloat16, f'got {out.features.dtype}')

  def _fresh(self, tokens: Tokens, signals: Signals) -> Result:
    if isinstance(self.pruner, nn.Module):
      key = jax.random.key(0)
      return self.pruner.init_with_output(key, tokens, signals)[0]  # type: ignore[return-value]
    return self.pruner(tokens, signals)


def _shapes(
  needs: Collection[str | Tap], slots: int, on: Inputs
) -> tuple[Tokens, Signals]:
  """Shapes of two rows at a published size."""

  def make(features: Array, found: list[Array]) -> tuple[Tokens, Signals]:
    given = dict(zip(shapes, found, strict=True))
    if 'rng' in needs:
      given['rng'] = jax.random.split(jax.random.key(0), 2)
    return on.arrange(Tokens.create(features)), make_signals(given)

  shapes = signal_shapes(needs, slots, batch=2)
  features = jax.ShapeDtypeStruct((2, slots, 4096), 'bfloat16')
  return jax.eval_shape(make, features, list(shapes.values()))
