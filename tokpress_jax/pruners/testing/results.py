"""Promises about what a pruner gives: a reduction that says what is true.

Dimension letters: B batch, N token slots, K kept slots, D features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.pruners import budgets, reduction
from tokpress_jax.pruners.testing.running import Running, expect
from tokpress_jax.types import OneHot


class Results(Running):
  """Promises about a result by itself."""

  def reduction_is_well_formed(self) -> None:
    """What it returns says of itself what is true."""
    tokens, signals = self.inputs()
    _, result = jax.device_get(self.program(tokens, signals))
    matrix = np.asarray(reduction.dense(result))
    batch, kept = result.index.shape
    source = np.asarray(tokens.valid)
    expect(
      result.valid.dtype == bool and result.valid.shape == (batch, kept),
      f'valid must be bool [B, K], got {result.valid.dtype}',
    )
    expect(bool(result.valid.any(axis=1).all()), 'a row keeps no token')
    inside = (result.index >= 0) & (result.index < source.shape[1])
    expect(bool(inside.all()), 'index points outside of the source slots')
    own = np.take_along_axis(source, result.index, axis=1)
    expect(
      bool(own[result.valid].all()), 'the representative of a slot is padding'
    )
    expect(
      not matrix[~result.valid].any(), 'tokens went to a slot that is not valid'
    )
    expect(
      not matrix.swapaxes(1, 2)[~source].any(), 'padding was assigned to a slot'
    )
    expect(
      bool((matrix.sum(axis=2)[result.valid] > 0).all()),
      'a valid slot has no sources',
    )
    assign = result.assign
    if isinstance(assign, OneHot) and assign.merged is not None:
      target, index = np.asarray(assign.target), np.asarray(result.index)
      lead = np.take_along_axis(target, index, axis=1)
      at = np.broadcast_to(np.arange(kept)[None], lead.shape)
      expect(
        bool((lead == at)[result.valid].all()),
        'merged is given, and a representative belongs to another slot',
      )
      joined = (target >= 0).sum(axis=1) - result.valid.sum(axis=1)
      expect(
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
    expect(slots <= most, f'{budget} gives {most} slots at most, got {slots}')
    kept = np.asarray(jnp.sum(out.valid & ~out.protected, axis=1))
    want = np.asarray(budgets.row_counts(budget, tokens))
    expect(
      bool((kept <= want).all()),
      f'rows keep {kept.tolist()} beside the protected tokens, and {budget} '
      f'allows {want.tolist()}',
    )

  def protected_tokens_stay(self) -> None:
    """A class token in slot 0 is there, first and unchanged."""
    tokens, signals = self.inputs()
    out, _ = self.program(tokens, signals)
    number = out.protected.sum(axis=1)
    expect(
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
      expect(bool(((share >= 0) & (taken <= 1)).all()), 'a share is negative')
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
