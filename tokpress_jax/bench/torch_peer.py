"""What every official PyTorch checkout that we time against needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap

WAYS = ('eager', 'compiled')


class TorchPeer:
  """PyTorch on this machine's device.

  Attributes:
    torch: the module.
    device: 'cpu' or 'cuda'.
    dtype: PyTorch's own name of it.
  """

  def __init__(self, *, dtype: str = 'float32', threads: int | None = None):
    """Imports PyTorch.

    Args:
      dtype: of the matmuls.
      threads: on a CPU; all cores if None.

    Raises:
      UserError: PyTorch is missing.
    """
    try:
      import torch
    except ImportError:
      raise UserError(
        "a peer needs torch: pip install 'tokpress-jax[parity]'"
      ) from None
    self.torch: Any = torch
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self.dtype: Any = getattr(torch, dtype)
    if threads is not None:
      torch.set_num_threads(threads)

  def fill(self, module: Any, variables: Mapping[str, Any], rules: Any) -> None:
    """Copies our variables into an official module, by its key map."""
    state = module.state_dict()
    tensors = keymap.invert(variables, rules, state)
    with self.torch.no_grad():
      for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        state[name].copy_(self.torch.from_numpy(array))

  def matmul(self, rows: int, inner: int, columns: int) -> Callable[[], Any]:
    """A call that multiplies [rows, inner] and [inner, columns]."""
    x, w = self._draw(rows, inner), self._draw(columns, inner)
    linear = self.torch.nn.functional.linear
    return self._waiting(lambda: linear(x, w))

  def conv(self, side: int, channels: int, batch: int) -> Callable[[], Any]:
    """A call that convolves [batch, channels, side, side] 3x3."""
    x = self._draw(batch, channels, side, side)
    w = self._draw(channels, channels, 3, 3)
    conv2d = self.torch.nn.functional.conv2d
    return self._waiting(lambda: conv2d(x, w, padding=1))

  def wait(self) -> None:
    """Waits for the device."""
    if self.device == 'cuda':
      self.torch.cuda.synchronize()

  def _draw(self, *shape: int) -> Any:
    return self.torch.randn(*shape, device=self.device, dtype=self.dtype)

  def _waiting(self, function: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
      with self.torch.inference_mode():
        function()
      self.wait()

    return call
