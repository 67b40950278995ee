"""HICom: an instruction decides what is kept of a video, near and far.

Liu et al., "Hybrid-level instruction injection for video token compression in
multi-modal large language models" (2025, arXiv:2503.16036). A local compressor
(`hicom_local`) makes few tokens of each region, a global one (`hicom_global`)
of the whole video; a language model reads the tokens of both. The instruction
goes into their queries:

'direct'  it is the query (images and texts share SigLIP's space);
'coarse'  its pooled embedding scales and shifts the queries;
'fine'    the queries attend to its words;
'off'     it is not read.

What is adapted (`adapt`) is mixed in by a factor alpha that starts at 0.

SigLIP's bias, one number added to all logits, is left out: a softmax is blind
to it. The paper guides the local one directly and the global one coarsely,
which are our defaults. The published scripts ask for 'direct' guidance of both
(the suffix `_coarse` of the projector's name is not read). Ours are batches and
masks.

Dimension letters: B batch, T frames, H rows and W columns, N = T H W tokens, K
queries, M words, D features, E features of the text, F features out.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.types import Array

Kind = Literal['off', 'direct', 'coarse', 'fine']
Grid = tuple[int, int, int]


class Adapted(nn.Module):
  """(1 - alpha) x + alpha norm(f(x)), alpha 0 at first.

  Attributes:
    depth: layers of f; 1 is without a bias.
    dtype: of the matrix products.
  """

  depth: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., D] to as much."""
    width = x.shape[-1]
    if self.depth == 1:
      y = parts.dense(width, self.dtype, 'fc1', bias=False)(x)
    else:
      widths = (width,) * self.depth
      y = parts.Projector(widths, dtype=self.dtype, name='mlp')(x)
    y = parts.norm(self.dtype, 'norm')(y)
    alpha = self.param('alpha', nn.initializers.zeros, (1,))
    alpha = alpha.reshape((1,) * (x.ndim - 1) + (1,)).astype(x.dtype)
    return (1 - alpha) * x + alpha * y.astype(x.dtype)


class Guide(nn.Module):
  """Puts an instruction into queries.

  Attributes:
    kind: see the module.
    width: D.
    text: E; another than D is projected to it.
    heads: of the attention to words.
    adapt: whether the text is adapted.
    dtype: of the matrix products.
  """

  kind: Kind
  width: int
  text: int
  heads: int
  adapt: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, query: Array, text: Array | None, *, text_valid: Array | None = None
  ) -> Array:
    """Gives queries.

    Args:
      query: [B, K, D].
      text: [B, E] pooled, or [B, M, E] for 'fine'; None for 'off'.
      text_valid: bool [B, M], of 'fine'.

    Returns:
      [B, K, D].

    Raises:
      UserError: if the kind is unknown, or its text is not given.
    """
    if self.kind == 'off':
      if text is not None:
        raise UserError(
          "the guide 'off' reads no text; leave it out, or take 'direct', "
          "'coarse' or 'fine'"
        )
      return query
    if self.kind not in ('direct', 'coarse', 'fine'):
      raise UserError(
        f"a guide is 'off', 'direct', 'coarse' or 'fine', got {self.kind!r}"
      )
    rank = 3 if self.kind == 'fine' else 2
    ends = (len(query), self.text)
    got = arrays.shape_of(text)
    if len(got) != rank or (got[0], got[-1]) != ends:
      need = '[B, M, E], the words' if rank == 3 else '[B, E], pooled'
      raise UserError(
        f'the guide {self.kind!r} reads a text of {need}, with B={ends[0]} and '
        f'E={ends[1]}, got {got or text!r}'
      )
    assert text is not None
    self._check_words(text, text_valid)
    text = text[:, None] if rank == 2 else text
    if self.text != self.width:
      widths = (self.width,) * 2
      text = parts.Projector(widths, dtype=self.dtype, name='project')(text)
    if self.adapt:
      text = Adapted(dtype=self.dtype, name='adapt')(text)
    if self.kind == 'direct':
      return jnp.broadcast_to(text, query.shape)
    norm = parts.norm(self.dtype, 'norm')
    if self.kind == 'fine':
      attend = parts.Attend(self.heads, dtype=self.dtype, name='attn')
      return norm(query + attend(query, text, text, mask=text_valid))
    widths = (2 * self.width,) * 2
    both = parts.Projector(widths, dtype=self.dtype, name='modulation')(text)
    scale, shift = jnp.split(both, 2, axis=-1)
    return norm(query * (1 + scale) + shift)

  def _check_words(self, text: Array, there: Array | None) -> None:
    """Refuses a mask that is not of the words; outside of `jit`, no words."""
    if there is None:
      return
    if self.kind != 'fine' or arrays.shape_of(there) != text.shape[:2]:
      raise UserError(
        "text_valid is of the words [B, M, E] of the guide 'fine', bool [B, M];"
        f' got {arrays.said(there)} for a text of {text.shape} and the guide '
        f'{self.kind!r}'
      )
    if bad := arrays.rows_that(lambda y: ~y.any(axis=1), there):
      raise UserError(f'text_valid of rows {bad} has no word')


class HICom(base.Compressor):
  """What both compressors are; the sizes are the released model's.

  Attributes:
    grid: (T, H, W); an image is (1, H, W).
    width: D.
    text: E.
    out: F, of the language model.
    guide: see the module.
    adapt: letters of what is adapted, see `adaptable`.
    heads: of attentions.
    dtype: of the matrix products.
  """

  adaptable: ClassVar[str]

  grid: Grid = (32, 27, 27)
  width: int = 1152
  text: int = 1152
  out: int = 3584
  guide: Kind = 'direct'
  adapt: str = ''
  heads: int = 9
  dtype: Any = jnp.float32

  @property
  def inputs(self) -> dict[str, tuple[int, ...]]:
    """Of `base.Compressor`; of words, any number is read."""
    if self.guide == 'off':
      return super().inputs
    words = (1,) if self.guide == 'fine' else ()
    return super().inputs | {'text': (*words, self.text)}

  def check(self, x: Array, mask: Array | None) -> None:
    """Refuses tokens that are not the grid, and what cannot be adapted."""
    refusals.check_inputs(x, self.grid, width=self.width, mask=mask)
    if unknown := set(self.adapt) - set(self.adaptable):
      raise UserError(
        f'{", ".join(map(repr, self.adaptable))} can be adapted here, got '
        f'{sorted(unknown)}'
      )

  def guided(
    self, query: Array, text: Array | None, text_valid: Array | None
  ) -> Array:
    """Queries [B, K, D] with the instruction in them; see `Guide`."""
    guide = Guide(
      kind=self.guide,
      width=self.width,
      text=self.text,
      heads=self.heads,
      adapt='g' in self.adapt,
      dtype=self.dtype,
      name='guide',
    )
    return guide(query, text, text_valid=text_valid)

  def read_out(self, y: Array) -> Array:
    """[B, K, D] for the language model: [B, K, F]."""
    widths = (self.out,) * 2
    return parts.Projector(widths, dtype=self.dtype, name='readout')(y)
