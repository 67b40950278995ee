"""Pruners before a language model: what choosing costs beside what it saves.

Each method keeps K of N visual tokens, given the signals that it reads, drawn
at random; `bench.compressor_cases` is the table. Tokens have the width of a 7B
language model, 4096; learned compressors and ZOO-Prune take a tower's 1024, and
the projector is part of them (beside them it stands alone, as `projector`).
What cannot keep K keeps the nearest number that it can (AIM, DTD, DyCoke,
MustDrop, downsampling, most learned ones): `budget` was asked for, `kept` is
true. N tokens are one image; or a thumbnail and crops (2,880: four of 24 x 24;
576: three of 12 x 12); or frames of 12 x 12.

`seconds` are of the plan and the moves. `prefill` is the time that the language
model (32 layers, width 4096, MLPs of 11008, gated) needs for the kept tokens
and 64 of text at the rate of its largest matrix product, and `share` the
method's part of that. `gram` is the time over that of one product of all pairs
of N tokens, all N x N of them. Both products alternate with a method's calls,
so that a busy machine slows all. `bound` is the least share that the method's
own matrix products allow, at that rate. `meets` is 'share' where the share is
at most 3%; else 'gram' where the bound says that it cannot be and the time is
at most 1.5 products of all pairs; else 'no'. What is drawn at random has no say
in the time, but where a method works until enough is covered (SCOPE, CATP).

`peak_bytes` are what a call holds beside its arguments: its result and XLA's
scratch, by the compiler's account; `token_bytes` are the N tokens. A library of
matrix products may take more (on a CPU up to the size of the weights).

With a trained ViT or CLIP (`--model RUN`) it measures instead what is left of
the images of the run's own data, at the same shares of its patches, or at
others (`--shares 1/2 1/4`); see `report.measure_choosing`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax.bench import choosing, harness
from tokpress_jax.bench.compressor_cases import CASES, Case, find
from tokpress_jax.bench.compressor_inputs import SCENES, WORDS, Inputs
from tokpress_jax.bench.flops import count_flops
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import flops, similarities
from tokpress_jax.types import Tokens

# The two rows of budgets: LLaVA-1.5's and LLaVA-NeXT's.
KEPT = {576: (192, 128, 64), 2880: (640, 320, 160)}
LAYERS, WIDTH, HIDDEN = 32, 4096, 11008
# A method is to take no more of a prefill, or no more products of all pairs.
SHARE, GRAM = 0.03, 1.5
_SLOW = 10.0  # Seconds; a slower call is timed once.
# Those that leave at most K of the tokens of one image, or MustDrop nearly so.
METHODS = (
  'divprune',
  'vtc_cls',
  'hiprune',
  'visionzip',
  'prumerge',
  'prumerge_plus',
  'recoverable',
  'scope',
  'dart',
  'vispruner',
  'idpruner',
  'todre',
  'catp',
  'token_corr',
  'aim',
  'mustdrop',
  'random',
  'stride',
)


def run(
  *,
  methods: str | Sequence[str] | None = None,
  slots: int | Sequence[int] | None = None,
  width: int = WIDTH,
  tower: int = 1024,
  dtype: str = 'float32',
  batch: int = 1,
  repeats: int = 3,
  measure_memory: int = 1,
  model: str | None = None,
  text_model: str | None = None,
  dataset: str | None = None,
  shares: float | str | Sequence[float | str] | None = None,
  layer: int | None = None,
  train_images: int | None = None,
  test_images: int | None = None,
  picture: str | None = None,
) -> list[harness.Row]:
  """Times the methods at their published budgets, or measures what is left.

  Args:
    methods: names of the table; all if None.
    slots: N, 576 or 2880; both if None.
    width: of the tokens, and of what learned compressors give.
    tower: width of what learned compressors take.
    dtype: of the tokens and the weights.
    batch: rows of a call.
    repeats: timed calls of each; one of over ten seconds is timed once.
    measure_memory: 0 leaves out the peaks of memory.
    model: a trained ViT or CLIP; nothing is timed then, and the options below
      are read, whose defaults and meanings `bench.choosing.left_of` has.
    text_model: the text tower that belongs to a ViT.
    dataset: other images than the run's.
    shares: of the patches that are kept.
    layer: whose output is read.
    train_images: for the linear probe.
    test_images: that are measured.
    picture: a PNG to draw the differences to random pruning in.

  Returns:
    A row for each method and number of tokens.

  Raises:
    UserError: if there are no budgets for a number of tokens, a method is
      unknown, or options do not go together.
  """
  given = (methods,) if isinstance(methods, str) else methods
  of_model: dict[str, Any] = {
    'text_model': text_model,
    'dataset': dataset,
    'shares': shares,
    'layer': layer,
    'train_images': train_images,
    'test_images': test_images,
    'picture': picture,
  }
  of_model = {name: x for name, x in of_model.items() if x is not None}
  if model is not None:
    if slots is not None:
      raise UserError(
        "--slots are of what is timed; a model's tokens are its patches, of "
        'which --shares are kept'
      )
    return choosing.left_of(model, given, everything=METHODS, **of_model)
  if of_model:
    raise UserError(f'{", ".join(of_model)} need a --model')
  cases = list(CASES.values()) if given is None else [find(n) for n in given]
  slots = (slots,) if isinstance(slots, int) else tuple(slots or KEPT)
  if unknown := sorted(set(slots) - set(KEPT)):
    raise UserError(f'slots are among {sorted(KEPT)}, got {unknown}')
  rows = []
  for number in slots:
    inputs = Inputs(
      scene=SCENES[number], batch=batch, width=width, tower=tower, dtype=dtype
    )
    rows += compare(
      cases,
      inputs,
      KEPT[number],
      repeats=repeats,
      measure_memory=bool(measure_memory),
    )
  return rows


def compare(
  cases: Sequence[Case],
  inputs: Inputs,
  budgets: Sequence[int],
  *,
  repeats: int,
  measure_memory: bool = False,
) -> list[harness.Row]:
  """Times methods at some budgets of one number of tokens; see `run`."""
  pairs = jax.jit(lambda x: similarities.products(x, x))
  gram = functools.partial(pairs, inputs.features)
  product, operations = _product(inputs, max(budgets) + WORDS)
  harness.first_calls({'gram': gram, 'product': product})
  rows = []
  for case in cases:
    made = _make(case, inputs, budgets)
    calls = {row['name']: call for row, call in made}
    first = harness.first_calls(calls)
    times: dict[str, tuple[float, ...]] = {}
    for slow in (False, True):
      names = [n for n, spent in first.items() if (spent > _SLOW) == slow]
      if not names:
        continue
      *medians, of_gram, of_product = harness.time_calls(
        *(calls[name] for name in names),
        gram,
        product,
        repeats=1 if slow else repeats,
        warmup=0,
      )
      for name, spent in zip(names, medians, strict=True):
        times[name] = spent, spent / of_gram, operations / of_product
    for row, _ in made:
      work = row.pop('work')
      spent, in_grams, rate = times[row['name']]
      prefill = _prefill_flops(row['kept'], inputs.batch) / rate
      row |= {'seconds': spent, 'prefill': prefill, 'share': spent / prefill}
      row |= {'gram': in_grams, 'bound': work / rate / prefill}
      row['meets'] = verdict(row)
      if measure_memory:
        row['peak_bytes'] = row.pop('peak_bytes')  # The last columns.
        row['token_bytes'] = inputs.features.nbytes
      else:
        del row['peak_bytes']
      rows.append(row)
  return rows


def verdict(row: harness.Row) -> str:
  """Whether a method is as cheap as it should be: 'share', 'gram' or 'no'."""
  if row['share'] <= SHARE:
    return 'share'
  return 'gram' if row['bound'] > SHARE and row['gram'] <= GRAM else 'no'


def summary(rows: Sequence[harness.Row]) -> str:
  """A line that says which rows are too dear; '' if nothing was timed."""
  timed = [row for row in rows if 'meets' in row]
  if not timed:
    return ''
  count = lambda kind: sum(row['meets'] == kind for row in timed)
  dear = [
    f'{row["name"]} ({row["share"]:.1%}, {row["gram"]:.2g} products)'
    for row in timed
    if row['meets'] == 'no'
  ]
  return (
    f'{count("share")} of {len(timed)} rows take at most {SHARE:.0%} of the '
    f'prefill, {count("gram")} more at most {GRAM} products of all pairs where '
    f'their operations do not allow it; neither: {", ".join(dear) or "none"}.'
  )


def _make(
  case: Case, inputs: Inputs, budgets: Sequence[int]
) -> list[tuple[harness.Row, harness.Call]]:
  """Compiles a method at each number of tokens that it can keep."""
  made = {}
  for budget in budgets:
    function, given = case.program(budget, inputs)
    given = jax.block_until_ready(given)
    kept = _kept(jax.eval_shape(function, *given), inputs.batch)
    if kept in made:  # The same legal number is nearest.
      continue
    compiled: Any = jax.jit(function).lower(*given).compile()
    held = compiled.memory_analysis()
    row: harness.Row = {
      'name': f'{case.name}/{kept} of {inputs.scene.slots}',
      'dtype': inputs.dtype,
      'batch': inputs.batch,
      'budget': budget,
      'kept': kept,
      'work': count_flops(function, *given),
      'peak_bytes': held.temp_size_in_bytes + held.output_size_in_bytes,
    }
    made[kept] = row, functools.partial(compiled, *given)
  return list(made.values())


def _product(inputs: Inputs, tokens: int) -> tuple[harness.Call, int]:
  """The language model's largest matrix product, and its operations."""
  rows = -(-inputs.batch * tokens // 256) * 256  # Slower at odd numbers.
  draw = lambda *shape: jax.random.normal(
    jax.random.key(0), shape, inputs.dtype
  )
  call = functools.partial(
    jax.jit(jnp.matmul), draw(rows, WIDTH), draw(WIDTH, HIDDEN)
  )
  return call, 2 * rows * WIDTH * HIDDEN


def _kept(out: Any, batch: int) -> int:
  """Tokens of a row of a program's result, whose rows may be crops."""
  x = out.features if isinstance(out, Tokens) else out
  return x.shape[0] * x.shape[1] // batch


def _prefill_flops(kept: int, batch: int) -> int:
  """Operations of the language model over what is kept and the words."""
  tokens = kept + WORDS
  layers = [(tokens, tokens)] * LAYERS
  work = flops.model_flops(layers, width=WIDTH, hidden=HIDDEN, gated=True)
  return 2 * batch * work
