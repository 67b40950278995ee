"""What a library can reach on this machine, beside which a model's time stands.

The peak of a library is the fastest of a few calls of the model's own largest
matmul and 3x3 convolutions, taken right after the model was timed.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.bench import conv, harness, torch_peer

_ROWS = 256  # Libraries are slower at odd numbers of rows.


class Peaks:
  """Calls of a matmul and of convolutions, ours and a peer's."""

  def __init__(
    self,
    product: tuple[int, int, int],
    maps: Sequence[tuple[int, int]],
    *,
    batch: int,
    dtype: str,
    peer: torch_peer.TorchPeer | None = None,
  ):
    """Draws the operands.

    Args:
      product: rows (rounded up), inner and columns of a matmul.
      maps: side and channels of each map that is convolved.
      batch: maps at once.
      dtype: of all.
      peer: PyTorch, if it is compared with.
    """
    rows, inner, columns = product
    rows = -(-rows // _ROWS) * _ROWS
    rng = np.random.default_rng(0)
    x, w = (
      jnp.asarray(rng.standard_normal(shape, np.float32), dtype)
      for shape in ((rows, inner), (inner, columns))
    )
    multiply = jax.jit(jnp.matmul)
    calls: dict[str, harness.Call] = {'matmul': lambda: multiply(x, w)}
    self._flops = {'matmul': 2 * rows * inner * columns}
    for side, channels in maps:
      name = f'conv/{side}'
      calls[name], self._flops[name] = conv.call(
        side, channels, dtype, batch=batch
      )
    self._calls = {'ours': calls}
    if peer is not None:
      theirs = {'matmul': peer.matmul(rows, inner, columns)}
      for side, channels in maps:
        theirs[f'conv/{side}'] = peer.conv(side, channels, batch)
      self._calls['peer'] = theirs

  def measure(self, *, repeats: int = 7) -> dict[str, dict[str, float]]:
    """FLOP/s of 'matmul' and 'conv': under 'ours', and under 'peer'."""
    rates: dict[str, dict[str, float]] = {owner: {} for owner in self._calls}
    for name, flops in self._flops.items():
      kind = name.split('/')[0]
      calls = [calls[name] for calls in self._calls.values()]
      seconds = harness.time_calls(*calls, repeats=repeats, take=min)
      for owner, spent in zip(self._calls, seconds, strict=True):
        found = rates[owner]
        found[kind] = max(flops / spent, found.get(kind, 0.0))
    return rates
