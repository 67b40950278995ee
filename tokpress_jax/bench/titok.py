"""Encoding and decoding of TiTok, beside an official checkout.

Weights are redrawn: time does not depend on them. Decoding is split into the
transformer and the VQGAN's decoder, which paints (`pixels`); the transformer's
time is the difference. Each part stands beside the peak of its library,
measured in the same run on the part's largest matmul or on 3x3 convolutions.
Operations are those of the definition, so that a convolution with fewer
products may be above the peak.

The peer is the faster of eager and `torch.compile`, under inference mode, with
our weights. Ours and the peer's calls alternate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import inference, released, types
from tokpress_jax.bench import harness, official_titok, peaks, torch_peer
from tokpress_jax.bench.flops import count_flops
from tokpress_jax.bench.weights import redraw
from tokpress_jax.errors import UserError
from tokpress_jax.tokenizers import TiTokConfig, titok_keys

# Which library's peak a part is compared with.
_PEAKS = {'encode': 'matmul', 'transformer': 'matmul', 'pixels': 'conv'}


def run(
  *,
  model: str = 'titok-l32',
  batch: int = 1,
  peer: str | None = None,
  threads: int | None = None,
  repeats: int = 3,
) -> list[harness.Row]:
  """Times encoding and decoding in float32.

  Args:
    model: a released name whose decoder paints through MaskGIT's VQGAN:
      titok-l32, titok-b64, titok-s128.
    batch: images of a call.
    peer: path of a checkout of bytedance/1d-tokenizer.
    threads: of the peer on a CPU; all cores if None.
    repeats: timed calls of each.

  Returns:
    A row for encoding, decoding, and its two parts; with a peer, with its times
    and the ratio, and the largest difference of the images over their
    deviation, and whether the codes are equal.

  Raises:
    UserError: the model is another, or the peer cannot be imported.
  """
  row = released.RELEASED.get(model)
  config = row.make_config() if row and row.kind == 'titok' else None
  if config is None or config.vqgan is None:
    raise UserError(
      f'model is one of titok-l32, titok-b64 and titok-s128, got {model!r}'
    )
  return compare(
    model, config, batch=batch, peer=peer, threads=threads, repeats=repeats
  )


def compare(
  title: str,
  config: TiTokConfig,
  *,
  batch: int,
  peer: str | None = None,
  threads: int | None = None,
  repeats: int = 3,
) -> list[harness.Row]:
  """Times a tokenizer of any size; see `run`."""
  variables = redraw(titok_keys.expected(config), seed=0)
  loaded = types.Loaded(
    config.build(),
    jax.tree.map(jnp.asarray, variables),
    types.Spec(name=title, family='tokenizer', config=config),
  )
  loaded = inference.for_inference(loaded, dtype=jnp.float32)
  rng = np.random.default_rng(0)
  side, vqgan = config.image_size, config.vqgan
  assert vqgan is not None
  images = rng.uniform(size=(batch, side, side, config.channels))
  codes = rng.integers(config.codebook_size, size=(batch, config.tokens))
  grid = (batch, config.grid, config.grid, vqgan.quantizer.dim)
  arguments: dict[str, np.ndarray] = {
    'encode': images.astype(np.float32),
    'decode': codes,
    'pixels': rng.standard_normal(grid, np.float32),
  }
  paint = lambda m: m.painter.decoder
  functions: dict[str, Callable[..., Any]] = {
    'encode': lambda m, x: m.encode(2 * x - 1).codes[..., 0],
    'decode': lambda m, x: (m.decode_codes(x[..., None]) + 1) / 2,
    'pixels': lambda m, x: m.module.apply(
      m.variables, x, method=lambda module, x: paint(module)(x)
    ),
  }
  ours: dict[str, harness.Call] = {}
  flops = {}
  for part, function in functions.items():
    given = jnp.asarray(arguments[part])
    program = jax.jit(function)
    ours[part] = functools.partial(program, loaded, given)
    flops[part] = count_flops(function, loaded, given)
  flops['transformer'] = flops['decode'] - flops['pixels']
  calls = {f'ours/{part}': call for part, call in ours.items()}
  official = None
  if peer is not None:
    official = official_titok.Official(peer, config, variables, threads=threads)
    for way in torch_peer.WAYS:
      for part, argument in arguments.items():
        calls[f'{way}/{part}'] = official.call(part, way, argument)
  first = harness.first_calls(calls)
  medians = harness.time_calls(*calls.values(), repeats=repeats, warmup=0)
  seconds = dict(zip(calls, medians, strict=True))
  for way in ('ours', *(torch_peer.WAYS if official else ())):
    whole = seconds[f'{way}/decode']
    seconds[f'{way}/transformer'] = whole - seconds[f'{way}/pixels']
  peak = _peaks(config, batch).measure()['ours']
  rows: list[harness.Row] = []
  for part in ('encode', 'decode', 'transformer', 'pixels'):
    spent = seconds[f'ours/{part}']
    name = f'{title}/{part}' if part in ours else f'{title}/decode/{part}'
    row: harness.Row = {'name': name, 'dtype': 'float32', 'batch': batch}
    row |= {'seconds': spent, 'flops': flops[part]}
    row['flop_per_second'] = flops[part] / spent
    if part in ours:
      row['first_seconds'] = first[f'ours/{part}']
    if part in _PEAKS:
      row['fraction_of_peak'] = row['flop_per_second'] / peak[_PEAKS[part]]
    if official is not None:
      # The way that is faster as a whole, for its parts too.
      parent = 'encode' if part == 'encode' else 'decode'
      way = min(torch_peer.WAYS, key=lambda w: seconds[f'{w}/{parent}'])
      row |= harness.versus(f'official-{way}', spent, seconds[f'{way}/{part}'])
    rows.append(row)
  if official is not None:
    theirs = {p: calls[f'eager/{p}']() for p in ('encode', 'decode')}
    mine = {p: np.asarray(calls[f'ours/{p}']()) for p in ('encode', 'decode')}
    rows[0]['codes_equal'] = float(np.mean(mine['encode'] == theirs['encode']))
    # Ours are clipped, as pictures are.
    shown = np.clip(theirs['decode'], 0, 1)
    error = np.abs(mine['decode'] - shown).max() / shown.std()
    rows[1]['image_error'] = float(error)
  return rows


def _peaks(config: TiTokConfig, batch: int) -> peaks.Peaks:
  """An MLP's product, and the convolution at half the image's side."""
  vqgan, width = config.vqgan, config.decoder.width
  assert vqgan is not None
  rows = batch * (1 + config.grid**2 + config.tokens)
  return peaks.Peaks(
    (rows, width, 4 * width),
    [(config.image_size // 2, vqgan.width)],
    batch=batch,
    dtype='float32',
  )
