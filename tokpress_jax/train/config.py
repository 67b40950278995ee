"""Configuration of the trainer: steps, optimiser, mesh.

A field marked `identity` must be the same when a run is resumed; the others
may change, and the change is logged.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal


def identity(default: Any) -> Any:
  """A dataclass field that must not change when a run is resumed."""
  return dataclasses.field(default=default, metadata={'identity': True})


def _positive(config: Any, *names: str) -> None:
  bad = [n for n in names if getattr(config, n) < 1]
  if bad:
    raise ValueError(
      f'{type(config).__name__}: '
      + ', '.join(f'{n}={getattr(config, n)}' for n in bad)
      + '; expected at least 1.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """How long, how much at once, and what is written down.

  Attributes:
    steps: Steps of the whole run, those before a resume included.
    batch_size: Images per step over all devices and microbatches.
    seed: Of the parameters, the data order and every step's randomness.
    precision: Dtype inside matmuls; parameters and statistics are float32.
    accumulate: Microbatches per step.
    ema_decay: Decay of the averaged parameters, reached by
      `min(decay, (1 + step) / (10 + step))`; None keeps no average.
    freeze: Regex over parameter names; what it matches is not trained, nor are
      statistics of such names (a codebook's averages) moved.
    init_from: Directory of an exported model or of a run to start from.
    init_regex: Variables (`params/...`, `codebook/...`) taken from it.
    log_every: Steps between lines of metrics.
    eval_every: Steps between evaluations; 0 evaluates after the last step only.
    eval_batches: Batches per evaluation; None takes the whole split.
    checkpoint_every: Steps between checkpoints; the last step is always saved.
    keep: Checkpoints kept.
    writers: Metric writers beside `metrics.jsonl`.
  """

  steps: int = 1000
  batch_size: int = identity(64)
  seed: int = identity(0)
  precision: Literal['float32', 'bfloat16'] = 'float32'
  accumulate: int = 1
  ema_decay: float | None = identity(None)
  freeze: str | None = identity(None)
  init_from: str | None = None
  init_regex: str = ''
  log_every: int = 10
  eval_every: int = 0
  eval_batches: int | None = None
  checkpoint_every: int = 1000
  keep: int = 3
  writers: tuple[Literal['tensorboard', 'wandb'], ...] = ()

  def __post_init__(self):
    _positive(
      self,
      'steps',
      'batch_size',
      'accumulate',
      'log_every',
      'checkpoint_every',
      'keep',
    )
    if self.ema_decay is not None and not 0 < self.ema_decay < 1:
      raise ValueError(
        f'train.ema_decay is {self.ema_decay}; expected a number between 0 '
        'and 1 such as 0.999, or None.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """The chain: clip, optimiser, weight decay, multipliers, schedule.

  Attributes:
    name: The optimiser; `sgd` takes `b1` as its momentum.
    learning_rate: The peak.
    schedule: After the warm-up `warmup-cosine` falls to `final_scale`,
      `warmup-hold-linear` holds the peak and then falls in a line, `constant`
      stays.
    warmup_steps: Steps from 0 to the peak, in all schedules.
    warmup_scale: First learning rate, as a fraction of the peak; by default
      what one step of the warm-up adds.
    hold: Of `warmup-hold-linear`: fraction of the steps after the warm-up that
      have the peak.
    decay_steps: Step at which the decay ends; None is the run's last step.
    final_scale: Last learning rate, as a fraction of the peak.
    b1: First moment's decay.
    b2: Second moment's decay.
    eps: Adam's epsilon.
    weight_decay: Times the learning rate, as in AdamW.
    weight_decay_end: Where half a cosine takes it until the run's last step;
      None keeps it.
    decay_mask: Regex of the parameters that are decayed.
    clip_norm: Largest norm of a program's gradient; None does not clip.
    multipliers: Ordered `(regex, factor)` of the learning rate; first match.
    groups: Overrides `(group, field, value)` of the numbers above, such as
      `('discriminator', 'learning_rate', 1e-4)`.
  """

  name: Literal['adamw', 'lion', 'sgd'] = identity('adamw')
  learning_rate: float = 1e-3
  schedule: Literal['warmup-cosine', 'warmup-hold-linear', 'constant'] = (
    'warmup-cosine'
  )
  warmup_steps: int = 0
  warmup_scale: float | None = None
  hold: float = 0.05
  decay_steps: int | None = None
  final_scale: float = 0.0
  b1: float = identity(0.9)
  b2: float = identity(0.95)
  eps: float = identity(1e-8)
  weight_decay: float = identity(0.0)
  weight_decay_end: float | None = identity(None)
  decay_mask: str = identity('kernel$')
  clip_norm: float | None = identity(1.0)
  multipliers: tuple[tuple[str, float], ...] = identity(())
  groups: tuple[tuple[str, str, float], ...] = ()

  def __post_init__(self):
    scale = self.warmup_scale
    if not 0 <= self.hold < 1 or (scale is not None and not 0 <= scale <= 1):
      raise ValueError(
        f'optim.hold is {self.hold} and optim.warmup_scale {scale}; expected '
        'fractions: hold below 1, and a warmup_scale up to 1 or None.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Devices as a grid, and the rule for what no sharding rule matches.

  Attributes:
    data: Copies of the model; -1 takes the devices that are left.
    fsdp: Devices over which one copy's parameters and batch are spread.
    model: Devices over which single matrices are spread by sharding rules.
    fsdp_min_size: Arrays with fewer elements stay whole.
    max_unsharded: Largest fraction of bytes that may stay whole while `fsdp`
      or `model` is above 1.
    guard_min_mb: Models with fewer MB than this pass that guard.
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1
  fsdp_min_size: int = 2**14
  max_unsharded: float = 0.05
  guard_min_mb: float = 64.0
