"""The shape of a vision transformer, and the published ones.

Dimension letters: C channels, D features, L layers, P projected features, V
classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.models import sites
from tokpress_jax.nn import Activation, BlockConfig, StackConfig, patches
from tokpress_jax.pruners import plans

if TYPE_CHECKING:
  from tokpress_jax.models.vit import ViT


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
  """A ViT: a classifier, or an encoder of images.

  Attributes:
    image_size: side of the square images.
    patch: side of a patch.
    remainder: what becomes of pixels beyond the last whole patch of a row or
      column: 'refuse' such sizes, or 'drop' them (SigLIP so400m at 384).
    channels: C.
    mean: of the pixels in [0, 1] that become 0, one for all channels or one for
      each.
    std: of those that become 1.
    classes: V; 0 for no classifier.
    features: P, of a linear layer without a bias after pooling (CLIP); 0 for
      none.
    width: D.
    depth: L.
    heads: attention heads.
    mlp_ratio: hidden features of the MLP over D.
    activation: of the MLPs.
    class_token: whether a class token leads the row (protected from pruning).
    distillation_token: whether a second one follows it (DeiT).
    patch_bias: whether the patches' linear layer has a bias.
    norm_first: whether the embedded tokens are normed (CLIP).
    pool: what the head reads: the class token; the mean of the patches, each
      weighted by its mass; 'attention', one learned query over all tokens
      (SigLIP); or 'distilled', class and distillation token with a classifier
      each, whose logits are averaged (DeiT).
    norm_eps: of the layer norms.
    dropout: rate on each branch in training.
    drop_path: rate at which the last layer's branches are dropped.
    remat: recompute activations in the backward pass.
    unroll: layers that a scan unrolls.
    plan: the pruners that it was trained with, in which it runs unless a call
      names others.
  """

  family: ClassVar[str] = 'model'

  image_size: int = 224
  patch: int = 16
  remainder: Literal['refuse', 'drop'] = 'refuse'
  channels: int = 3
  mean: tuple[float, ...] = (0.5,)
  std: tuple[float, ...] = (0.5,)
  classes: int = 1000
  features: int = 0
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  activation: Activation = 'gelu'
  class_token: bool = True
  distillation_token: bool = False
  patch_bias: bool = True
  norm_first: bool = False
  pool: Literal['class', 'mean', 'attention', 'distilled'] = 'class'
  norm_eps: float = 1e-6
  dropout: float = 0.0
  drop_path: float = 0.0
  remat: bool = False
  unroll: int = 1
  plan: plans.PlanConfig = plans.PlanConfig()

  def __post_init__(self):
    if self.remainder == 'refuse':
      patches.check_patch((self.image_size, self.image_size), self.patch)
    if not 1 <= self.patch <= self.image_size:
      raise UserError(
        f'an image of {self.image_size} pixels a side has no patch of '
        f'{self.patch}; choose one of 1 to {self.image_size}'
      )
    for name in ('mean', 'std'):
      if len(getattr(self, name)) not in (1, self.channels):
        raise UserError(
          f'{name}={getattr(self, name)} has neither one number nor one for '
          f'each of {self.channels} channels'
        )
    self._check_tokens()

  def _check_tokens(self) -> None:
    """Refuses a head without the tokens that it reads."""
    if self.pool in ('class', 'distilled') and not self.class_token:
      raise UserError(
        f'pool={self.pool!r} reads a class token that class_token=False leaves '
        "out; set pool='mean'"
      )
    if self.distillation_token and not self.class_token:
      raise UserError(
        'a distillation token follows a class token; set class_token=True too'
      )
    if self.pool == 'distilled' and not (
      self.distillation_token and self.classes
    ):
      raise UserError(
        "pool='distilled' reads class and distillation token with a classifier "
        'each; set distillation_token=True and a number of classes'
      )

  @property
  def grid(self) -> int:
    """Patches along a side."""
    return self.image_size // self.patch

  @property
  def num_special(self) -> int:
    """Class and distillation tokens, which lead the row."""
    return int(self.class_token) + int(self.distillation_token)

  @property
  def num_tokens(self) -> int:
    """Tokens at the embedding, the special ones included."""
    return self.grid**2 + self.num_special

  @property
  def stack(self) -> StackConfig:
    """The tower's config."""
    block = BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation=self.activation,
      norm_eps=self.norm_eps,
      dropout=self.dropout,
      drop_path=self.drop_path,
    )
    return StackConfig(
      depth=self.depth, block=block, remat=self.remat, unroll=self.unroll
    )

  @property
  def shape(self) -> plans.Shape:
    """What a plan has to know."""
    return plans.Shape(
      depth=self.depth,
      tokens=self.num_tokens,
      num_protected=self.num_special,
      width=self.width,
      hidden=round(self.mlp_ratio * self.width),
    )

  @property
  def pairs(self) -> sites.Plan:
    """The plan as (site, pruner) pairs."""
    return self.plan.plan(self.shape)

  def layers(
    self,
    plan: sites.Plan,
    given: frozenset[str] = frozenset({'rng'}),
    *,
    causes: Sequence[str] = (),
  ) -> dict[int, tuple[sites.Plan, sites.Plan]]:
    """Sorts a plan by layer, see `sites.parse_plan`.

    Args:
      plan: (site, pruner) pairs.
      given: signals beside the images and the blocks' own.
      causes: what is wrong with other arguments, to be told together.

    Raises:
      UserError: if it cannot run in this ViT.
    """
    return sites.parse_plan(
      plan,
      self.depth,
      gives=frozenset({'pixels'}) | given,
      block_gives=self.block_gives,
      causes=causes,
    )

  @property
  def block_gives(self) -> frozenset[str]:
    """Signals that the blocks have."""
    first = sites.CLASS_SIGNALS if self.class_token else frozenset()
    return sites.LAYER_SIGNALS | first

  def build(self, *, dtype: Any = jnp.float32) -> ViT:
    """Makes the module."""
    from tokpress_jax.models.vit import ViT

    return ViT(self, dtype=dtype)


# Published sizes; DeiT's are the same. Parameters with 1,000 classes.
PRESETS = {
  'vit-ti16': ViTConfig(width=192, heads=3),  # 5,717,416
  'vit-s16': ViTConfig(width=384, heads=6),  # 22,050,664
  'vit-b16': ViTConfig(),  # 86,567,656
  'vit-l16': ViTConfig(width=1024, depth=24, heads=16),  # 304,326,632
  'vit-h14': ViTConfig(width=1280, depth=32, heads=16, patch=14),  # 632,045,800
}
