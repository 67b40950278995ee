"""How many tokens images take, against what is known of them.

KARL's analysis (Duggal et al., arXiv 2507.07995): a tokenizer that chooses its
lengths by a fixed quality measures complexity. On drawings of a known number of
shapes it should rise with that number; noise is not structure, and images of
another kind take more tokens than those it was trained on.

Dimension letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import types, viz
from tokpress_jax.data import streaming
from tokpress_jax.errors import UserError
from tokpress_jax.tokenizers import Prefix
from tokpress_jax.tokenizers.lengths import decibels

if TYPE_CHECKING:
  from matplotlib.figure import Figure
  from PIL import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
  """What a length policy made of images.

  Attributes:
    tokens: int [N].
    psnr: float [N], dB, of what they give back.
    error: float [N], mean |x - y| of pixels in [0, 1].
  """

  tokens: np.ndarray
  psnr: np.ndarray
  error: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complexity:
  """Tokens against what is known.

  Attributes:
    chosen: what the policy chose for the images of the data set.
    known: int [N], their known complexity.
    spearman: rank correlation of the two.
    fixed: lengths around the same mean -> PSNR of each image's first so many.
    noisy: standard deviation of added noise, of pixels in [0, 1] -> `Lengths`.
    structure: name of images of one kind -> `Lengths`.
  """

  chosen: Lengths
  known: np.ndarray
  spearman: float
  fixed: Mapping[int, float]
  noisy: Mapping[float, Lengths]
  structure: Mapping[str, Lengths]

  @property
  def fixed_psnr(self) -> float:
    """PSNR at one length for all with the same mean, between the nearest."""
    lengths = sorted(self.fixed)
    values = [self.fixed[n] for n in lengths]
    return float(np.interp(self.chosen.tokens.mean(), lengths, values))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
  """Rank correlation; equal values share the mean of their ranks.

  Raises:
    UserError: if either has one value only.
  """
  ranks = []
  for values in (x, y):
    _, inverse, counts = np.unique(
      values, return_inverse=True, return_counts=True
    )
    if len(counts) < 2:
      raise UserError(
        'a rank correlation needs different values on both sides; all '
        f'{len(values)} images have {np.ravel(values)[0]:g}'
      )
    ends = np.cumsum(counts)
    ranks.append((ends - (counts - 1) / 2)[inverse])
  return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def lengths_of(
  tokenizer: types.Loaded,
  images: np.ndarray,
  policy: Any,
  *,
  batch: int = 128,
) -> Lengths:
  """Lets a policy choose the length of each image.

  Args:
    tokenizer: the tokenizer.
    images: float32 [N, H, W, C] in [-1, 1].
    policy: see `tokenizers.lengths`; or int [N], a length for each image.
    batch: images at once.
  """
  if isinstance(policy, np.ndarray):
    given = [images, policy.astype(np.int32)]
    run: Callable[..., Any] = lambda x, n: _try(tokenizer, x, Prefix(n))
  else:
    given = [images]
    run = functools.partial(_try, tokenizer, policy=policy)
  tokens, psnr, error = streaming.in_batches(run, given, batch)
  return Lengths(tokens=tokens, psnr=psnr, error=error)


@jax.jit
def _try(tokenizer: Any, images: Any, policy: Any) -> Any:
  """Lengths, PSNR and error of images, in one program for each policy."""
  encoded = tokenizer.encode(images, policy=policy)
  again = tokenizer.decode(encoded)
  error = jnp.mean(jnp.abs(again - images) / 2, axis=(1, 2, 3))
  return encoded.length, decibels(again, images), error


def measure_complexity(
  tokenizer: types.Loaded,
  images: np.ndarray,
  known: np.ndarray,
  policy: Any,
  *,
  others: Mapping[str, np.ndarray] | None = None,
  noise: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
  seed: int = 0,
) -> Complexity:
  """Measures all of `Complexity`.

  Args:
    tokenizer: the tokenizer.
    images: float32 [N, H, W, C] in [-1, 1].
    known: int [N], the known complexity of each.
    policy: how lengths are chosen.
    others: images of other kinds (foreign data), by name.
    noise: standard deviations of what is added, of pixels in [0, 1].
    seed: of the noise.
  """
  config = tokenizer.module.config
  measure: Callable[..., Lengths] = lambda x, p=policy: lengths_of(
    tokenizer, x, p
  )
  chosen = measure(images)
  bounds = np.asarray(config.boundaries)
  mean = float(chosen.tokens.mean())
  place = int(np.searchsorted(bounds, mean))
  around = bounds[max(place - 1, 0) : place + 1]
  fixed = {
    int(n): float(measure(images, np.full(len(images), n)).psnr.mean())
    for n in around
  }
  rng = np.random.default_rng(seed)
  drawn = rng.normal(size=images.shape).astype(np.float32)
  noisy = {0.0: chosen}
  for level in noise:
    noisy[level] = measure(np.clip(images + 2 * level * drawn, -1, 1))
  flat = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
  kinds = {
    'one colour': np.ascontiguousarray(flat),
    'pixels shuffled': _shuffled(images, rng),
    'noise alone': np.clip(drawn / 2, -1, 1),
  }
  structure = {'as they are': chosen}
  structure |= {name: measure(x) for name, x in kinds.items()}
  structure |= {name: measure(x) for name, x in (others or {}).items()}
  return Complexity(
    chosen=chosen,
    known=known,
    spearman=spearman(chosen.tokens, known),
    fixed=fixed,
    noisy=noisy,
    structure=structure,
  )


def _shuffled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The same pixels of each image at other places."""
  count, height, width, channels = images.shape
  flat = images.reshape(count, height * width, channels)
  order = rng.permuted(np.tile(np.arange(height * width), (count, 1)), axis=1)
  mixed = np.take_along_axis(flat, order[..., None], axis=1)
  return mixed.reshape(images.shape)


def tables(found: Complexity, *, what: str = 'class') -> tuple[viz.Table, ...]:
  """The numbers, as tables.

  Args:
    found: what was measured.
    what: `known` is called.
  """
  row = lambda name, at: [
    name,
    f'{at.tokens.mean():.1f}',
    f'{at.tokens.std():.1f}',
    f'{at.psnr.mean():.2f}',
    f'{at.error.mean():.3f}',
  ]
  columns = ['tokens', 'deviation', 'PSNR (dB)', 'mean |error|']
  at = lambda rows: Lengths(
    tokens=found.chosen.tokens[rows],
    psnr=found.chosen.psnr[rows],
    error=found.chosen.error[rows],
  )
  by_known = [
    row(f'{value:g}', at(found.known == value))
    for value in np.unique(found.known)
  ]
  gain = found.chosen.psnr.mean() - found.fixed_psnr
  return (
    viz.Table(
      caption=(
        f'Spearman of tokens and {what}: {found.spearman:.3f}. '
        f'{found.chosen.tokens.mean():.1f} tokens on average give '
        f'{found.chosen.psnr.mean():.2f} dB; the same number for all '
        f'{found.fixed_psnr:.2f} dB ({gain:+.2f}).'
      ),
      columns=[what, *columns],
      rows=by_known,
    ),
    viz.Table(
      caption='Noise added to the images, its deviation on pixels in [0, 1].',
      columns=['noise', *columns],
      rows=[row(f'{level:g}', x) for level, x in found.noisy.items()],
    ),
    viz.Table(
      caption='Images of other kinds.',
      columns=['images', *columns],
      rows=[row(name, x) for name, x in found.structure.items()],
    ),
  )


def complexity_figure(
  found: Complexity, *, what: str = 'class', theme: viz.Theme = 'light'
) -> Figure:
  """Tokens by known complexity, by noise, and by kind of image."""
  line = viz.LINES[theme]
  figure, row = viz.blank(3, size=(10.6, 3.2), theme=theme)
  left, middle, right = row
  values = np.unique(found.known)
  groups = [found.chosen.tokens[found.known == v] for v in values]
  left.boxplot(
    groups,
    positions=values,
    widths=0.6,
    showfliers=False,
    medianprops={'color': line[1]},
    **{
      f'{part}props': {'color': line[0]} for part in ('box', 'whisker', 'cap')
    },
  )
  left.plot(values, [g.mean() for g in groups], 'o', color=line[1], ms=4)
  left.set_xlabel(what)
  levels = list(found.noisy)
  middle.plot(
    levels,
    [x.tokens.mean() for x in found.noisy.values()],
    marker='o',
    color=line[0],
  )
  middle.set_xlabel('deviation of the noise')
  names = list(found.structure)
  means = [found.structure[n].tokens.mean() for n in names]
  right.barh(names[::-1], means[::-1], color=line[0], height=0.6)
  right.set_xlabel('tokens')
  left.set_ylabel('tokens')
  titles = (
    f'Tokens by {what} (Spearman {found.spearman:.2f})',
    'Tokens by added noise',
    'Tokens by kind of image',
  )
  for axes, title in zip(row, titles, strict=True):
    viz.dress(axes, theme, title=title)
  middle.margins(y=0.1)
  middle.set_ylim(bottom=0)
  left.set_ylim(bottom=0)
  return figure


def examples_sheet(
  tokenizer: types.Loaded, images: np.ndarray, known: np.ndarray, policy: Any
) -> Image.Image:
  """The first image of each known complexity, and what its tokens give back.

  Args:
    tokenizer: the tokenizer.
    images: float32 [N, H, W, C] in [-1, 1].
    known: int [N].
    policy: see `measure_complexity`.
  """
  _, first = np.unique(known, return_index=True)
  shown = images[first]
  encoded = jax.jit(lambda m, x: m.encode(x, policy=policy))(tokenizer, shown)
  again = jax.jit(lambda m, e: m.decode(e))(tokenizer, encoded)
  tokens = [int(n) for n in encoded.length]
  return viz.sheet(
    [shown, np.asarray(again)],
    row_labels=('original', 'decoded'),
    column_labels=[f'{n} token{"s" if n != 1 else ""}' for n in tokens],
    cell=72,
  )
