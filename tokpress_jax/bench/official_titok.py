"""A checkout of bytedance/1d-tokenizer as a peer, found at a path.

Nothing of it is part of this library: it is imported from there, given our
weights through the key map, and called as its own demo calls it. It needs
torch, einops, omegaconf and huggingface_hub; what else the checkout imports on
the way (torchvision, accelerate) is not used by the tokenizer, and left out.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tokpress_jax.bench import torch_peer
from tokpress_jax.errors import UserError
from tokpress_jax.tokenizers import TOWERS, TiTokConfig, titok_keys


class Official(torch_peer.TorchPeer):
  """The official TiTok with given weights, float32 on a CPU or a GPU."""

  def __init__(
    self,
    path: str,
    config: TiTokConfig,
    variables: Mapping[str, Any],
    *,
    threads: int | None = None,
  ):
    """Imports the checkout and fills its model.

    Args:
      path: of the checkout.
      config: ours, of a variant that paints through MaskGIT's VQGAN.
      variables: ours.
      threads: of torch on a CPU; all cores if None.

    Raises:
      UserError: there is no checkout, or something it imports is missing.
    """
    super().__init__(threads=threads)
    with _imported(path) as build:
      self.model = build(_official_config(config)).eval().to(self.device)
    self.fill(self.model, variables, titok_keys.RULES)
    self._modules = [
      self.model.encoder,
      self.model.decoder,
      self.model.pixel_decoder,
    ]
    self._forwards = {'eager': [m.forward for m in self._modules]}

  def call(
    self, part: str, way: str, argument: np.ndarray
  ) -> Callable[[], np.ndarray]:
    """A call that runs a part and waits for it.

    Args:
      part: 'encode', images [B, H, W, 3] in [0, 1] to codes [B, N]; 'decode',
        codes [B, N] to images; 'pixels', a map [B, h, h, C] to images.
      way: 'eager', or 'compiled': the networks under `torch.compile`.
      argument: of the part.
    """
    torch = self.torch
    if argument.ndim == 4:
      argument = np.ascontiguousarray(argument.transpose(0, 3, 1, 2))
    x = torch.as_tensor(argument, device=self.device)
    channels_last = lambda y: y.permute(0, 2, 3, 1)

    def run() -> Any:
      if part == 'encode':
        found = self.model.encode(x)[1]['min_encoding_indices']
        return found.reshape(len(x), -1)
      if part == 'decode':
        return channels_last(self.model.decode_tokens(x[:, None]))
      return channels_last(self.model.pixel_decoder(x))

    def call() -> np.ndarray:
      if way not in self._forwards:
        self._forwards[way] = [
          torch.compile(forward, dynamic=False)
          for forward in self._forwards['eager']
        ]
      for module, forward in zip(
        self._modules, self._forwards[way], strict=True
      ):
        module.forward = forward
      with torch.inference_mode():
        out = run()
      self.wait()
      return out.cpu().numpy()

    return call


def _official_config(config: TiTokConfig) -> dict[str, Any]:
  names = {tower: name for name, tower in TOWERS.items()}
  quantizer: Any = config.quantizer
  return {
    'model': {
      'vq_model': {
        'codebook_size': quantizer.codebook_size,
        'token_size': quantizer.dim,
        'use_l2_norm': quantizer.distance == 'cosine',
        'commitment_cost': 0.25,
        'vit_enc_model_size': names[config.encoder],
        'vit_dec_model_size': names[config.decoder],
        'vit_enc_patch_size': config.patch,
        'vit_dec_patch_size': config.patch,
        'num_latent_tokens': config.tokens,
        'finetune_decoder': True,
      }
    },
    'dataset': {'preprocessing': {'crop_size': config.image_size}},
  }


@contextlib.contextmanager
def _imported(path: str) -> Iterator[Callable[[dict[str, Any]], Any]]:
  """The checkout's `TiTok`; what it imports and does not need is left out."""
  root = pathlib.Path(path).expanduser().resolve()
  folder = root / 'modeling' / 'modules'
  if not (root / 'modeling' / 'titok.py').is_file():
    raise UserError(
      f'there is no checkout of bytedance/1d-tokenizer at {path}: expected '
      'modeling/titok.py in it'
    )
  # Its __init__ imports the losses, and they torchvision.
  absent = types.ModuleType('modeling.modules')
  absent.__path__ = [str(folder)]
  gather = types.ModuleType('accelerate.utils.operations')
  vars(gather)['gather'] = lambda x: x
  stand_ins = {
    'modeling.modules': absent,
    'accelerate': types.ModuleType('accelerate'),
    'accelerate.utils': types.ModuleType('accelerate.utils'),
    'accelerate.utils.operations': gather,
  }
  kept = {name: sys.modules.get(name) for name in stand_ins}
  sys.modules.update(stand_ins)
  sys.path.insert(0, str(root))
  try:
    from modeling.titok import TiTok  # type: ignore[import-not-found]

    yield TiTok
  except ImportError as error:
    raise UserError(
      f'the checkout at {path} could not be imported: {error}'
    ) from error
  finally:
    sys.path.remove(str(root))
    for name, module in kept.items():
      if module is not None:
        sys.modules[name] = module
      elif name.startswith('accelerate'):
        del sys.modules[name]
