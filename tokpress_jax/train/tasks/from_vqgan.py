"""Training a tokenizer that predicts and paints the codes of a frozen VQGAN.

Dimension letters: B batch, h patches a side, V codes of the VQGAN.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import errors, losses, types
from tokpress_jax.tokenizers import MaskGITVQGANConfig
from tokpress_jax.train.task import FROZEN, Metrics, Variables
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class AroundVQGAN(FromVQGAN):
  """A task whose encoder also reads the VQGAN's features; it stays frozen."""

  groups: ClassVar[tuple[tuple[str, str], ...]] = (
    (r'^painter/(codebook$|decoder/)|^image_tokens/vqgan/', FROZEN),
    ('', 'main'),
  )

  def start(self) -> Any:
    """The VQGAN's encoder, codes and decoder, if the model has one."""
    if self.model.vqgan is None:  # type: ignore[attr-defined]
      return {}
    found = super().start()
    encoder = self.vqgan.variables['params']['encoder']
    return {'params': found['params'] | {'image_tokens': {'vqgan': encoder}}}

  def _codes(self, variables: Variables, images: jax.Array) -> jax.Array:
    """The VQGAN's codes [B, h, h], float32 inside whatever `precision`."""
    codes = self.model.build().apply(
      self.own(variables), images, method='base_codes'
    )
    return cast(jax.Array, codes)

  def _code_losses(
    self, variables: Variables, logits: jax.Array, codes: jax.Array, mask: Any
  ) -> Metrics:
    """Cross entropy of the codes, squared error of the mixed codes.

    Args:
      variables: the model's.
      logits: float32 [B, h, h, V].
      codes: int32 [B, h, h], the true ones.
      mask: bool [B], or None for all images.
    """
    counted = None
    if mask is not None:
      counted = jnp.broadcast_to(mask[:, None, None], codes.shape)
    codebook = variables['params']['painter']['codebook']
    mixed = jnp.einsum('bhwv,vc->bhwc', jax.nn.softmax(logits), codebook)
    return {
      'cross_entropy': losses.cross_entropy(logits, codes, mask=counted),
      'code': losses.l2(mixed, codebook[codes], mask=counted),
    }


def sizes(config: Any) -> dict[str, Any]:
  """What a painter takes over of a VQGAN's config."""
  names = ('image_size', 'channels', 'patch', 'width', 'multipliers', 'blocks')
  found = {name: getattr(config, name) for name in (*names, 'groups')}
  size = config.quantizer
  return found | {'codebook_size': size.codebook_size, 'dim': size.dim}
