"""`tokpress convert KIND FILE... --out FILE.safetensors`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import jax
import tyro

from tokpress_jax import released
from tokpress_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Convert released weights to a file that `load` reads.

  Attributes:
    kind: What the file is: a layout (`var`, `mvar`, `var-vqvae`, `titok`,
      `one-d-piece`, `maskgit-vqgan`, `vit`, `vit-timm`, `clip`, `siglip`,
      `mqt`, ...; sizes are read off the tensors) or one published file
      (`var-d16`, `titok-l32`, `vit-b16`, ...), whose sizes it must have;
      `tokpress list weights` shows all. Files of VAR and MVAR look alike, and
      so do those of TiTok and One-D-Piece: the kind decides which it is. Or a
      network that measures or trains models: `inception`, `lpips`, `convnext`.
    files: The checkpoint, .pth or .safetensors, with official names, or the
      `.index.json` of its shards, which lie beside it; of `lpips` there are
      two.
    out: The file to write.
    scales: Sides of the token maps, where they are not the released ones.
    layout: Of the tokens of a TiTok, where it is not that of the released ones
      with the same head: `legacy` or `token`. The tensors do not say it, and
      with the wrong one the codes are noise.
    tokenizer: Of a generator: the name or the file of its tokenizer; by default
      the one it was released with.
  """

  kind: tyro.conf.Positional[str]
  files: tyro.conf.Positional[tuple[str, ...]]
  out: str
  scales: tuple[int, ...] = ()
  layout: Literal['legacy', 'token'] | None = None
  tokenizer: str | None = None


def main(argv: Sequence[str]) -> None:
  """Writes the file and says what it holds."""
  from tokpress_jax.io import convert, export, safetensors

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress convert')
  if not flags.files:
    raise UserError(f'Name the file that {flags.kind} is in.')
  if pathlib.Path(flags.out).suffix != '.safetensors':
    raise UserError(
      f'--out {flags.out} must end in .safetensors, such as '
      f'{pathlib.Path(flags.files[0]).stem}.safetensors'
    )
  if flags.kind in released.NETWORKS:
    variables = convert.convert_network(flags.files, flags.kind)
    safetensors.save(flags.out, variables, {'name': flags.kind})
    count = sum(x.size for x in jax.tree.leaves(variables))
    print(f'{flags.out}: {flags.kind}, {count:,} numbers')
    return
  kind, row = released.kind_of(flags.kind)
  if len(flags.files) > 1:
    raise UserError(
      f'{flags.kind} is in one file; got {", ".join(flags.files)}.'
    )
  loaded = convert.convert(
    flags.files[0],
    flags.kind,
    scales=flags.scales or None,
    layout=flags.layout,
  )
  tokenizer = flags.tokenizer
  if tokenizer is None:
    tokenizer = row.tokenizer if row is not None else kind.tokenizer
  export.save_file(loaded, flags.out, tokenizer=tokenizer)
  count = sum(x.size for x in jax.tree.leaves(loaded.variables))
  print(f'{flags.out}: {flags.kind}, {count:,} parameters')
  if tokenizer:
    print(
      f'Its tokenizer is {tokenizer}: `load` looks for {tokenizer}.safetensors '
      'beside the file, then as a path, then among the released weights.'
    )
