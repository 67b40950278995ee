"""`tokpress prune --model vit-b16 --pruner tome --r 13 --image FILE`."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from tokpress_jax import inference
from tokpress_jax.cli import common, prune_plan
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.pruners.find import find_pruner
from tokpress_jax.types import Loaded, OneHot

_FORMULA = 'sum over layers of 4 N C^2 + 2 N^2 C + 2 M C m'
_SIDE = 336  # of a picture in the sheet, at most, in pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Show what a pruner does to images inside a vision transformer.

  Writes a picture of the tokens that are left, layer by layer: merged patches
  have their mean colour and one outline, dropped ones are faded. Prints tokens
  in each layer, FLOPs, time, and the class before and after.

  Attributes:
    model: A ViT, DeiT, CLIP or SigLIP: released weights by name (vit-b16), a
      file of `tokpress convert`, a model or work directory, or a hub name.
    image: Image files, or folders of them.
    pruner: A name of `tokpress list pruners`, or one of your own,
      path/to/file.py:Class.
    r: Tokens that leave in each layer: one number, or one for each layer.
      Where there are fewer (a matching merges at most a half) as many as can.
    inflect: Bends a single --r over the layers: 0 constant, -1 falling from 2r
      to 0, 1 rising.
    keep: The fraction of tokens that a site keeps; several for several sites.
    tokens: The number of patches that a site keeps, instead of a fraction;
      several are for the layers in order.
    left: Of diffrate: patches left before it merges them to --tokens.
    sites: Where the pruner acts (embed, block_0.after_attention, ...,
      tower_out); by default tower_out for methods before a language model, else
      after the attention of each layer for --r and several numbers (from the
      first layer on), or of a block in the middle.
    set: Other fields of the pruner, as name=value (metric=features).
    seed: For pruners that draw.
    fit: How an image becomes square: crop, pad or resize.
    batch_size: Images in one call, of which the time is measured.
    repeats: Timed calls with and without the pruner in turn, whose medians are
      taken; 0 measures no time.
    dtype: Of the matrix products.
    names: A file that names the classes: one on each line, or a config.json of
      transformers.
    out: The picture; without .png at its end a folder, with one for each image.
    panels: Pictures of an image at most, after evenly spaced sites.
    cell: Side of one picture in pixels; by default up to 336.
    json: A file for all numbers.
  """

  model: str
  image: tuple[str, ...]
  pruner: str = 'tome'
  r: tuple[int, ...] = ()
  inflect: float = 0.0
  keep: tuple[float, ...] = ()
  tokens: tuple[int, ...] = ()
  left: tuple[int, ...] = ()
  sites: tuple[str, ...] = ()
  set: tuple[str, ...] = ()
  seed: int = 0
  fit: Literal['crop', 'pad', 'resize'] = 'crop'
  batch_size: int = 1
  repeats: int = 5
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  names: str | None = None
  out: str = 'pruned.png'
  panels: int = 4
  cell: int | None = None
  json: str | None = None


def main(argv: Sequence[str]) -> None:
  """Writes the pictures and prints the numbers."""
  from tokpress_jax.models import counts

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress prune')
  for name in ('batch_size', 'panels'):
    if getattr(flags, name) < 1:
      raise UserError(f'--{name.replace("_", "-")} is at least 1')
  cls = find_pruner(flags.pruner)
  files = common.find_images(flags.image)
  model = common.load(flags.model, 'model')
  model = inference.for_inference(model, dtype=jnp.dtype(flags.dtype))
  config = model.module.config
  names = _read_names(flags.names, config.classes)
  plan = prune_plan.make_plan(
    cls,
    prune_plan.Amounts(
      r=flags.r,
      inflect=flags.inflect,
      keep=flags.keep,
      tokens=flags.tokens,
      left=flags.left,
    ),
    depth=config.depth,
    patches=config.grid**2,
    sites=flags.sites,
    settings=prune_plan.read_settings(cls, flags.set),
  )
  layers = counts.token_counts(config, plan)
  report: dict[str, Any] = {
    'model': model.spec.name,
    'source': model.spec.source,
    'pruner': flags.pruner,
    'plan': [[site, repr(pruner)] for site, pruner in plan],
    'layers': [{'attention': n, 'mlp': m} for n, m in layers],
    'flops': _flops(config, plan),
  }
  found, report['seconds'] = _run(flags, model, plan, files)
  report['images'] = [
    {'file': str(file), **_compare(out, row, names)}
    for file, (out, row) in zip(files, found, strict=True)
  ]
  sizes = [config.num_tokens]
  sizes += [r.index.shape[1] for r in found[0][0][1].reductions]
  report['slots'] = sizes
  # The order in which pruners act is that of the layers.
  acted = sorted(plan, key=lambda p: found[0][0][1].sites.index(p[0]))
  report['clipped'] = prune_plan.clipped(tuple(acted), sizes)
  lines = _lines(flags, report, layers)
  print('\n'.join(lines))
  report['pictures'] = _draw(flags, model, files, found, layers, lines)
  print(', '.join(report['pictures']))
  if flags.json:
    path = pathlib.Path(flags.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + '\n')


def _read_names(file: str | None, classes: int) -> list[str]:
  """Names of the classes, or none."""
  if file is None:
    return []
  path = pathlib.Path(file)
  if not path.is_file():
    raise UserError(f'There is no file {file!r} of names.')
  names = path.read_text().splitlines()
  if path.suffix == '.json':
    table = json.loads(path.read_text()).get('id2label', {})
    names = [table[key] for key in sorted(table, key=int)]
  if len(names) != classes:
    raise UserError(
      f'{file} names {len(names)} classes; this model has {classes}. Give one '
      'name on each line, or a config.json with id2label.'
    )
  return names


def _flops(config: Any, plan: prune_plan.Plan) -> dict[str, Any]:
  """FLOPs of one image, and how they are counted."""
  from tokpress_jax.models import counts

  unpruned, pruned = (
    counts.model_flops(config),
    counts.model_flops(config, plan),
  )
  return {
    'formula': _FORMULA,
    'C': config.width,
    'm': round(config.mlp_ratio * config.width),
    'unpruned': unpruned,
    'pruned': pruned,
    'ratio': pruned / unpruned,
  }


def _run(
  flags: Flags,
  model: Loaded,
  plan: prune_plan.Plan,
  files: Sequence[pathlib.Path],
) -> tuple[list[tuple[Any, int]], dict[str, Any] | None]:
  """Runs all images, and times the first batch.

  Returns:
    Of each image, ((unpruned, pruned) outputs of its batch, row); the times.
  """
  from tokpress_jax.bench import harness

  size = flags.batch_size
  squares, _ = common.read_squares(files, model.module.config, flags.fit)

  @jax.jit
  def whole(model, x):
    return model(images_lib.to_float(x), plan=())

  @jax.jit
  def pruned(model, x, rng):
    return model(images_lib.to_float(x), plan=plan, rng=rng)

  key = jax.random.key(flags.seed)
  found: list[tuple[Any, int]] = []
  seconds = None
  for start in range(0, len(squares), size):
    # The last batch is filled up: one program of each.
    at = np.minimum(np.arange(start, start + size), len(squares) - 1)
    x = jnp.asarray(squares[at])
    rng = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(at))
    if start == 0 and flags.repeats > 0:
      before, after = harness.time_calls(
        functools.partial(whole, model, x),
        functools.partial(pruned, model, x, rng),
        repeats=flags.repeats,
      )
      seconds = {
        'unpruned': before,
        'pruned': after,
        'ratio': before / after,
        'batch_size': size,
        'dtype': flags.dtype,
        'repeats': flags.repeats,
        **harness.machine(),
      }
    out = jax.device_get((whole(model, x), pruned(model, x, rng)))
    found += [(out, row) for row in range(min(size, len(squares) - start))]
  return found, seconds


def _compare(out: Any, row: int, names: Sequence[str]) -> dict[str, Any]:
  """What pruning changed for one image."""
  from tokpress_jax.viz import pruning

  whole, pruned = out
  a, b = (o.pooled[row].astype(np.float64) for o in out)
  facts: dict[str, Any] = {
    'tokens': int(pruned.tokens.valid[row].sum()),
    'cosine': float(a @ b / np.sqrt(a @ a * (b @ b))),
  }
  for key, o in (('before', whole), ('after', pruned)):
    logits = o.logits[row].astype(np.float64)
    if logits.size:
      share = np.exp(logits - logits.max())
      best = int(logits.argmax())
      facts[key] = {
        'class': best,
        'probability': float(share[best] / share.sum()),
        **({'name': names[best]} if names else {}),
      }
  if not all(isinstance(r.assign, OneHot) for r in pruned.reductions):
    shares = pruning.follow_patches(
      pruned.reductions, row=row, leading=pruned.tokens.num_protected
    ).shares
    facts['largest_share'] = float(shares.mean())
  return facts


def _lines(
  flags: Flags, report: dict[str, Any], layers: Sequence[tuple[int, int]]
) -> list[str]:
  """The report as text."""
  inner, outer = zip(*layers, strict=True)
  join = lambda numbers: ' '.join(map(str, numbers))
  flops, seconds = report['flops'], report['seconds']
  where = [site for site, _ in report['plan']]
  shown = where if len(where) < 4 else [where[0], '...', where[-1]]
  lines = [
    f'{flags.pruner} at {", ".join(shown)}',
    f'tokens in the attention of each layer: {join(inner)}',
    f'tokens in its MLP: {join(outer)}; {report["slots"][-1]} at the end',
    f'FLOPs of one image: {flops["unpruned"] / 1e9:.4g} G with all tokens, '
    f'{flops["pruned"] / 1e9:.4g} G pruned ({flops["ratio"]:.0%}); multiply-'
    f'adds, {_FORMULA} (N tokens in the attention, M in the MLP, '
    f'C = {flops["C"]}, m = {flops["m"]})',
  ]
  if seconds is not None:
    ms = [f'{seconds[k] * 1e3:.3g} ms' for k in ('unpruned', 'pruned')]
    lines.append(
      f'time: {ms[0]} with all tokens, {ms[1]} pruned '
      f'({seconds["ratio"]:.2f} times as fast); batch {flags.batch_size}, '
      f'{flags.dtype}, {seconds["device"]}, median of {flags.repeats} calls, '
      'alternating'
    )
  if report['clipped']:
    lines.append(
      'clipped, since no more can leave there: ' + ', '.join(report['clipped'])
    )
  for facts in report['images']:
    parts = []
    if 'before' in facts:
      before, after = (
        f'class {f["class"]}{" " + f["name"] if "name" in f else ""} '
        f'({f["probability"]:.1%})'
        for f in (facts['before'], facts['after'])
      )
      parts = [f'{before} with all tokens, {after} after pruning']
    if set(where) == {'tower_out'}:
      parts = [
        f'{facts["tokens"]} tokens are left for what reads the tower (the '
        'class token stays as it is)'
      ]
    else:
      parts.append(
        f'cosine of the pooled features before and after {facts["cosine"]:.3f}'
      )
    if 'largest_share' in facts:
      parts.append(
        'a soft reduction: each patch is drawn with the token that takes most '
        f'of it, {facts["largest_share"]:.0%} on average'
      )
    name = pathlib.Path(facts['file']).name
    lines.append(f'{name}: {"; ".join(parts)}')
  return lines


def _draw(
  flags: Flags,
  model: Loaded,
  files: Sequence[pathlib.Path],
  found: Sequence[tuple[Any, int]],
  layers: Sequence[tuple[int, int]],
  lines: Sequence[str],
) -> list[str]:
  """Writes a sheet of all images, or a folder with one of each."""
  from tokpress_jax import viz
  from tokpress_jax.viz import pruning

  config = model.module.config
  cell = flags.cell or config.grid * max(1, _SIDE // config.grid)
  reductions, sites = found[0][0][1].reductions, found[0][0][1].sites
  picks = pruning.pick_panels(len(reductions), flags.panels)
  captions = ['image']
  for n in picks:
    place = sites[n - 1].removesuffix('.after_attention').replace('_', ' ')
    count = reductions[n - 1].index.shape[1]
    captions.append(f'after {place}: {count} tokens')
  rows = []
  for file, (out, row) in zip(files, found, strict=True):
    image = _picture(file, config, flags.fit, cell)
    panels = pruning.token_panels(
      image,
      out[1].reductions,
      picks,
      grid=(config.grid, config.grid),
      row=row,
      leading=config.num_special,
    )
    rows.append([image, *panels])
  path = pathlib.Path(flags.out)
  general = lines[: len(lines) - len(files)]
  parts = [(path, slice(None))]
  if path.suffix.lower() != '.png':
    parts = [
      (path / f'{i}_{file.stem}.png', slice(i, i + 1))
      for i, file in enumerate(files)
    ]
  for where, part in parts:
    some = files[part]
    sheet = pruning.pruned_sheet(
      rows[part],
      captions,
      layers,
      lines=[*general[3:], *lines[len(general) :][part]],
      row_labels=[file.stem for file in some] if len(some) > 1 else (),
      cell=cell,
    )
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(viz.png(sheet))
  return [str(where) for where, _ in parts]


def _picture(
  file: pathlib.Path, config: Any, fit: images_lib.Policy, cell: int
) -> np.ndarray:
  """What the model sees of an image, as fine as the picture: [S, S, 3]."""
  seen = config.grid * config.patch  # A rim may be left out.
  pixels = images_lib.load_image(file, channels=config.channels)
  side = max(cell, round(cell * config.image_size / seen))
  if config.image_size < 64:  # Few pixels are shown as pixels.
    small, _ = images_lib.fit_image(pixels, config.image_size, policy=fit)
    at = np.arange(cell) * seen // cell
    square = small[0][at][:, at]
  else:
    square = images_lib.fit_image(pixels, side, policy=fit)[0][0]
  square = square[:cell, :cell]
  return np.broadcast_to(square, (*square.shape[:2], 3)).copy()
