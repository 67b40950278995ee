"""Slow, obvious NumPy versions of what the pruners do."""

import numpy as np


def tome_match(metric, r, *, protected=()):
  """ToMe's matching of one row, after the official code's description.

  Args:
    metric: [N, E].
    r: pairs to merge.
    protected: leading tokens (class, distillation) that take no part.

  Returns:
    groups: a list of lists of source slots in the order of the output, the
    kept token of each group first.
  """
  n = len(metric)
  r = min(r, (n - len(protected)) // 2)
  unit = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
  a, b = list(range(0, n, 2)), list(range(1, n, 2))
  best = {}
  for i in a:
    if i in protected:
      best[i] = (-np.inf, None)
      continue
    found = [(float(unit[i] @ unit[j]), j) for j in b if j not in protected]
    best[i] = max(found) if found else (-np.inf, None)
  closest_first = sorted(a, key=lambda i: -best[i][0])
  sources = closest_first[:r]
  rest = sorted(i for i in a if i not in sources)
  kept = rest + b
  if 1 in protected:  # [class, distillation, rest of A, B]
    kept = [rest[0], b[0], *rest[1:], *b[1:]]
  return [[j] + [i for i in sources if best[i][1] == j] for j in kept]


def weighted_mean(x, mass, groups):
  """Mean of each group of rows of x, weighted by mass."""
  return np.stack(
    [(x[g] * mass[g][:, None]).sum(0) / mass[g].sum() for g in groups]
  )


def groups_of(reduction, row):
  """The groups of a one-hot reduction, representative first, by slot."""
  target = np.asarray(reduction.assign.target)[row]
  index = np.asarray(reduction.index)[row]
  valid = np.asarray(reduction.valid)[row]
  groups = []
  for k in np.flatnonzero(valid):
    members = [int(n) for n in np.flatnonzero(target == k)]
    lead = int(index[k])
    assert lead in members
    groups.append([lead] + [n for n in members if n != lead])
  return groups
