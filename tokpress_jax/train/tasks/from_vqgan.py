"""Training a tokenizer that predicts and paints the codes of a frozen VQGAN."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from tokpress_jax import errors, types
from tokpress_jax.tokenizers import MaskGITVQGANConfig
from tokpress_jax.train.tasks.tokenizer import Tokenizing, load_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromVQGAN(Tokenizing):
  """A task whose painter starts as a VQGAN's.

  Attributes:
    proxy: the VQGAN: a released name, a model directory or a run. The sizes of
      `model.vqgan` must be its own.
  """

  proxy: str = 'maskgit-vqgan'

  @property
  def vqgan(self) -> types.Loaded:
    """The VQGAN, loaded once.

    Raises:
      UserError: if there is none, or its sizes are not those of the model's.
    """
    loaded = getattr(self, '_loaded', None)
    if loaded is None:
      loaded = load_tokenizer(
        self.proxy, reader='the training on proxy codes', field='--task.proxy'
      )
      self._check(loaded.module.config)
      # It is no field: configs hold plain values only.
      object.__setattr__(self, '_loaded', loaded)
    return loaded

  def _check(self, theirs: Any) -> None:
    ours = self.model.vqgan  # type: ignore[attr-defined]
    if not isinstance(theirs, MaskGITVQGANConfig):
      raise errors.UserError(
        f'{self.proxy} is a {type(theirs).__name__}, and '
        f'{type(self.model).__name__} paints with the decoder of a '
        'MaskGITVQGANConfig; give another --task.proxy.'
      )
    if sizes(theirs) != sizes(ours):
      raise errors.UserError(
        f'{self.proxy} has {sizes(theirs)}, and --task.model.vqgan has '
        f'{sizes(ours)}; set the second to the first, or give another '
        '--task.proxy.'
      )

  def start(self) -> Any:
    """The painter's codes and decoder: the VQGAN's."""
    vqgan = self.vqgan
    codes = np.arange(vqgan.module.config.quantizer.codebook_size)[:, None]
    codebook = vqgan.module.apply(
      vqgan.variables,
      jnp.asarray(codes),
      method=lambda module, codes: module.quantizer.lookup(codes),
    )
    decoder = vqgan.variables['params']['decoder']
    painter = {'codebook': codebook, 'decoder': decoder}
    return {'params': {'painter': painter}}


def sizes(config: Any) -> dict[str, Any]:
  """What a painter takes over of a VQGAN's config."""
  names = ('image_size', 'channels', 'patch', 'width', 'multipliers', 'blocks')
  found = {name: getattr(config, name) for name in (*names, 'groups')}
  size = config.quantizer
  return found | {'codebook_size': size.codebook_size, 'dim': size.dim}
