"""Search over prefixes of ordered tokens: best of N, beam, lookahead.

"(1D) Ordered Tokens Enable Efficient Test-Time Search" (2026, arXiv
2604.15453): where every prefix of tokens decodes to a whole image, a verifier
can judge images long before they are complete, and what looks poor is dropped
early. A search needs a *prior*, which continues prefixes (a generator, or
chance alone), a tokenizer, and a *verifier*, any function of images.

It departs from the official code in one thing: the candidates of a beam are
drawn independently, not without replacement.

Dimension letters: P prompts (labels), W beams, C candidates of each, M = P W C,
N tokens, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import errors, types
from tokpress_jax.generators import drawing, sampling

Array = jax.Array
# (images [M, H, W, C] in [-1, 1], labels int [M]) -> [M], more is better.
Verifier = Callable[[Array, Array], Array]


class Prior(Protocol):
  """Continues prefixes of codes."""

  def __call__(
    self, codes: Array, labels: Array, *, start: int, end: int, rng: Array
  ) -> Array:
    """Draws the codes of slots start ... end - 1.

    Args:
      codes: int32 [M, N], of which the first `start` count.
      labels: int [M].
      start: tokens that there are.
      end: tokens that there shall be.
      rng: a typed key; every row draws for itself.

    Returns:
      int32 [M, N].
    """
    ...


def generator_prior(
  generator: types.Loaded, sampler: sampling.Sampler | None = None
) -> Prior:
  """Continues prefixes by a generator.

  Args:
    generator: of any kind; its tokenizer is not used.
    sampler: how codes are drawn.
  """
  tokens = generator.module.config.num_tokens
  # A row's tokenizer would decode what nobody looks at; a scale-wise generator
  # needs its tokenizer to go on.
  scales = hasattr(generator.module.config, 'scales')
  if not scales and generator.tokenizer is not None:
    generator = types.Loaded(
      generator.module, generator.variables, generator.spec
    )

  def extend(
    codes: Array, labels: Array, *, start: int, end: int, rng: Array
  ) -> Array:
    given = jnp.where(jnp.arange(tokens)[None] < start, codes, -1)
    drawn = drawing.sample(
      generator,
      labels,
      rng=rng,
      sampler=sampler,
      num_tokens=end,
      forced=given,
    )
    assert drawn.codes is not None  # Forced codes are refused without them.
    return jnp.pad(drawn.codes[..., 0], ((0, 0), (0, tokens - end)))

  return extend


def uniform_prior(codebook_size: int) -> Prior:
  """Continues prefixes by chance: every code is as probable as any other."""

  def extend(
    codes: Array, labels: Array, *, start: int, end: int, rng: Array
  ) -> Array:
    del labels
    drawn = jax.random.randint(rng, codes.shape, 0, codebook_size)
    slot = jnp.arange(codes.shape[1])[None]
    return jnp.where((slot >= start) & (slot < end), drawn, codes)

  return extend


@struct.dataclass
class Found:
  """What a search gives.

  Attributes:
    codes: int32 [P, N, 1].
    images: [P, H, W, C] in [-1, 1].
    scores: [P], of the images.
    best: [S, P], the best score after each step, and after a completion.
    decoded: static, images that were decoded and judged for each prompt.
  """

  codes: Array
  images: Array
  scores: Array
  best: Array
  decoded: int = struct.field(pytree_node=False)


def beam_search(
  tokenizer: types.Loaded,
  prior: Prior,
  labels: Any,
  *,
  verifier: Verifier,
  rng: Array,
  width: int = 5,
  candidates: int = 10,
  first_candidates: int | None = None,
  schedule: Sequence[int] | None = None,
  lookahead: int | None = 0,
  completion: Prior | None = None,
  batch: int = 64,
) -> Found:
  """Keeps the prefixes whose images a verifier likes best.

  Each step continues every beam `candidates` times, decodes all of them, and
  keeps the best `width`.

  Args:
    tokenizer: any of whose legal lengths decode.
    prior: continues prefixes.
    labels: int [P].
    verifier: judges decoded images.
    rng: a typed key.
    width: W.
    candidates: C.
    first_candidates: of the first step, which continues one empty beam; W C if
      None (the official `scale_first_step`), C without that.
    schedule: tokens after each step, rising, legal lengths, the last of them
      all unless there is a `completion`; 1, 2, 4, ... as far as they are legal
      if None.
    lookahead: tokens that are drawn on top before an image is judged, to be
      forgotten again; None for all that are missing.
    completion: draws what an early end of the schedule leaves, for the beams
      kept at last, whose images are then judged again (the official
      `complete_after_search`, which does so for the best beam alone, by a
      greedy prior: `generator_prior(model, Sampler(temperature=0.0))`).
    batch: images decoded and judged at once.

  Returns:
    The best image for each prompt, of the last step or after the completion.

  Raises:
    UserError: if the schedule is none, or a number is below 1.
  """
  bounds = tuple(tokenizer.boundaries)
  tokens = bounds[-1]
  if schedule is None:
    schedule = geometric_schedule(bounds)
  schedule = tuple(schedule)
  rising = all(a < b for a, b in zip((0, *schedule), schedule, strict=False))
  if not schedule or not rising or not set(schedule) <= set(bounds):
    raise errors.UserError(
      f'a schedule rises over legal lengths of the tokenizer, got {schedule}'
    )
  if schedule[-1] != tokens and completion is None:
    raise errors.UserError(
      f'the last step of a schedule has all {tokens} tokens, got {schedule}; '
      'give a completion to draw the rest'
    )
  opening = width * candidates if first_candidates is None else first_candidates
  if min(width, candidates, opening) < 1:
    raise errors.UserError(
      'width, candidates and first_candidates must be at least 1, got '
      f'{width}, {candidates}, {first_candidates}'
    )
  labels = jnp.asarray(labels)
  prompts = len(labels)
  beams = jnp.zeros((prompts, 1, tokens), jnp.int32)
  best, decoded, start = [], 0, 0
  for step, end in enumerate(schedule):
    many = opening if step == 0 else candidates
    pool = jnp.repeat(beams, many, axis=1)  # [P, W C, N]
    count = pool.shape[1]
    rows = pool.reshape(-1, tokens)
    of = jnp.repeat(labels, count)
    draw, ahead = jax.random.split(jax.random.fold_in(rng, step))
    rows = prior(rows, of, start=start, end=end, rng=draw)
    shown = tokens if lookahead is None else _legal(end + lookahead, bounds)
    seen = rows
    if shown > end:
      seen = prior(rows, of, start=end, end=shown, rng=ahead)
    images, scores = _judge(tokenizer, seen, of, shown, verifier, batch)
    decoded += count
    scores = scores.reshape(prompts, count)
    keep = min(width, count)
    top, index = jax.lax.top_k(scores, keep)
    pool = rows.reshape(prompts, count, tokens)
    beams = jnp.take_along_axis(pool, index[..., None], axis=1)
    best.append(top[:, 0])
    start = end
  if start < tokens:
    assert completion is not None  # Else the schedule was refused.
    count = beams.shape[1]
    of = jnp.repeat(labels, count)
    rest = jax.random.fold_in(rng, len(schedule))
    rows = beams.reshape(-1, tokens)
    rows = completion(rows, of, start=start, end=tokens, rng=rest)
    images, scores = _judge(tokenizer, rows, of, tokens, verifier, batch)
    decoded += count
    top, index = jax.lax.top_k(scores.reshape(prompts, count), count)
    pool = rows.reshape(prompts, count, tokens)
    beams = jnp.take_along_axis(pool, index[..., None], axis=1)
    best.append(top[:, 0])
  images = images.reshape(prompts, count, *images.shape[1:])
  return Found(
    codes=beams[:, 0, :, None],
    images=images[jnp.arange(prompts), index[:, 0]],
    scores=top[:, 0],
    best=jnp.stack(best),
    decoded=decoded,
  )


def best_of(
  tokenizer: types.Loaded,
  prior: Prior,
  labels: Any,
  *,
  verifier: Verifier,
  rng: Array,
  count: int = 50,
  batch: int = 64,
) -> Found:
  """Draws whole images and takes the one that a verifier likes best.

  Args:
    tokenizer: see `beam_search`.
    prior: see `beam_search`.
    labels: int [P].
    verifier: see `beam_search`.
    rng: a typed key.
    count: images of each prompt.
    batch: see `beam_search`.
  """
  return beam_search(
    tokenizer,
    prior,
    labels,
    verifier=verifier,
    rng=rng,
    width=1,
    candidates=count,
    schedule=(tokenizer.num_tokens,),
    batch=batch,
  )


def geometric_schedule(boundaries: Sequence[int]) -> tuple[int, ...]:
  """1, 2, 4, ..., rounded up to legal lengths, and all tokens.

  Args:
    boundaries: legal lengths, rising.
  """
  bounds = np.asarray(boundaries)
  powers = 2 ** np.arange(int(bounds[-1]).bit_length())
  index = np.searchsorted(bounds, powers[powers <= bounds[-1]])
  return tuple(int(n) for n in np.unique([*bounds[index], bounds[-1]]))


def _legal(tokens: int, bounds: tuple[int, ...]) -> int:
  """The first legal length that is not below a number."""
  return min((b for b in bounds if b >= tokens), default=bounds[-1])


@jax.jit
def _decode(tokenizer: types.Loaded, codes: Array, length: Array) -> Array:
  return tokenizer.decode_codes(codes[..., None], length=length)


def _judge(
  tokenizer: types.Loaded,
  codes: Array,
  labels: Array,
  length: int,
  verifier: Verifier,
  batch: int,
) -> tuple[Array, Array]:
  """Images and scores of rows of codes, some at a time."""
  images, scores = [], []
  for first in range(0, len(codes), batch):
    part = slice(first, first + batch)
    images.append(_decode(tokenizer, codes[part], jnp.asarray(length)))
    scores.append(verifier(images[-1], labels[part]))
  return jnp.concatenate(images), jnp.concatenate(scores)
