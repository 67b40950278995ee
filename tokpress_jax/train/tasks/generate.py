"""Training a generator on the tokens of a trained tokenizer.

Images are tokenised on the fly, inside the step, by the frozen tokenizer; a
batch that holds codes, from a cache of tokens, needs no tokenising.

Dimension letters: B batch, N tokens, Q codes of one token, V codes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import losses, types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import GeneratorConfig
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import safetensors
from tokpress_jax.train.task import FROZEN, Batch, Program, Task, Variables
from tokpress_jax.train.tasks.tokenizer import (
  Tokenizing,
  check_images,
  load_tokenizer,
)

# Loss and accuracy of each block are reported if there are no more than these.
_SHOWN_BLOCKS = 16

# Of joint blocks: those of plain ones for both streams; the last block has no
# axis of layers.
_STREAM = '(image|text)'
_JOINT_RULES = (
  (
    rf'/layers/{_STREAM}/(attn/qkv|mlp/fc1|ada)/kernel$',
    (None, 'fsdp', 'model'),
  ),
  (rf'/layers/{_STREAM}/(attn/proj|mlp/fc2)/kernel$', (None, 'model', 'fsdp')),
  (r'/last/image/(attn/qkv|mlp/fc1|ada)/kernel$', ('fsdp', 'model')),
  (r'/last/image/(attn/proj|mlp/fc2)/kernel$', ('model', 'fsdp')),
  (r'/last/text_(kv|norm/ada)/kernel$', ('fsdp', 'model')),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorTask(Task):
  """Cross entropy of every token, teacher-forced, all blocks in one pass.

  Attributes:
    model: the generator; what the tokenizer and the data decide (codebook,
      scales or length, classes) is filled in from them.
    tokenizer: a model directory, a work directory or a hub name.
    smoothing: of the labels.
    unmasked_weight: in the loss, of tokens that a masked generator is shown;
      the masked ones have 1. Accuracies are of the masked ones.
    turns: steps in a row that each of the model's training `passes` gets, in
      turn: (8, 1, 1) in MVAR's recipe. () trains all in one pass.
  """

  sharding_rules: ClassVar[Any] = (
    *Tokenizing.sharding_rules,
    # adaLN: a third of a modulated layer's parameters.
    (r'/layers/ada/kernel$', (None, 'fsdp', 'model')),
    *_JOINT_RULES,
    # A diffusion head.
    (r'/head/layers/(ada|fc1)/kernel$', (None, 'fsdp', 'model')),
    (r'/head/layers/fc2/kernel$', (None, 'model', 'fsdp')),
  )

  model: GeneratorConfig
  tokenizer: str = ''
  smoothing: float = 0.0
  unmasked_weight: float = 0.0
  turns: tuple[int, ...] = ()

  def bind(self, info: Any) -> GeneratorTask:
    """Loads the tokenizer and fits the generator to it and to the data."""
    if not self.tokenizer:
      raise UserError(
        'a generator needs the tokenizer whose tokens it predicts; give its '
        'directory: --task.tokenizer runs/x (a run or an exported model)'
      )
    if self.model.reads_text:
      raise UserError(
        f'{type(self.model).__name__} learns from texts, and no data set here '
        'has texts. Its training pass is open to a loop of your own: '
        'model.train_inputs, model.build().apply and model.loss'
      )
    loaded = _load_tokenizer(self.tokenizer)
    if info.tokens is None:
      check_images(loaded.module.config, info)
    else:
      _check_tokens(loaded, info)
    model = self.model.fit_to(loaded.module.config)
    model = dataclasses.replace(model, num_classes=info.num_classes)
    bound = dataclasses.replace(self, model=model)
    # The loaded tokenizer is no field: configs hold plain values only.
    object.__setattr__(bound, '_loaded', loaded)
    return bound

  @property
  def loaded(self) -> types.Loaded:
    """The tokenizer; after `bind`."""
    return getattr(self, '_loaded', None) or _load_tokenizer(self.tokenizer)

  def constants(self) -> Any:
    """The tokenizer's variables."""
    return self.loaded.variables

  def init(self, rng: jax.Array) -> Variables:
    """Initialises the generator."""
    inputs, labels = self.model.example_inputs()
    return self.model.build(dtype=self.dtype).init(rng, inputs, labels)

  def programs(self) -> tuple[Program, ...]:
    """One program for all blocks, or one for each pass of `turns`.

    The passes take turns at the same parameters and share one optimiser.
    """
    if not self.turns:
      return (Program(name='generator', loss=self._loss),)
    passes = getattr(self.model, 'passes', ())
    if len(passes) != len(self.turns):
      raise UserError(
        f'task.turns={self.turns} gives turns to {len(self.turns)} passes, and '
        f'this generator trains in {len(passes)}: its scales {passes}'
      )
    names = [f'scales_{first}_{last - 1}' for first, last in passes]
    return tuple(
      Program(
        name=name,
        loss=functools.partial(self._loss, scales=scales),
        active_from=sum(self.turns[:i]),
        every=sum(self.turns),
        runs=self.turns[i],
        optimizer=names[0] if i else '',
      )
      for i, (name, scales) in enumerate(zip(names, passes, strict=True))
    )

  def _targets(
    self, variables: Variables, batch: Batch, rng: jax.Array, step: Any
  ):
    """Codes [B, N], inputs, labels [B], and the codes that count [B, N]."""
    tokenizer = self.loaded.module
    frozen = variables[FROZEN]
    codes = batch.get('codes')  # [B, N, Q]
    if codes is None:
      images = images_lib.to_float(batch['image'])
      codes = tokenizer.apply(frozen, images, method='encode').codes
    call = lambda method, *args: tokenizer.apply(frozen, *args, method=method)
    inputs = self.model.train_inputs(codes, call, rng, step=step)
    inputs = jax.lax.stop_gradient(inputs)
    labels = batch.get('label')
    if labels is None or self.model.num_classes == 0:
      labels = jnp.zeros(codes.shape[:1], jnp.int32)
    mask = _token_mask(batch, codes[..., 0])
    counted = self.model.counted(inputs)
    if counted is not None:
      mask = mask & counted
    return codes[..., 0], inputs, labels, mask

  def _loss(
    self,
    variables: Variables,
    batch: Batch,
    rng: Any,
    step: Any,
    scales: tuple[int, int] | None = None,
  ):
    """Of all blocks, or of a pass over scales [first, last).

    A pass weighs each of its tokens as the whole would (1 / N), so that the
    passes of a cycle add up to one objective (MVAR's official trainer).
    """
    rng, inputs_rng = jax.random.split(rng)
    codes, inputs, labels, mask = self._targets(
      variables, batch, inputs_rng, step
    )
    own = {k: v for k, v in variables.items() if k != FROZEN}
    module = self.model.build(dtype=self.dtype)
    options: dict[str, Any] = {} if scales is None else {'scales': scales}
    logits = cast(
      jax.Array,
      module.apply(
        own,
        inputs,
        labels,
        deterministic=False,
        rngs={'dropout': rng},
        **options,
      ),
    )
    if scales is not None:
      bounds = (0, *self.model.boundaries)
      part = slice(bounds[scales[0]], bounds[scales[1]])
      codes, mask = codes[:, part], mask[:, part]
    weight = mask.astype(jnp.float32)
    if self.unmasked_weight:
      shown = _token_mask(batch, codes) & ~mask
      weight = jnp.where(shown, self.unmasked_weight, weight)
    loss = losses.cross_entropy(
      logits, codes, mask=weight, smoothing=self.smoothing
    )
    if scales is not None:
      found = {
        'cross_entropy': loss,
        'accuracy': losses.accuracy(logits, codes, mask=mask),
      }
      return loss * (codes.shape[1] / self.model.num_tokens), found, {}
    found = {'accuracy': losses.accuracy(logits, codes, mask=mask)}
    blocks = _blocks(self.model.boundaries)
    if len(blocks) > 1:
      last = mask & blocks[self.model.num_tokens][None]
      found['loss_last'] = losses.cross_entropy(logits, codes, mask=last)
      found['accuracy_last'] = losses.accuracy(logits, codes, mask=last)
    return loss, found, {}

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Cross entropy (nats per token) and accuracy of the true class.

    Of all tokens, and of each block: `loss_5` is that of the block whose last
    token is the fifth.
    """
    codes, inputs, labels, whole = self._targets(variables, batch, rng, None)
    own = {k: v for k, v in variables.items() if k != FROZEN}
    module = self.model.build(dtype=self.dtype)
    logits = cast(jax.Array, module.apply(own, inputs, labels))
    masks = {'': whole}
    for end, block in _blocks(self.model.boundaries).items():
      masks[f'_{end}'] = whole & block[None]
    found = {}
    for name, mask in masks.items():
      weight = jnp.sum(mask).astype(jnp.float32)
      loss = losses.cross_entropy(logits, codes, mask=mask)
      right = losses.accuracy(logits, codes, mask=mask)
      found[f'loss{name}'] = (loss * weight, weight)
      found[f'accuracy{name}'] = (right * weight, weight)
    return found

  def export(self, variables: Variables) -> types.Loaded:
    """The generator with its tokenizer."""
    own = {k: v for k, v in variables.items() if k != FROZEN}
    return types.Loaded(
      module=self.model.build(),
      variables=own,
      spec=types.Spec(name='', family='generator', config=self.model),
      tokenizer=self.loaded,
    )


def _load_tokenizer(name: str) -> types.Loaded:
  return load_tokenizer(name, reader='the generator', field='--task.tokenizer')


def _check_tokens(tokenizer: types.Loaded, info: Any) -> None:
  """Raises UserError unless a cache holds all tokens of this tokenizer."""
  config, header = tokenizer.module.config, info.tokens
  header.check_tokenizer(
    f'{info.directory} (--data.data-dir)',
    config,
    safetensors.fingerprint(tokenizer.variables),
  )
  if header.tokens != config.num_tokens:
    raise UserError(
      f'{info.directory} holds {header.tokens} of the {config.num_tokens} '
      'tokens of each image, and a generator learns all; encode without '
      '--tokens'
    )


def _token_mask(batch: Batch, codes: jax.Array) -> jax.Array:
  """Which codes [B, N] count: those of images that are no padding."""
  if 'valid' not in batch:
    return jnp.ones(codes.shape, bool)
  return jnp.broadcast_to(batch['valid'][:, None], codes.shape)


def _blocks(boundaries: tuple[int, ...]) -> dict[int, np.ndarray]:
  """Which tokens, bool [N], are in each block, by the block's end.

  Empty if there are too many blocks to report each.
  """
  if len(boundaries) > _SHOWN_BLOCKS:
    return {}
  slot = np.arange(boundaries[-1])
  starts = (0, *boundaries[:-1])
  return {
    end: (slot >= start) & (slot < end)
    for start, end in zip(starts, boundaries, strict=True)
  }
