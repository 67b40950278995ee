"""What `tokpress prune` does where: from its flags to a plan for a host."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from tokpress_jax import pruners
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.pruners import before_llm
from tokpress_jax.types import Ratio

Plan = tuple[tuple[str, Any], ...]

# Made to act in every layer, a few tokens at a time.
_EVERY_LAYER = (pruners.ToMe, pruners.PiToMe, pruners.RandomToMe)
_MERGED = 0.8  # of the patches, over all layers: 13 in each of a ViT-B/16's
_BLOCK = re.compile(r'block_(\d+)\.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amounts:
  """How much goes: at most one of r, keep and tokens.

  Attributes:
    r: tokens that leave; one number, a mean over the sites, or one per site.
    inflect: see `pruners.linear_schedule`; of a single r.
    keep: fractions of the tokens at a site that stay; one for all, or each.
    tokens: patches that stay; one number for all sites, or each.
    left: of DiffRate, patches left before it merges them to `tokens`.
  """

  r: tuple[int, ...] = ()
  inflect: float = 0.0
  keep: tuple[float, ...] = ()
  tokens: tuple[int, ...] = ()
  left: tuple[int, ...] = ()


def make_plan(
  cls: Any,
  amounts: Amounts,
  *,
  depth: int,
  patches: int,
  sites: Sequence[str] = (),
  settings: dict[str, Any] | None = None,
) -> Plan:
  """Puts a pruner at sites of a host.

  Args:
    cls: of the pruner.
    amounts: how much goes; by default ToMe, PiToMe and random ToMe merge 4/5 of
      the patches over all layers, and others keep half in the middle one.
    depth: layers of the host.
    patches: at its embedding.
    sites: where; by default 'tower_out' for methods before a language model,
      else behind the attention: of each layer for `r` and for several numbers,
      of the middle one for a single `keep` or `tokens`.
    settings: other fields of the pruner, see `read_settings`.

  Returns:
    (site, pruner) pairs; sites at which nothing goes are left out.

  Raises:
    UserError: if the amounts contradict each other or the host.
  """
  sites = sites or own_sites(cls)
  amounts = _default(cls, amounts, sites=len(sites) or depth, patches=patches)
  numbers = amounts.r or amounts.keep or amounts.tokens
  if not sites:
    single = len(numbers) == 1 and not amounts.r
    layers = range(depth) if len(numbers) == 1 else range(len(numbers))
    layers = range((depth - 1) // 2, (depth - 1) // 2 + 1) if single else layers
    if len(layers) > depth:
      raise UserError(
        f'{len(numbers)} numbers for {depth} layers; give {depth} or fewer, or '
        'one for all'
      )
    sites = [f'block_{i}.after_attention' for i in layers]
  settings = dict(settings or {})
  plan = []
  budgets = _budgets(amounts, len(sites), patches)
  for site, (budget, left) in zip(sites, budgets, strict=True):
    if budget is None:
      continue
    own = {**_of_layer(cls, site, depth), **settings}
    if left is not None:
      own['left'] = left
    try:
      plan.append((site, cls(budget=budget, **own)))
    except TypeError as error:
      raise UserError(f'{cls.__name__} cannot be made: {error}') from error
  if not plan:
    raise UserError(
      f'nothing is pruned: {_name(amounts)} {_join(numbers)} takes none of '
      f'{patches} patches away'
    )
  return tuple(plan)


def read_settings(cls: Any, words: Sequence[str]) -> dict[str, Any]:
  """Reads fields of a pruner from words such as 'metric=features'.

  Args:
    cls: of the pruner.
    words: name=value, the value a Python literal or text.

  Returns:
    Name to value.

  Raises:
    UserError: if a word has another form, or the pruner no such field.
  """
  known = [f.name for f in dataclasses.fields(cls) if f.name != 'budget']
  found = {}
  for word in words:
    name, equals, text = word.partition('=')
    if not equals:
      raise UserError(f'--set takes name=value, got {word!r}')
    if name not in known:
      raise UserError(
        f'{cls.__name__} has no field {name!r} to set. '
        f'{did_you_mean(name, known)}'
      )
    try:
      found[name] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      found[name] = text
  return found


def clipped(plan: Plan, sizes: Sequence[int]) -> list[str]:
  """Says where fewer tokens left than a pruner was asked to remove.

  Args:
    plan: (site, pruner) pairs, in the order that they acted in.
    sizes: token slots at first and after each of them.

  Returns:
    A phrase for each such site.
  """
  found = []
  for (site, pruner), before, after in zip(
    plan, sizes[:-1], sizes[1:], strict=True
  ):
    budget = getattr(pruner, 'budget', None)
    gone = before - after
    if isinstance(budget, pruners.Remove) and gone < budget.tokens:
      found.append(f'{gone} of {budget.tokens} at {site}')
  return found


def own_sites(cls: Any) -> Sequence[str]:
  """Where a method stands by its paper, if not inside the layers."""
  if cls is before_llm.MustDrop:
    return ('block_0.after_mlp',)
  behind = cls.__module__.startswith(before_llm.__name__)
  return ('tower_out',) if behind else ()


def _default(
  cls: Any, amounts: Amounts, *, sites: int, patches: int
) -> Amounts:
  """Checks what was given, and fills in what was not."""
  given = [n for n in ('r', 'keep', 'tokens') if getattr(amounts, n)]
  if len(given) > 1:
    raise UserError(
      f'{" and ".join(f"--{n}" for n in given)} say the same thing in two '
      'ways; give one of them'
    )
  if amounts.inflect and (len(amounts.r) > 1 or given not in ([], ['r'])):
    raise UserError('--inflect bends a single --r over the layers; give one')
  if amounts.left and (
    given != ['tokens'] or len(amounts.left) != len(amounts.tokens)
  ):
    raise UserError(
      '--left says how many patches are left before they merge to --tokens: '
      f'give as many numbers of each, got {len(amounts.left)} and '
      f'{len(amounts.tokens)}'
    )
  if amounts.left and 'left' not in {f.name for f in dataclasses.fields(cls)}:
    raise UserError(f'--left is of diffrate; {cls.__name__} does not prune too')
  if wrong := [n for n in amounts.r if n < 0]:
    raise UserError(f'--r {_join(wrong)}: at least 0 tokens leave a layer')
  for name in ('tokens', 'left'):
    if wrong := [n for n in getattr(amounts, name) if not 0 < n <= patches]:
      raise UserError(
        f'--{name} is {_join(wrong)}; this model has {patches} patches, so '
        f'expected 1 to {patches}.'
      )
  if given:
    return amounts
  if issubclass(cls, _EVERY_LAYER):
    mean = max(1, round(_MERGED * patches / sites))
    return dataclasses.replace(amounts, r=(mean,))
  return dataclasses.replace(amounts, keep=(0.5,))


def _budgets(
  amounts: Amounts, sites: int, patches: int
) -> list[tuple[pruners.Budget | None, int | None]]:
  """(budget, left) of each site; None where nothing goes."""
  numbers: Sequence[Any] = amounts.r or amounts.keep or amounts.tokens
  if len(numbers) not in (1, sites):
    raise UserError(
      f'--{_name(amounts)} has {len(numbers)} numbers for {sites} sites; give '
      f'one, or {sites}'
    )
  if amounts.r:
    if len(numbers) == 1:
      numbers = pruners.linear_schedule(
        numbers[0], sites, inflect=amounts.inflect
      )
    return [(pruners.Remove(tokens=n) if n else None, None) for n in numbers]
  if len(numbers) == 1:
    numbers = list(numbers) * sites
  if amounts.keep:
    return [(Ratio(ratio=x) if x != 1 else None, None) for x in numbers]
  short = [
    f'{left} for {kept}'
    for left, kept in zip(amounts.left, amounts.tokens, strict=False)
    if left < kept
  ]
  if short:
    raise UserError(
      '--left is what is left before it merges to --tokens, so not less; got '
      + ', '.join(short)
    )
  # As DiffRate's lists: numbers above what there is change nothing.
  found: list[tuple[pruners.Budget | None, int | None]] = []
  now = patches
  lefts = amounts.left or (patches,) * sites
  if len(lefts) == 1:
    lefts = lefts * sites
  for kept, left in zip(numbers, lefts, strict=True):
    left = min(left, now)
    kept = min(kept, left)
    use_left = left if amounts.left else None
    found.append((kept, use_left) if kept < now else (None, None))
    now = kept
  return found


def _of_layer(cls: Any, site: str, depth: int) -> dict[str, Any]:
  """Fields that a paper sets layer by layer, or for a tower's depth."""
  if site == 'tower_out':
    return before_llm.layers_of(cls, depth=depth)
  match = _BLOCK.match(site)
  if not (issubclass(cls, pruners.PiToMe) and match):
    return {}
  if int(match[1]) >= depth:
    return {}  # The host says that there is no such site.
  _, published = pruners.pitome_plan(0.5, depth=depth)[int(match[1])]
  return {'margin': published.margin, 'partition': published.partition}


def _name(amounts: Amounts) -> str:
  return next(n for n in ('r', 'keep', 'tokens') if getattr(amounts, n))


def _join(numbers: Sequence[Any]) -> str:
  return ' '.join(map(str, numbers))
