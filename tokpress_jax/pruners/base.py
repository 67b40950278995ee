"""The pruner protocol, and the base class of pruners without parameters.

A pruner decides (`plan`) and moves nothing; calling it is plan, then
`reduce_tokens`. Without parameters it is a frozen dataclass, hashable and so a
static argument of `jit`; with parameters it is a Linen module with the same
`needs`, `plan` and call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import budgets, checks, reduction
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Tap, Tokens

Needs = frozenset[str | Tap]
# Fields of `Tokens` with a value for each.
_PER_TOKEN = ('valid', 'mass', 'kind', 'owner', 'protected')


@runtime_checkable
class PrunerProtocol(Protocol):
  """What a host asks of a pruner.

  Attributes:
    needs: names of the `Signals` that `plan` reads, and `Tap`s of single
      layers; a host computes these.
  """

  needs: Needs

  def plan(
    self, tokens: Tokens, signals: Signals, state: Any = None
  ) -> Reduction:
    """Decides what is kept, merged and dropped; moves nothing."""
    ...

  def __call__(
    self, tokens: Tokens, signals: Signals, state: Any = None
  ) -> tuple[Tokens, Reduction]:
    """Plans and applies."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruner:
  """Base of pruners without parameters; a method writes `decide`.

  Attributes:
    budget: tokens to keep beside the protected ones: an int, `Ratio`, `Bytes`
      or `Remove`.
    positions: the position policy: 'keep', 'compact', 'mean', 'first', or
      `Members`.
  """

  budget: budgets.Budget = Ratio(ratio=0.5)
  positions: positions_lib.Policy = 'keep'

  needs: ClassVar[Needs] = frozenset()
  mode: ClassVar[reduction.Mode] = 'representative'
  # (field, least, most) of numbers; None is no bound.
  ranges: ClassVar[checks.Ranges] = ()

  def __post_init__(self):
    budgets.check(self.budget)
    positions_lib.check(self.positions)
    checks.refuse(type(self).__name__, checks.field_causes(self))

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Gives the reduction; its positions are set by the caller."""
    raise NotImplementedError

  def problems(self, tokens: Tokens) -> list[str]:
    """Says why the budget does not fit the tokens, if so; `plan` refuses."""
    return budgets.problems(self.budget, tokens)

  def plan(
    self, tokens: Tokens, signals: Signals, state: Any = None
  ) -> Reduction:
    """Decides what is kept, merged and dropped; moves nothing.

    Args:
      tokens: N slots.
      signals: at least what the pruner `needs`. Others, a text say, are not
        read: pruners of a plan share them. `unread` says which these are.
      state: what the pruner before it carried on, over the N slots.

    Returns:
      From N to K slots, K static.

    Raises:
      UserError: if the budget does not fit, or an input is missing or broken;
        all causes are listed.
    """
    check(tokens, signals, self.needs, problems=self.problems)
    result: Any = self.decide(tokens, signals, state)
    if not isinstance(result, Reduction):
      raise UserError(
        f'{type(self).__name__}.decide gave {type(result).__name__}; it gives '
        'a Reduction, as selectors.selection(tokens, kept, capacity=...) makes'
      )
    return positions_lib.place(tokens.positions, result, policy=self.positions)

  def __call__(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> tuple[Tokens, Reduction]:
    """Plans and applies.

    Args:
      tokens: N slots.
      signals: see `plan`.
      state: see `plan`.

    Returns:
      Tokens in K slots, and the reduction (to move anything else by).
    """
    result = self.plan(tokens, Signals() if signals is None else signals, state)
    return reduction.reduce_tokens(tokens, result, mode=self.mode), result


def unread(signals: Signals, *pruners: PrunerProtocol) -> tuple[str, ...]:
  """Names the signals that were given and that none of these pruners reads.

  A pruner does not refuse what it does not read, as a plan's pruners share
  their signals; ask here whether a text changes anything.
  """
  needs = frozenset[Any]().union(*(pruner.needs for pruner in pruners))
  given: list[str | Tap] = [
    field.name
    for field in dataclasses.fields(Signals)
    if field.name != 'taps' and getattr(signals, field.name) is not None
  ]
  read = needs | ({'text_valid'} if 'text' in needs else set())
  return tuple(str(n) for n in [*given, *signals.taps] if n not in read)


def check(
  tokens: Tokens,
  signals: Signals,
  needs: Needs,
  *,
  problems: Callable[[Tokens], list[str]] = lambda tokens: [],
) -> None:
  """Checks a pruner's inputs: names and shapes always, values outside `jit`.

  Args:
    tokens: N slots.
    signals: from the host.
    needs: names of signals, and taps.
    problems: of the pruner with tokens whose shapes fit.

  Raises:
    UserError: lists everything that is wrong.
  """
  for given, kind in ((tokens, Tokens), (signals, Signals)):
    if not isinstance(given, kind):
      wrap = {Tokens: 'Tokens.create(features)', Signals: 'Signals(keys=keys)'}
      raise UserError(
        f'a pruner takes Tokens and Signals, got {type(given).__name__} for '
        f'{kind.__name__}; wrap arrays, as in {wrap[kind]}'
      )
  causes = []
  names = {field.name for field in dataclasses.fields(Signals)} - {'taps'}
  known = {n for n in needs if isinstance(n, Tap) or n in names}
  if unknown := sorted(map(str, needs - known)):
    causes.append(
      f'the pruner needs {unknown}, which are no signals; there are '
      f'{sorted(names)}'
    )
  missing = sorted(str(n) for n in known if signals.get(n) is None)
  if missing:
    causes.append(
      f'signals {missing} are needed but were not given; pass them in Signals, '
      'or use a host and a site that compute them'
    )
  shape = tokens.features.shape[:2]
  if wrong := _check_shapes(tokens):
    causes += wrong
  else:
    causes += _check_protected(tokens)
    causes += problems(tokens)
    wrong = _check_signals(signals, *shape) + _check_text(
      signals, needs, batch=shape[0], width=tokens.features.shape[2]
    )
    # Constants are looked at even while something else is traced.
    with jax.ensure_compile_time_eval():
      if arrays.concrete(*jax.tree.leaves(tokens)):
        causes += _check_values(tokens)
        if not wrong:
          causes += _check_signal_values(tokens, signals, needs)
    causes += wrong
  checks.refuse('this pruner', causes)


def _check_shapes(tokens: Tokens) -> list[str]:
  """Finds fields of tokens that are not those of the same slots."""
  features = tokens.features.shape
  shapes = {n: getattr(tokens, n).shape for n in _PER_TOKEN}
  places = tokens.positions.shape
  wrong = {n: s for n, s in shapes.items() if s != features[:2]}
  placed = len(places) == 3 and places[:2] == features[:2]
  if len(features) == 3 and placed and not wrong:
    return []
  return [
    f'features must be [B, N, D], positions [B, N, P] and '
    f'{", ".join(_PER_TOKEN)} [B, N], got {features}, {places} and '
    f'{wrong or features[:2]}; Tokens.create(features, ...) takes them'
  ]


def _check_signals(signals: Signals, batch: int, slots: int) -> list[str]:
  """Finds signals of other rows or slots than the tokens."""
  causes = []
  given: dict[Any, Any] = {n: signals.get(n) for n in reduction.SIGNAL_AXES}
  for name, value in (given | signals.taps).items():
    if value is None:
      continue
    signal = name.signal if isinstance(name, Tap) else name
    axes = reduction.SIGNAL_AXES[signal]
    sizes = {'B': batch, 'N': slots}
    shape = arrays.shape_of(value)
    got = dict(zip(axes, shape, strict=False))
    if len(shape) != len(axes) or (got | sizes) != got:
      causes.append(
        f'{name} must be [{", ".join(axes)}] with B={batch} and N={slots} as '
        f'in the tokens, got {shape or arrays.said(value)}'
      )
  rng = signals.rng
  if rng is not None and not (arrays.is_key(rng) and rng.shape == (batch,)):
    causes.append(
      f'rng must hold a typed key for each of the {batch} rows, got '
      f'{arrays.said(rng)}; jax.random.split(jax.random.key(0), {batch}) '
      'gives them'
    )
  return causes


def _check_text(
  signals: Signals, needs: Needs, *, batch: int, width: int
) -> list[str]:
  """Finds a text that is read and is not one of each row.

  A text that is not among the needs is not looked at: pruners of a plan share
  their signals.
  """
  causes = []
  text, there = signals.text, signals.text_valid
  number: Any = 'M'
  if 'text' in needs and text is not None:
    shape = arrays.shape_of(text)
    if len(shape) != 3 or (shape[0], shape[2]) != (batch, width):
      causes.append(
        f'text must be [B, M, D] with B={batch} and D={width} as the features '
        f'have, got {shape or arrays.said(text)}; project it to their space'
      )
    else:
      number = shape[1]
  if needs & {'text', 'text_valid'} and there is not None:
    shape = arrays.shape_of(there)
    fits = len(shape) == 2 and shape[0] == batch and number in ('M', shape[1])
    if not fits or there.dtype != bool:
      causes.append(
        f'text_valid must be bool [{batch}, {number}], a word each, got '
        f'{arrays.said(there)}'
      )
  return causes or _check_words(signals, needs)


def _check_words(signals: Signals, needs: Needs) -> list[str]:
  """Finds texts without words, and broken words, outside of `jit`."""
  causes = []
  text, there = signals.text, signals.text_valid
  read = there is not None and needs & {'text', 'text_valid'}
  if read and (bad := arrays.rows_that(lambda y: ~y.any(axis=1), there)):
    causes.append(
      f'text_valid of rows {bad} has no word; give each row a text, or take '
      'a method that reads none'
    )
  if text is not None and 'text' in needs:

    def broken(x: Array, y: Array | None) -> Array:
      wrong = ~jnp.isfinite(x).all(axis=2)
      return (wrong if y is None else wrong & y).any(axis=1)

    if bad := arrays.rows_that(broken, text, there):
      causes.append(f'text of rows {bad} hold NaN or infinity')
  return causes


def _check_protected(tokens: Tokens) -> list[str]:
  """Finds a static number of protected tokens that no row can have."""
  slots = tokens.valid.shape[1]
  if 0 <= tokens.num_protected <= slots:
    return []
  return [
    f'num_protected={tokens.num_protected} is outside 0 to {slots}, the token '
    'slots'
  ]


def _check_values(tokens: Tokens) -> list[str]:
  """Finds broken values in concrete tokens."""
  causes = []
  rows, valid = arrays.rows_where, jnp.asarray(tokens.valid)
  finite = jnp.isfinite(tokens.features).all(axis=-1) | ~valid
  if isinstance(finite, jax.core.Tracer):  # constants inside somebody's `jit`
    return []
  if bad := rows(~finite.all(axis=1)):
    causes.append(f'features of rows {bad} hold NaN or infinity')
  if bad := rows(~valid.any(axis=1)):
    causes.append(f'rows {bad} are all padding; leave them out of the batch')
  if bad := rows((tokens.protected & ~valid).any(axis=1)):
    causes.append(
      f'rows {bad} protect padding; give protected & valid as protected'
    )
  if bad := rows((tokens.protected & valid).sum(axis=1) > tokens.num_protected):
    causes.append(
      f'rows {bad} protect more than num_protected={tokens.num_protected} '
      'tokens; raise num_protected'
    )
  return causes


def _check_signal_values(
  tokens: Tokens, signals: Signals, needs: Needs
) -> list[str]:
  """Finds broken values of valid tokens in concrete signals that are needed."""
  causes = []
  for name in sorted(needs, key=str):
    value = signals.get(name)
    signal = name.signal if isinstance(name, Tap) else name
    axes = reduction.SIGNAL_AXES.get(signal)
    if axes is None or value is None or not arrays.concrete(value):
      continue
    by_token = jnp.moveaxis(value, axes.index('N'), 1)
    finite = jnp.isfinite(by_token).reshape(*tokens.valid.shape, -1)
    finite = finite.all(axis=-1) | ~jnp.asarray(tokens.valid)
    if bad := arrays.rows_where(~finite.all(axis=1)):
      causes.append(f'{name} of rows {bad} hold NaN or infinity')
  return causes
