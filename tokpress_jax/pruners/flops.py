"""FLOPs of a pruned transformer, by one stated formula.

Per layer, with N tokens in the attention and M in the MLP, width C and m hidden
features, a multiply-add counted once as papers on pruning do:

  4 N C^2 + 2 N^2 C + g M C m,   g = 2, or 3 for a gated MLP.

Papers on LLaMA, whose MLP is gated, print both forms: `gated` says which, and
what is compared must be of one. Norms, activations, embeddings and the head are
not counted; nor is the pruner.
"""

from __future__ import annotations

from collections.abc import Sequence


def layer_flops(
  attention_tokens: int,
  mlp_tokens: int,
  *,
  width: int,
  hidden: int,
  gated: bool = False,
) -> int:
  """FLOPs of one layer.

  Args:
    attention_tokens: N.
    mlp_tokens: M; fewer than N if tokens leave between attention and MLP.
    width: C.
    hidden: m.
    gated: whether the MLP has a gate.

  Returns:
    Multiply-adds of one row.
  """
  n = attention_tokens
  attention = 4 * n * width**2 + 2 * n**2 * width
  return attention + (3 if gated else 2) * mlp_tokens * width * hidden


def model_flops(
  counts: Sequence[tuple[int, int]],
  *,
  width: int,
  hidden: int,
  gated: bool = False,
) -> int:
  """FLOPs of a stack.

  Args:
    counts: (attention tokens, MLP tokens) of each layer. The predicted speed-up
      is the ratio of two such sums.
    width: C.
    hidden: m.
    gated: whether the MLPs have a gate.

  Returns:
    Multiply-adds of one row.
  """
  return sum(
    layer_flops(n, m, width=width, hidden=hidden, gated=gated)
    for n, m in counts
  )


def equal_tokens(counts: Sequence[tuple[int, int]]) -> float:
  """Tokens that enter a layer, mean over layers.

  Papers' "equal tokens". A layer counts with what its attention reads, also if
  it prunes inside: SparseVLM's row of 192, which prunes inside layers 2, 6 and
  15, has 202.75 so, and 191 by the comment in its code, which counts two layers
  with all tokens. Merged and recycled tokens count if they are in `counts`.
  """
  return sum(n for n, _ in counts) / len(counts)
