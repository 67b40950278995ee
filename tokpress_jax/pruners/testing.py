"""Does a pruner of your own keep what every pruner promises?

`check_pruner(MyPruner(budget=5))`, in a test, asks for all of it. A table of
pruners asks for one promise at a time:

  pruner = testing.Checks(MyPruner(budget=5))
  pruner.jit_equals_eager()   # and so on, by the names in `CHECKS`

What a method computes is compared with a slow version of your own; these checks
are about the rest: masks, shapes, budgets, compilations.

Dimension letters: B batch, N token slots, K kept slots, D features, A heads, E
head features, M text tokens, H rows and W columns of pixels, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.pruners import base, budgets, reduction
from tokpress_jax.pruners.random_inputs import (
  LENGTHS,
  SIGNALS,
  SLOTS,
  field_of,
  make_inputs,
  make_signals,
  signal_shapes,
)
from tokpress_jax.types import Array, OneHot, Reduction, Signals, Tap, Tokens

_EVERY: base.Needs = frozenset(SIGNALS)
Result = tuple[Tokens, Reduction]


def compare(
  got: Result, want: Result, *, rows: Sequence[int], atol: float = 1e-5
) -> None:
  """Compares some rows of a result with all rows of another, where valid.

  Args:
    got: of `rows` and perhaps others.
    want: as many rows as `rows` has.
    rows: of `got`.
    atol: of floats.

  Raises:
    AssertionError: if they differ; says in which row and field.
  """
  (a, a_red), (b, b_red) = jax.device_get((got, want))
  for i, row in enumerate(rows):
    at, want_at = np.flatnonzero(a.valid[row]), np.flatnonzero(b.valid[i])
    _expect(
      at.size == want_at.size,
      f'row {row} keeps {at.size} tokens, not {want_at.size}',
    )
    np.testing.assert_array_equal(
      a_red.index[row, at],
      b_red.index[i, want_at],
      err_msg=f'other tokens are kept in row {row}',
    )
    for field in ('features', 'positions', 'mass', 'owner', 'protected'):
      np.testing.assert_allclose(
        np.asarray(getattr(a, field)[row, at], np.float32),
        np.asarray(getattr(b, field)[i, want_at], np.float32),
        atol=atol,
        err_msg=f'{field} of row {row}',
      )


class Checks:
  """The promises of one pruner, a method each; they share one program.

  Each raises an AssertionError that says what is broken. They run on eight rows
  of up to 24 tokens, of which slot 0 is protected, on all devices that there
  are.

  Attributes:
    pruner: a frozen dataclass, or a Linen module.
    variables: of a module; drawn at random if None, so that every parameter
      matters.
    keeps_mass: whether it promises to drop nothing, as a merger does.
    atol: of floats.
  """

  def __init__(
    self,
    pruner: Any,
    *,
    variables: Any = None,
    keeps_mass: bool = False,
    atol: float = 1e-5,
  ):
    """Compiles nothing yet."""
    self.pruner = pruner
    self.keeps_mass = keeps_mass
    self.atol = atol
    self._given = variables
    self._traces = 0
    self._jitted = jax.jit(self._traced)

  @functools.cached_property
  def variables(self) -> Any:
    """Of a module; None for others."""
    if self._given is not None or not isinstance(self.pruner, nn.Module):
      return self._given
    shapes = jax.eval_shape(self.pruner.init, jax.random.key(0), *self.inputs())
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=x.shape) * 0.5 for x in leaves]
    return jax.tree.unflatten(tree, [jnp.asarray(x, 'float32') for x in drawn])

  def inputs(self, *args: Any, **kwargs: Any) -> tuple[Tokens, Signals]:
    """`make_inputs` with what the pruner needs."""
    return make_inputs(self.pruner.needs, *args, **kwargs)

  def eager(self, tokens: Tokens, signals: Signals) -> Result:
    """The pruner, not compiled."""
    return self._apply(self.variables, tokens, signals)

  def program(self, tokens: Tokens, signals: Signals) -> Result:
    """The pruner, compiled once per shape."""
    return self._jitted(self.variables, tokens, signals)

  def _apply(self, variables: Any, tokens: Tokens, signals: Signals) -> Result:
    if isinstance(self.pruner, nn.Module):
      return self.pruner.apply(variables, tokens, signals)  # type: ignore[return-value]
    return self.pruner(tokens, signals)

  def _traced(self, variables: Any, tokens: Tokens, signals: Signals) -> Result:
    self._traces += 1
    return self._apply(variables, tokens, signals)

  def runs_on_what_it_needs(self) -> None:
    """It is a pruner, and reads no signal that `needs` does not name."""
    missing = [n for n in ('needs', 'plan') if not hasattr(self.pruner, n)]
    _expect(not missing, f'a pruner has `needs` and `plan`; missing: {missing}')
    needs = self.pruner.needs
    unknown = sorted(str(n) for n in needs if field_of(n) not in _EVERY)
    _expect(not unknown, f'needs {unknown}; there are {sorted(SIGNALS)}')
    try:
      self.program(*self.inputs())
    except Exception as error:
      try:
        self.eager(*make_inputs(_EVERY | needs))
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
    _expect(
      same == self.pruner and hash(same) == hash(self.pruner),
      'two pruners of equal fields are not equal, so that each would compile: '
      'make the class a frozen dataclass',
    )

  def jit_equals_eager(self) -> None:
    """Compiled and not compiled give the same."""
    inputs = self.inputs()
    self._compare(self.program(*inputs), self.eager(*inputs))

  def row_equals_single_run(self) -> None:
    """A row of a batch, padded, is what it is alone and without padding."""
    got = self.program(*self.inputs())
    for row in (1, 2):
      n = LENGTHS[row]
      want = self.program(*self.inputs(lengths=(n,), slots=n, rows=[row]))
      self._compare(got, want, rows=[row])

  def padding_is_ignored(self) -> None:
    """Wherever it stands, and whatever it holds."""
    tokens, signals = self.inputs()
    # Each row's padding moves to the front and is filled with large numbers.
    shift = SLOTS - jnp.array(LENGTHS)
    moved, moved_signals = _roll(tokens, signals, shift)
    got, got_red = self.program(moved, moved_signals)
    want, want_red = self.program(tokens, signals)
    index = jnp.where(got_red.valid, got_red.index - shift[:, None], 0)
    self._compare(
      (got, dataclasses.replace(got_red, index=index)), (want, want_red)
    )
    largest = float(jnp.abs(got.features).max())
    _expect(largest < 100, f'padding reached features: {largest}')
    _expect(
      bool(((got.mass == 0) == ~got.valid).all()),
      'mass must be 0 where a slot is not valid, and only there',
    )

  def reduction_is_well_formed(self) -> None:
    """What it returns says of itself what is true."""
    tokens, signals = self.inputs()
    _, result = jax.device_get(self.program(tokens, signals))
    matrix = np.asarray(reduction.dense(result))
    batch, kept = result.index.shape
    source = np.asarray(tokens.valid)
    _expect(
      result.valid.dtype == bool and result.valid.shape == (batch, kept),
      f'valid must be bool [B, K], got {result.valid.dtype}',
    )
    _expect(bool(result.valid.any(axis=1).all()), 'a row keeps no token')
    inside = (result.index >= 0) & (result.index < SLOTS)
    _expect(bool(inside.all()), 'index points outside of the source slots')
    own = np.take_along_axis(source, result.index, axis=1)
    _expect(
      bool(own[result.valid].all()), 'the representative of a slot is padding'
    )
    _expect(
      not matrix[~result.valid].any(), 'tokens went to a slot that is not valid'
    )
    _expect(
      not matrix.swapaxes(1, 2)[~source].any(), 'padding was assigned to a slot'
    )
    _expect(
      bool((matrix.sum(axis=2)[result.valid] > 0).all()),
      'a valid slot has no sources',
    )
    assign = result.assign
    if isinstance(assign, OneHot) and assign.merged is not None:
      target, index = np.asarray(assign.target), np.asarray(result.index)
      lead = np.take_along_axis(target, index, axis=1)
      at = np.broadcast_to(np.arange(kept)[None], lead.shape)
      _expect(
        bool((lead == at)[result.valid].all()),
        'merged is given, and a representative belongs to another slot',
      )
      joined = (target >= 0).sum(axis=1) - result.valid.sum(axis=1)
      _expect(
        bool((joined <= assign.merged).all()),
        f'up to {joined.max()} tokens of a row joined, and merged says '
        f'{assign.merged}',
      )

  def budget_is_respected(self) -> None:
    """No row and no shape has more than the budget and protected tokens."""
    budget = getattr(self.pruner, 'budget', None)
    if budget is None:  # a learned number of tokens, say
      return
    tokens, signals = self.inputs()
    out, _ = self.program(tokens, signals)
    most = budgets.capacity(budget, tokens)
    slots = out.valid.shape[1]
    _expect(slots <= most, f'{budget} gives {most} slots at most, got {slots}')
    kept = np.asarray(jnp.sum(out.valid & ~out.protected, axis=1))
    want = np.asarray(budgets.row_counts(budget, tokens))
    _expect(
      bool((kept <= want).all()),
      f'rows keep {kept.tolist()} beside the protected tokens, and {budget} '
      f'allows {want.tolist()}',
    )

  def protected_tokens_stay(self) -> None:
    """A class token in slot 0 is there, first and unchanged."""
    tokens, signals = self.inputs()
    out, _ = self.program(tokens, signals)
    number = out.protected.sum(axis=1)
    _expect(
      bool((number == 1).all()), f'of 1 protected token a row, {number} stay'
    )
    np.testing.assert_array_equal(
      out.features[:, 0],
      tokens.features[:, 0],
      err_msg='the protected token of slot 0 moved or changed',
    )

  def mass_is_accounted_for(self) -> None:
    """Masses are what was assigned; with `keeps_mass` none is lost."""
    tokens, signals = self.inputs()
    out, result = self.program(tokens, signals)
    taken = reduction.dense(result).sum(axis=1)
    if (share := result.mass_share) is not None:
      _expect(bool(((share >= 0) & (taken <= 1)).all()), 'a share is negative')
      taken *= share
    np.testing.assert_allclose(
      out.mass.sum(axis=1),
      taken.sum(axis=1),
      rtol=1e-5,
      err_msg='masses are not those of the assigned tokens',
    )
    if self.keeps_mass:
      np.testing.assert_allclose(
        out.mass.sum(axis=1),
        tokens.mass.sum(axis=1),
        rtol=1e-5,
        err_msg='mass is lost: a token was dropped, or its weights do not add '
        'up to 1',
      )

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
    _expect(
      out.features.dtype == jnp.bfloat16,
      f'bfloat16 features became {out.features.dtype}',
    )
    _expect(
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
    _expect(bool(jnp.isfinite(gradient).all()), 'a gradient is not finite')
    moved = np.asarray(jnp.abs(gradient).max(axis=-1) > 0)
    kept = np.asarray(reduction.dense(result).sum(axis=1) > 0)
    if not isinstance(result.assign, OneHot):
      _expect(not moved[~np.asarray(tokens.valid)].any(), 'padding has one')
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
    _expect(found == count, f'{count} devices in, {found} out')
    self._compare(got, self.program(*inputs))

  def compiles_once(self) -> None:
    """Other images and lengths run in the same program."""
    self.program(*self.inputs())
    traced = self._traces
    self.program(*self.inputs(lengths=(24, 24, 1, 2, 3, 4, 5, 6), seed=1))
    self.program(*self.inputs(lengths=(9,) * 8, seed=2))
    _expect(self._traces == traced, 'other lengths compiled another program')

  def vmap_adds_an_axis(self) -> None:
    """`jax.vmap` over whole batches, as over crops."""
    pairs = [self.inputs(seed=seed) for seed in (0, 4)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *pairs)
    got = jax.vmap(self.program)(*both)
    self._compare(jax.tree.map(lambda x: x[1], got), self.program(*pairs[1]))

  def shapes_at_published_sizes(self) -> None:
    """It traces on 576 and 2880 tokens of 4096 features, in bfloat16."""
    for slots in (576, 2880):
      out, result = jax.eval_shape(
        self._fresh, *_shapes(self.pruner.needs, slots)
      )
      kept = result.index.shape[1]
      _expect(
        out.features.shape == (2, kept, 4096) and 1 <= kept < slots,
        f'{slots} tokens of 4096 features became {out.features.shape}',
      )
      _expect(out.features.dtype == jnp.bfloat16, f'got {out.features.dtype}')

  def _fresh(self, tokens: Tokens, signals: Signals) -> Result:
    if isinstance(self.pruner, nn.Module):
      key = jax.random.key(0)
      return self.pruner.init_with_output(key, tokens, signals)[0]  # type: ignore[return-value]
    return self.pruner(tokens, signals)

  def bad_input_lists_all_causes(self) -> None:
    """One error names broken rows and missing signals, outside of `jit`."""
    tokens, _ = self.inputs()
    broken = dataclasses.replace(
      tokens,
      features=tokens.features.at[2, 0].set(jnp.nan),
      valid=tokens.valid.at[1].set(False),
      protected=tokens.protected.at[4, :2].set(True),
    )
    try:
      self.eager(broken, Signals())
    except ValueError as error:
      said = str(error)
    else:
      raise AssertionError(
        'NaN and empty rows were taken; call `base.check` in `plan`'
      )
    for cause in (
      'rows [2] hold NaN',
      'rows [1] are all padding',
      'rows [4] protect more than num_protected=1',
      *map(str, self.pruner.needs),
    ):
      _expect(cause in said, f'the error does not say {cause!r}: {said}')

  def _compare(
    self, got: Result, want: Result, rows: Sequence[int] = range(len(LENGTHS))
  ) -> None:
    compare(got, want, rows=rows, atol=self.atol)


CHECKS = (
  'runs_on_what_it_needs',
  'is_hashable',
  'jit_equals_eager',
  'row_equals_single_run',
  'padding_is_ignored',
  'reduction_is_well_formed',
  'budget_is_respected',
  'protected_tokens_stay',
  'mass_is_accounted_for',
  'bfloat16_is_finite',
  'gradients_reach_what_was_kept',
  'devices_equal_one',
  'compiles_once',
  'vmap_adds_an_axis',
  'shapes_at_published_sizes',
  'bad_input_lists_all_causes',
)


def check_pruner(
  pruner: Any,
  *,
  variables: Any = None,
  keeps_mass: bool = False,
  skip: Collection[str] = (),
  atol: float = 1e-5,
) -> None:
  """Asks a pruner for all that pruners promise, and lists what it breaks.

  Args:
    pruner: a frozen dataclass (`Pruner` is the base), or a Linen module with
      the same `needs`, `plan` and call.
    variables: of a module; drawn at random if None.
    keeps_mass: whether it promises to drop nothing, as a merger does.
    skip: names of `CHECKS` that the method does not promise.
    atol: of floats.

  Raises:
    AssertionError: lists every promise that is broken, and how.
    UserError: if there is no check of a name in `skip`.
  """
  for name in skip:
    if name not in CHECKS:
      raise UserError(f'no check {name!r}. {did_you_mean(name, CHECKS)}')
  checks = Checks(pruner, variables=variables, keeps_mass=keeps_mass, atol=atol)
  broken: dict[str, Exception] = {}
  for name in CHECKS:
    if name in skip:
      continue
    try:
      getattr(checks, name)()
    except Exception as error:
      broken[name] = error
      if name == CHECKS[0]:  # the others would repeat it
        break
  if broken:
    first = next(iter(broken.values()))
    lines = [
      f'{name}: {type(error).__name__}: {str(error).strip()}'
      for name, error in broken.items()
    ]
    raise AssertionError(
      f'{pruner} breaks {len(broken)} of {len(CHECKS)} promises:\n  '
      + '\n  '.join(line.replace('\n', '\n    ') for line in lines)
    ) from first


def _expect(condition: bool, message: str) -> None:
  """An assertion with words, also where asserts are not rewritten."""
  if not condition:
    raise AssertionError(message)


def _roll(
  tokens: Tokens, signals: Signals, shift: Array
) -> tuple[Tokens, Signals]:
  """Moves the padding of each row to the front, filled with large numbers."""

  def roll(x: Array, axis: int = 0) -> Array:
    return jax.vmap(lambda row, n: jnp.roll(row, n, axis=axis))(x, shift)

  valid = roll(tokens.valid)
  junk = lambda x, mask: jnp.where(mask, x, 1e4)
  moved = dataclasses.replace(
    tokens,
    features=junk(roll(tokens.features), valid[..., None]),
    positions=roll(tokens.positions),
    valid=valid,
    mass=roll(tokens.mass),
    owner=roll(tokens.owner),
    protected=roll(tokens.protected),
  )
  found: dict[str | Tap, Array] = {}
  needs: list[str | Tap] = [*SIGNALS, *signals.taps]
  for need in needs:
    name, x = field_of(need), signals.get(need)
    if x is None:
      continue
    axis = SIGNALS[name][1]
    if axis is not None:
      x = roll(x, axis)
    if name in ('keys', 'queries'):
      x = junk(x, valid[:, None, :, None])
    if name == 'before':
      x = junk(x, valid[..., None])
    found[need] = x
  return moved, make_signals(found)


def _shapes(needs: Collection[str | Tap], slots: int) -> tuple[Tokens, Signals]:
  """Shapes of two rows at a published size."""

  def make(features: Array, found: list[Array]) -> tuple[Tokens, Signals]:
    given = dict(zip(shapes, found, strict=True))
    if 'rng' in needs:
      given['rng'] = jax.random.split(jax.random.key(0), 2)
    return Tokens.create(features), make_signals(given)

  shapes = signal_shapes(needs, slots, batch=2)
  features = jax.ShapeDtypeStruct((2, slots, 4096), 'bfloat16')
  return jax.eval_shape(make, features, list(shapes.values()))
