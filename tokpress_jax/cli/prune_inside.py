"""`tokpress prune` inside a ViT: what a plan leaves, and what it saves."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import inference, models
from tokpress_jax.cli import common, pictures, prune_plan
from tokpress_jax.cli.prune_flags import Flags
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.types import Loaded, OneHot

_FORMULA = 'sum over layers of 4 N C^2 + 2 N^2 C + 2 M C m'


def run(
  flags: Flags, classes: dict[str, Any], files: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Shows one pruner inside a ViT.

  Args:
    flags: of the command.
    classes: name to class, one.
    files: images that can be read.

  Returns:
    All numbers.
  """
  from tokpress_jax.models import counts

  ((name, cls),) = classes.items()
  model = models.image_tower(common.load(flags.model, 'model'))
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
    'pruner': name,
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
  lines = _lines(report, layers)
  print('\n'.join(lines))
  report['pictures'] = _draw(flags, model, files, found, layers, lines)
  print(', '.join(report['pictures']))
  return report


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

  common.told(
    'compiling the model with all tokens and pruned; the first time this takes '
    'a while'
  )
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
  report: dict[str, Any], layers: Sequence[tuple[int, int]]
) -> list[str]:
  """The report as text."""
  inner, outer = zip(*layers, strict=True)
  join = lambda numbers: ' '.join(map(str, numbers))
  flops, seconds = report['flops'], report['seconds']
  where = [site for site, _ in report['plan']]
  shown = where if len(where) < 4 else [where[0], '...', where[-1]]
  lines = [
    f'{report["pruner"]} at {", ".join(shown)}',
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
      f'({seconds["ratio"]:.2f} times as fast); batch {seconds["batch_size"]}, '
      f'{seconds["dtype"]}, {seconds["device"]}, median of '
      f'{seconds["repeats"]} calls, '
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
  from tokpress_jax.viz import pruning

  config = model.module.config
  cell = pictures.cell_of(flags.cell, config.grid)
  reductions, sites = found[0][0][1].reductions, found[0][0][1].sites
  picks = pruning.pick_panels(len(reductions), flags.panels)
  captions = ['image']
  for n in picks:
    place = sites[n - 1].removesuffix('.after_attention').replace('_', ' ')
    count = reductions[n - 1].index.shape[1]
    captions.append(f'after {place}: {count} tokens')
  rows = []
  for file, (out, row) in zip(files, found, strict=True):
    image = pictures.seen(file, config, flags.fit, cell)
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
  if not pictures.is_picture(flags.out):
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
    pictures.write(where, sheet)
  return [str(where) for where, _ in parts]
