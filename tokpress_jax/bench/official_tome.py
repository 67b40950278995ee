"""ToMe in PyTorch as a peer: a ViT here, the matching from a checkout.

timm's ViT, which the official code patches, needs torchvision; so the ViT is
written here with timm's names, given our weights through the key map, and
merges through `tome/merge.py` of a checkout of facebookresearch/ToMe, where the
official patch does. Attention is PyTorch's fused one with the log of the sizes
as its bias, which is faster than the official patch's own.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tokpress_jax.bench import torch_peer
from tokpress_jax.errors import UserError
from tokpress_jax.models import timm_vit_keys
from tokpress_jax.models.vit_config import ViTConfig


class Official(torch_peer.TorchPeer):
  """A ViT with ToMe, float32 on a CPU or a GPU."""

  def __init__(
    self,
    path: str,
    config: ViTConfig,
    variables: Mapping[str, Any],
    *,
    threads: int | None = None,
  ):
    """Imports the checkout's matching and fills the model.

    Args:
      path: of the checkout.
      config: ours, with a class token and a classifier.
      variables: ours.
      threads: of torch on a CPU; all cores if None.

    Raises:
      UserError: there is no checkout, or torch is missing.
    """
    super().__init__(threads=threads)
    self._merge = _imported(path)
    self.config = config
    self.model = _vit(self.torch, config).eval().to(self.device)
    self.fill(self.model, variables, timm_vit_keys.RULES)
    self._forwards: dict[str, Callable[..., Any]] = {'eager': self._forward}

  def call(
    self, images: np.ndarray, *, counts: tuple[int, ...], way: str
  ) -> Callable[[], np.ndarray]:
    """A call that classifies and waits for it.

    Args:
      images: [B, H, W, C] as the tower wants them.
      counts: tokens to merge in each layer; all 0 for the ViT alone.
      way: 'eager', or 'compiled': all of it under `torch.compile`.

    Returns:
      Gives the logits [B, V].
    """
    torch = self.torch
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    x = torch.as_tensor(pixels, device=self.device)

    def call() -> np.ndarray:
      if way not in self._forwards:
        self._forwards[way] = torch.compile(self._forward, dynamic=False)
      with torch.inference_mode():
        out = self._forwards[way](x, counts)
      self.wait()
      return out.cpu().numpy()

    return call

  def _forward(self, x: Any, counts: tuple[int, ...]) -> Any:
    """Logits of pixels [B, C, H, W]."""
    torch, model = self.torch, self.model
    attend = torch.nn.functional.scaled_dot_product_attention
    x = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    x = x + model.pos_embed
    size = None
    for block, count in zip(model.blocks, counts, strict=True):
      batch, slots, width = x.shape
      heads = block.attn.qkv(block.norm1(x))
      heads = heads.reshape(batch, slots, 3, self.config.heads, -1)
      q, k, v = heads.permute(2, 0, 3, 1, 4)
      bias = None if size is None else size.log()[:, None, None, :, 0]
      out = attend(q, k, v, attn_mask=bias)
      x = x + block.attn.proj(out.transpose(1, 2).reshape(batch, slots, width))
      if count:
        merge, _ = self._merge.bipartite_soft_matching(k.mean(1), count, True)
        x, size = self._merge.merge_wavg(merge, x, size)
      x = x + block.mlp.fc2(
        torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x)))
      )
    return model.head(model.norm(x)[:, 0])


def _vit(torch: Any, config: ViTConfig) -> Any:
  """The modules of a ViT under timm's names."""
  nn, width = torch.nn, config.width
  norm = lambda: nn.LayerNorm(width, eps=config.norm_eps)
  hidden = round(config.mlp_ratio * width)

  def named(**parts: Any) -> Any:
    return nn.ModuleDict(parts)

  def block() -> Any:
    return named(
      norm1=norm(),
      attn=named(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
      norm2=norm(),
      mlp=named(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width)),
    )

  side = config.patch
  model = named(
    patch_embed=named(
      proj=nn.Conv2d(config.channels, width, kernel_size=side, stride=side)
    ),
    blocks=nn.ModuleList([block() for _ in range(config.depth)]),
    norm=norm(),
    head=nn.Linear(width, config.classes),
  )
  empty = lambda *shape: nn.Parameter(torch.empty(*shape))
  model.cls_token = empty(1, 1, width)
  model.pos_embed = empty(1, config.num_tokens, width)
  return model


def _imported(path: str) -> Any:
  """The checkout's `tome/merge.py`, which imports torch alone."""
  file = pathlib.Path(path).expanduser().resolve() / 'tome' / 'merge.py'
  if not file.is_file():
    raise UserError(
      f'there is no checkout of facebookresearch/ToMe at {path}: expected '
      'tome/merge.py in it'
    )
  spec = importlib.util.spec_from_file_location('official_tome_merge', file)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # `torch.compile` looks it up by name
  spec.loader.exec_module(module)
  return module
