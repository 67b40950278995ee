"""SliME: crops become few tokens each, of which a text picks the most alike.

Zhang et al., "Beyond LLaVA-HD: diving into high-resolution large multimodal
models" (2024, arXiv:2406.08487). Learned queries resample
each crop of a large image (`SliMEResampler`); after the language model's
projector a router without parameters (`SliME`) keeps the tokens that resemble
the text, the fewest whose probabilities exceed a share.

The official code takes one image at a time, and what is kept has any length;
here it is padded to a static capacity, which the text may not fill and which
cuts what is beyond it, least alike first. The whole image beside the crops goes
through a projector only.

Dimension letters: B batch, N token slots, K queries, M text slots, D
features, F features out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.pruners import base as pruner_base
from tokpress_jax.pruners import budgets, checks, scores, selecting
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.pruners.scores.attention import masked_softmax
from tokpress_jax.pruners.scores.fixed import place
from tokpress_jax.pruners.selectors import top, top_mass
from tokpress_jax.types import Array, Ratio, Signals, Tokens


class SliMEResampler(base.Compressor):
  """Learned queries that look at one crop; the defaults are the released ones.

  Unlike MQT's, keys hold content, and positions are added after the norms.

  Attributes:
    side: K is its square.
    width: D, of the tower's features.
    heads: of the attention.
    grid: (H, W) of a crop's tokens.
    out: F, of the language model, behind two more linear layers; None gives
      the tokens that enter these.
    dtype: of the matrix products.
  """

  side: int = 12
  width: int = 1024
  heads: int = 8
  grid: tuple[int, int] = (24, 24)
  out: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  @refusals.refusing
  def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D], crops as rows.
      mask: bool [B, N], the crop's tokens that are there; all if None.

    Returns:
      [B, K, D], to be projected, or [B, K, F].

    Raises:
      UserError: if x is not the grid.
    """
    refusals.check_inputs(x, self.grid, width=self.width, mask=mask)
    square = (self.side, self.side)
    norm = lambda name: parts.norm(self.dtype, name)
    query = self.param('query', parts.INIT, (self.side**2, self.width))
    codes = parts.codes(square, self.width)
    places = parts.resized_codes(codes, square, self.grid)
    x = norm('norm_x')(x)
    y = parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      norm('norm_q')(query[None]) + codes[None].astype(self.dtype),
      x + places[None].astype(self.dtype),
      x,
      mask=mask,
    )
    return parts.project(norm('norm_out')(y), self.out, self.dtype)


SliMEResamplerConfig = base.config_of(SliMEResampler)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliME(selecting.Selecting):
  """The router: top-p over tokens by their likeness to the text.

  Attributes:
    budget: the most tokens of a row: the capacity.
    mass: share of the probability that is exceeded; 1 keeps all.
    temperature: of the softmax over tokens.
    noise: deviation of what is added to the scores in training, 0.1 as
      published; needs `rng` among the signals.
  """

  budget: budgets.Budget = Ratio(ratio=1.0)
  positions: positions_lib.Policy = 'compact'
  mass: float = 0.95
  temperature: float = 1.0
  noise: float = 0.0

  ranges: ClassVar[checks.Ranges] = (
    ('mass', 1e-6, 1),
    ('temperature', 1e-6, None),
    ('noise', 0, None),
  )

  @property
  def needs(self) -> pruner_base.Needs:  # type: ignore[override]
    """The text, and keys for the noise."""
    return frozenset({'text', 'rng'} if self.noise else {'text'})

  def probability(self, tokens: Tokens, signals: Signals) -> Array:
    """What each token has of a row's probability: float32 [B, N].

    The score is the sum of the cosines to all words, so that a longer text is
    more decided.
    """
    text, there = signals.text, signals.text_valid
    assert text is not None
    there = jnp.ones(text.shape[:2], bool) if there is None else there
    score = scores.text_similarity(
      tokens.features, text, text_valid=there, over='sum'
    )
    if self.noise:
      assert signals.rng is not None
      one = lambda key: jax.random.normal(key, score.shape[1:])
      drawn = jax.vmap(one)(signals.rng)
      at = place(tokens.valid)
      score += self.noise * jnp.take_along_axis(drawn, at, axis=1)
    free = tokens.valid & ~tokens.protected
    score = jnp.where(free, score / self.temperature, -jnp.inf)
    return masked_softmax(score)

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Selects the fewest tokens whose probabilities exceed `mass`."""
    share = self.probability(tokens, signals)
    if self.mass < 1:  # A running sum may reach 1 before the last token.
      free = tokens.valid & ~tokens.protected
      passed = top_mass(share, mass=self.mass, free=free, limit=limit)
      count = jnp.minimum(passed, count)
    return top(
      share,
      count=count,
      valid=tokens.valid,
      protected=tokens.protected,
    )
