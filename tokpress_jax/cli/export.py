"""`tokpress export RUN DIR`: a model directory, and StableHLO programs."""

import dataclasses
import pathlib
from collections.abc import Sequence

import tyro

from tokpress_jax import workdir
from tokpress_jax.errors import UserError
from tokpress_jax.io import export, hub
from tokpress_jax.io import load as load_lib
from tokpress_jax.io import stablehlo as stablehlo_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Write a run's model as a directory that `load` and others can read.

  Attributes:
    source: A work directory; or a model, for its StableHLO programs alone.
    out: The directory to write.
    step: The checkpoint; the newest valid one by default.
    licence: Of the weights, for the model card, such as CC-BY-4.0.
    stablehlo: Also write programs that run without this library.
    batch_size: Of those programs.
    platforms: Of those programs.
  """

  source: tyro.conf.Positional[str]
  out: tyro.conf.Positional[str]
  step: int | None = None
  licence: str = ''
  stablehlo: bool = False
  batch_size: int = 1
  platforms: tuple[str, ...] = stablehlo_lib.PLATFORMS


def main(argv: Sequence[str]) -> None:
  """Writes the directory."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress export')
  out = pathlib.Path(flags.out)
  if workdir.is_workdir(hub.resolve(flags.source)):
    replaces = (out / load_lib.MODEL).exists()
    export.export_run(flags.source, out, step=flags.step, licence=flags.licence)
    if replaces:
      print(f'Replaced the model that was in {out}.')
    loaded = load_lib.load(out)
  elif not flags.stablehlo:
    raise UserError(
      f'{flags.source} is a model already; expected a work directory. With '
      '--stablehlo its programs are written.'
    )
  else:
    loaded = load_lib.load(flags.source)
  if flags.stablehlo:
    names = stablehlo_lib.export_programs(
      loaded, out, batch_size=flags.batch_size, platforms=flags.platforms
    )
    print(f'programs: {", ".join(names)}')
  print(out)
