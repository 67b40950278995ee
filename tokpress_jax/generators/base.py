"""What every generator is, and what each draws with.

generator = order, visibility, inputs, commit, head, sampler. A method is a
config and a Linen module with two entries: `__call__` gives the training logits
of all blocks in one pass, `sample_codes` draws the codes with its loop;
`drawing.sample` is the whole, from labels to images.

Dimension letters: B batch, N tokens, n of them that are drawn, L tokens of the
tokenizer's full length, Q codes of a token, V codebook entries, h rows and w
columns of a map of C channels, D features of a continuous token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import errors
from tokpress_jax.generators import condition as condition_lib
from tokpress_jax.generators import sampling

Array = jax.Array
Tokenizing = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
  """What every generator's config has; a method adds its own fields.

  Attributes:
    codebook_size: V.
    num_classes: classes of the condition; 0 for none, or where it is a text.
    class_dropout: share of conditions dropped in training, for guidance.
    width: model features.
    depth: layers.
    heads: attention heads.
    mlp_ratio: hidden features of the MLPs over the width.
    drop_path: rate of dropping a branch at the last layer in training.
    dropout: rate on each branch's output in training.
    remat: recompute activations in the backward pass (less memory).
  """

  family: ClassVar[str] = 'generator'
  # Whether the condition is a `Text`; else it is a class.
  reads_text: ClassVar[bool] = False

  codebook_size: int = 4096
  num_classes: int = 1000
  class_dropout: float = 0.1
  width: int = 1024
  depth: int = 16
  heads: int = 16
  mlp_ratio: float = 4.0
  drop_path: float = 0.0
  dropout: float = 0.0
  remat: bool = False

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Legal lengths, rising; the last is the capacity."""
    raise NotImplementedError

  @property
  def num_tokens(self) -> int:
    """L, the capacity."""
    return self.boundaries[-1]

  def check_tokenizer(self, tokenizer: Any) -> None:
    """Raises UserError unless the tokenizer's codes are what this reads.

    Args:
      tokenizer: its module, its config, or `Loaded`.
    """
    for name in ('codebook_size', 'boundaries'):
      ours, theirs = getattr(self, name), getattr(tokenizer, name)
      if ours != theirs:
        what = 'lengths' if name == 'boundaries' else name
        raise errors.UserError(
          f'the generator has {what} {ours}, its tokenizer {theirs}; load the '
          'tokenizer this generator was trained on, or take a config that fits '
          'it: config.fit_to(tokenizer.module.config)'
        )

  def check_condition(self, condition: Any) -> Any:
    """Checks what is drawn for; traced values pass unseen.

    Args:
      condition: classes, int [B]; `num_classes` is no class.

    Returns:
      It, as arrays with a leading axis B.

    Raises:
      UserError: if it is none, or says what to give.
    """
    if isinstance(condition, condition_lib.Text):
      raise errors.UserError(
        f'this generator ({type(self).__name__}) draws classes: give labels, '
        'int [B], not a text'
      )
    try:
      labels = jnp.asarray(condition)
    except TypeError:
      raise errors.UserError(
        f'labels are classes, int [B]; got {condition!r}'
      ) from None
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
      raise errors.UserError(
        f'labels are classes, int [B]; got {labels.dtype} {list(labels.shape)}'
      )
    condition_lib.check_labels(labels, self.num_classes)
    return labels

  def with_null(self, condition: Any) -> Any:
    """Appends as many unconditional rows, for guidance: 2 B rows."""
    return condition_lib.with_null(condition, self.num_classes)

  def check_sampler(self, sampler: sampling.Sampler) -> None:
    """Raises UserError if codes cannot be drawn so."""
    sampler.check(self.codebook_size)

  def fit_to(self, tokenizer: Any) -> GeneratorConfig:
    """Takes from a tokenizer's config what the codes decide.

    Args:
      tokenizer: its config.

    Returns:
      This config with the codebook's size and the layout of the codes set.

    Raises:
      UserError: if this kind of generator cannot read such a tokenizer.
    """
    raise NotImplementedError

  def train_inputs(
    self,
    codes: Array,
    tokenizer: Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Any:
    """Gives what the training pass reads, beside the labels.

    Args:
      codes: int32 [B, N, Q]; embeddings [B, N, D] of a continuous tokenizer.
      tokenizer: calls a method of the tokenizer by name, its variables bound.
      rng: a typed key, for what is masked or drawn.
      step: of training, int32, for what changes over it (RAR's orders); None
        where a model is judged.

    Returns:
      The first argument of the module's `__call__`, an array or a pytree of
      arrays with a leading axis B.
    """
    raise NotImplementedError

  def counted(self, inputs: Any) -> Array | None:
    """Which tokens the loss counts, bool [B, N]; None for all.

    Args:
      inputs: of `train_inputs`.
    """
    del inputs
    return None

  def example_inputs(self) -> tuple[Any, Any]:
    """Arguments of the module's `__call__`, for its initialisation."""
    raise NotImplementedError

  def build(self, *, dtype: Any = jnp.float32) -> nn.Module:
    """Makes the module; parameters are float32, matmuls run in `dtype`."""
    raise NotImplementedError


@struct.dataclass
class Drawn:
  """What a generator's `sample_codes` gives.

  Attributes:
    codes: int32 [B, n]; None of a generator of continuous tokens.
    totals: of a scale-wise generator, the tokenizer's summed map [B, h, w, C]
      after each scale; () of the others, whose codes say it all.
    embeddings: [B, n, D] of a generator of continuous tokens, else None.
  """

  codes: Array | None
  totals: tuple[Array, ...] = ()
  embeddings: Array | None = None


def is_forced(forced: Array | None, drawn: Array, start: int | Array) -> Array:
  """Which of the codes of slots start ... are forced; see `forced_codes`."""
  if forced is None:
    return jnp.zeros(drawn.shape, bool)
  return (
    jax.lax.dynamic_slice_in_dim(forced, start, drawn.shape[1], axis=1) >= 0
  )


def forced_codes(
  forced: Array | None, drawn: Array, start: int | Array
) -> Array:
  """Puts forced codes in place of drawn ones.

  Args:
    forced: int32 [B, L], -1 where a code is free; or None.
    drawn: int32 [B, n], the codes of slots start ... start + n - 1.
    start: the first slot; may be traced.

  Returns:
    int32 [B, n].
  """
  if forced is None:
    return drawn
  part = jax.lax.dynamic_slice_in_dim(forced, start, drawn.shape[1], axis=1)
  return jnp.where(part >= 0, part, drawn)
