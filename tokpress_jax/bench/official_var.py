"""A checkout of FoundationVision/VAR as a peer, found at a path.

Nothing of it is part of this library: it is imported from there, given our
weights through the key maps, and called as its own demo calls it. Only the
`models` package and `dist.py` of the checkout are needed, with torch and
huggingface_hub installed.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tokpress_jax.bench import torch_peer
from tokpress_jax.errors import UserError


class Official(torch_peer.TorchPeer):
  """The official model with given weights.

  Attributes:
    parts: what the last call of `sample` spent, seconds of 'transformer' (all
      blocks) and 'decoder'.
  """

  def __init__(
    self,
    path: str,
    *,
    scales: tuple[int, ...],
    depth: int,
    shared: bool,
    variables: Mapping[str, Any],
    tokenizer_variables: Mapping[str, Any],
    dtype: str,
    threads: int | None = None,
  ):
    """Imports the checkout and fills its model.

    Args:
      path: of the checkout.
      scales: sides of the scales.
      depth: of the transformer.
      shared: whether adaLN is shared between blocks (depth 36).
      variables: ours, of the transformer.
      tokenizer_variables: ours, of the tokenizer.
      dtype: 'float32', or another that it runs under by autocast, as in its
        demo.
      threads: of torch on a CPU; all cores if None.

    Raises:
      UserError: there is no checkout, or something it imports is missing.
    """
    from tokpress_jax.generators import scale_wise_keys
    from tokpress_jax.tokenizers import var_keys

    super().__init__(dtype=dtype, threads=threads)
    with _imported(path) as build, contextlib.redirect_stdout(io.StringIO()):
      self.tokenizer, self.model = build(
        device=self.device,
        patch_nums=tuple(scales),
        depth=depth,
        shared_aln=shared,
      )
    self.fill(self.model, variables, scale_wise_keys.RULES)
    self.fill(self.tokenizer, tokenizer_variables, var_keys.RULES)
    self.model.eval()
    self.tokenizer.eval()
    self.parts: dict[str, float] = {}
    self._watch()
    self._forwards = {'eager': self._all_forwards()}

  def sample(
    self,
    labels: np.ndarray,
    *,
    way: str,
    guidance: float,
    top_k: int,
    top_p: float,
  ) -> Any:
    """Draws images [B, 3, H, W] and waits for them.

    Args:
      labels: int [B].
      way: 'eager', or 'compiled': blocks and decoder under `torch.compile`,
        one graph per shape.
      guidance: as `Sampler`.
      top_k: as `Sampler`.
      top_p: as `Sampler`.
    """
    torch = self.torch
    if way not in self._forwards:
      self._forwards[way] = self._compile()
    for module, forward in self._forwards[way]:
      module.forward = forward
    self.parts = {'transformer': 0.0, 'decoder': 0.0}
    autocast = torch.autocast(
      self.device, dtype=self.dtype, enabled=self.dtype != torch.float32
    )
    with torch.inference_mode(), autocast:
      images = self.model.autoregressive_infer_cfg(
        B=len(labels),
        label_B=torch.as_tensor(labels, device=self.device),
        g_seed=0,
        cfg=guidance,
        top_k=top_k,
        top_p=top_p,
      )
    self.wait()
    return images

  def decode(self, total: np.ndarray) -> np.ndarray:
    """Decodes a summed map [B, h, h, C] to images [B, H, W, 3] in [-1, 1]."""
    torch = self.torch
    total = np.ascontiguousarray(total.transpose(0, 3, 1, 2))
    with torch.inference_mode():
      images = self.tokenizer.fhat_to_img(
        torch.from_numpy(total).to(self.device)
      )
    return images.float().cpu().numpy().transpose(0, 2, 3, 1)

  def _watch(self) -> None:
    """Times the blocks and the decoder of every call."""
    start = 0.0

    def begin(*_: Any) -> None:
      nonlocal start
      self.wait()
      start = time.perf_counter()

    def end(part: str) -> None:
      self.wait()
      self.parts[part] += time.perf_counter() - start

    blocks = self.model.blocks
    blocks[0].register_forward_pre_hook(begin)
    blocks[-1].register_forward_hook(lambda *_: end('transformer'))
    decode = self.tokenizer.fhat_to_img

    def timed(total: Any) -> Any:
      begin()
      images = decode(total)
      if self.parts:
        end('decoder')
      return images

    self.tokenizer.fhat_to_img = timed

  def _all_forwards(self) -> list[tuple[Any, Callable[..., Any]]]:
    modules = [*self.model.blocks, self.tokenizer.decoder]
    return [(module, module.forward) for module in modules]

  def _compile(self) -> list[tuple[Any, Callable[..., Any]]]:
    torch = self.torch
    config = torch._dynamo.config  # every block recompiles for every scale
    for limit in ('recompile_limit', 'accumulated_recompile_limit'):
      if hasattr(config, limit):
        setattr(config, limit, 10_000)
    return [
      (module, torch.compile(forward, dynamic=False))
      for module, forward in self._forwards['eager']
    ]


@contextlib.contextmanager
def _imported(path: str) -> Iterator[Callable[..., Any]]:
  """The checkout's `build_vae_var`; torch is afterwards as it was.

  The checkout switches off the initialisation of torch's layers for good. Its
  modules, `models` and `dist`, stay imported: `torch.compile` looks them up.
  """
  import torch

  root = pathlib.Path(path).expanduser().resolve()
  if not (root / 'models' / '__init__.py').is_file():
    raise UserError(
      f'there is no checkout of FoundationVision/VAR at {path}: expected a '
      'package models/ in it'
    )
  layers: list[Any] = [
    layer for layer in vars(torch.nn).values() if isinstance(layer, type)
  ]
  name_of = 'reset_parameters'
  resets = {
    layer: vars(layer)[name_of] for layer in layers if name_of in vars(layer)
  }
  sys.path.insert(0, str(root))
  try:
    from models import build_vae_var  # type: ignore[import-not-found]

    yield build_vae_var
  except ImportError as error:
    raise UserError(
      f'the checkout at {path} could not be imported: {error}'
    ) from error
  finally:
    sys.path.remove(str(root))
    for layer in layers:
      if layer in resets:
        setattr(layer, name_of, resets[layer])
      elif name_of in vars(layer):
        delattr(layer, name_of)
