"""What every training of a tokenizer shares: lengths, codebook, measures.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, S
scales.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from tokpress_jax import errors, metrics, quantize, types
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers import (
  PyramidConfig,
  TokenizerConfig,
  sample_lengths,
)
from tokpress_jax.train.task import FROZEN, Batch, Metrics, Task, Variables

_QUANTIZER = ('quantizer',)  # its path in every tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizing(Task):
  """A tokenizer that learns from a random prefix of its tokens.

  Attributes:
    model: the tokenizer.
    lengths: how training lengths are drawn, see `sample_lengths`.
    full: chance that an image keeps all its tokens.
  """

  groups: ClassVar[tuple[tuple[str, str], ...]] = (('', 'main'),)
  sharding_rules: ClassVar[tuple[tuple[str, tuple[Any, ...]], ...]] = (
    (r'/layers/attn/qkv/kernel$', (None, 'fsdp', 'model')),
    (r'/layers/attn/proj/kernel$', (None, 'model', 'fsdp')),
    (r'/layers/mlp/(fc1|gate)/kernel$', (None, 'fsdp', 'model')),
    (r'/layers/mlp/fc2/kernel$', (None, 'model', 'fsdp')),
  )

  model: TokenizerConfig
  lengths: Literal['none', 'uniform', 'powers', 'batch'] = 'uniform'
  full: float = 0.25

  def bind(self, info: Any) -> Tokenizing:
    """Checks that the model takes the data's images."""
    check_images(self.model, info)
    if self.model.condition_shape is not None:
      raise errors.UserError(
        f'the decoder of {type(self.model).__name__} reads a text, and no data '
        'set here has texts. Set --task.model.text-tokens 0.'
      )
    return self

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the tokenizer."""
    images = jnp.zeros(self._shape)
    return self.model.build(dtype=self.dtype).init(rng, images)

  @property
  def _shape(self) -> tuple[int, ...]:
    """(1, H, W, C)."""
    c = self.model
    return (1, c.image_size, c.image_size, c.channels)

  def own(self, variables: Variables) -> Variables:
    """The tokenizer's variables: nothing frozen."""
    return {k: v for k, v in variables.items() if k != FROZEN}

  def _drawn(
    self, rng: jax.Array, batch: int
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Training lengths [B], and the draws of continuous tokens."""
    length = sample_lengths(
      rng,
      batch,
      self.model.boundaries,
      sampler=self.lengths,
      full=self.full,
    )
    options = {}
    if self.model.continuous:
      options['rng'] = jax.random.fold_in(rng, 2)
    return length, options

  def _bottleneck(
    self, variables: Variables, quantized: quantize.Quantized, length: jax.Array
  ) -> tuple[Metrics, Any]:
    """Metrics of the bottleneck, and the updates that `commit` takes."""
    found = {
      'mean_length': jnp.mean(length.astype(jnp.float32)),
      **quantized.losses,
    }
    stats = quantized.stats
    if stats is None:
      return found, {}
    found['code_usage'] = jnp.mean(quantize.usage(stats.count))
    found['code_perplexity'] = jnp.mean(quantize.perplexity(stats.count))
    if isinstance(self.model, PyramidConfig):
      found |= self._scale_usage(variables)
    return found, {'stats': stats}

  def _scale_usage(self, variables: Variables) -> Metrics:
    """Codes in use and perplexity of each scale, 1 the coarsest, of late."""
    recent = self.model.quantizer.usage(variables, path=_QUANTIZER)  # [S, V]
    perplexity = quantize.perplexity(recent)
    # Of a code that is no longer chosen a hundredth may be left.
    used = quantize.usage(jnp.maximum(recent * recent.shape[1] - 0.01, 0.0))
    found = {f'usage_{k + 1}': x for k, x in enumerate(used)}
    return found | {f'perplexity_{k + 1}': x for k, x in enumerate(perplexity)}

  def commit(
    self, variables: Variables, updates: Any, rng: jax.Array, step: jax.Array
  ) -> Variables:
    """Moves the codebook's averages, revives dead codes."""
    del step
    if 'stats' not in updates:
      return variables
    return self.model.quantizer.update(
      variables, updates['stats'], rng=rng, path=_QUANTIZER
    )

  def _measure(
    self, variables: Variables, images: jax.Array, painted: jax.Array
  ) -> dict[str, jax.Array]:
    """More measures of images and what all their tokens give, each [B]."""
    del variables, images, painted
    return {}

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """PSNR (dB, peak 1) at 1, 2, 4, ... and all tokens; bits per pixel.

    And what the task measures besides. Continuous tokens have no size in bits.
    """
    del rng
    c = self.model
    module = c.build(dtype=self.dtype)
    own = self.own(variables)
    images = images_lib.to_float(batch['image'])
    weight = batch['valid'].astype(jnp.float32)
    mean = lambda x: (jnp.sum(x * weight), jnp.sum(weight))
    unit = lambda x: (x + 1) / 2
    found = {}
    shown = shown_lengths(c.boundaries)
    rows: Any = module.apply(own, images, tokens=shown, method='encode_each')
    for n, encoded in zip(shown, rows, strict=True):
      again: Any = module.apply(own, encoded, method='decode')
      found[f'psnr_{n}'] = mean(metrics.psnr(unit(again), unit(images)))
    found['psnr'] = found[f'psnr_{c.num_tokens}']
    # Of all tokens: the last that was decoded.
    measured = self._measure(variables, images, again)
    found |= {name: mean(x) for name, x in measured.items()}
    if not c.continuous:
      bits = c.num_tokens * c.bits_per_token / c.image_size**2
      found['bits_per_pixel'] = (bits * jnp.sum(weight), jnp.sum(weight))
    return found

  def export(self, variables: Variables) -> types.Loaded:
    """The tokenizer alone."""
    return types.Loaded(
      module=self.model.build(),
      variables=self.own(variables),
      spec=types.Spec(name='', family='tokenizer', config=self.model),
    )


def shown_lengths(boundaries: tuple[int, ...]) -> tuple[int, ...]:
  """The legal lengths at which quality is reported: 1, 2, 4, ..., all.

  Args:
    boundaries: the legal lengths, rising.

  Returns:
    All of them if they are 12 or fewer; else powers of two rounded down to
    legal lengths, and the last.
  """
  if len(boundaries) <= 12:
    return boundaries
  powers = [2**i for i in range(boundaries[-1].bit_length())]
  below = {max((b for b in boundaries if b <= p), default=0) for p in powers}
  return tuple(sorted((below - {0}) | {boundaries[-1]}))


def check_images(model: Any, info: Any) -> None:
  """Refuses data whose images a model cannot take.

  Args:
    model: a config with `image_size` and `channels`.
    info: the data's `DatasetInfo`.

  Raises:
    UserError: says both shapes and what to set.
  """
  if info.tokens is not None:
    raise errors.UserError(
      f'{info.directory} holds tokens, on which only generators train; give '
      'images: another --data.name'
    )
  expected = (model.image_size, model.channels)
  given = (info.image_size, info.channels)
  if given != expected:
    size = f'side {given[0]}' if given[0] else 'no common size'
    raise errors.UserError(
      f'the model takes images of side {expected[0]} with {expected[1]} '
      f'channels, the data set {info.name!r} gives images of {size} with '
      f'{given[1]} channels. Set --data.image-size {expected[0]} '
      f'--data.channels {expected[1]}, or --task.model.image-size and '
      '--task.model.channels to what the data has.'
    )


def load_tokenizer(name: str, *, reader: str, field: str) -> types.Loaded:
  """Loads the tokenizer that a config names, or says how to get it.

  Args:
    name: what `load` takes.
    reader: what needs it, for messages: 'the generator'.
    field: that names it: '--task.tokenizer'.

  Raises:
    UserError: if there is none, or it is no tokenizer.
  """
  from tokpress_jax.io import load as load_lib

  try:
    loaded = load_lib.load(name)
  except errors.UserError as error:
    raise errors.UserError(
      f'{reader} has no tokenizer yet: {str(error).rstrip(".")}. Train '
      "one first (the config's docstring says which), or give its directory: "
      f'{field} DIR.'
    ) from error
  if loaded.spec.family != 'tokenizer':
    raise errors.UserError(
      f'{name} is a {loaded.spec.family}, and {reader} needs a tokenizer; give '
      f'another {field}'
    )
  return loaded
