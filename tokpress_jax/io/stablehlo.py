"""Models as StableHLO files, which run without this library's code.

Each program is one `<name>.stablehlo`, written by `jax.export` with its weights
inside, for fixed batch size and several platforms; `programs.json` lists their
inputs and outputs. `jax.export.deserialize(bytes).call(...)` runs one.

Dimension letters: B batch, N tokens, Q codes per token, H rows, W columns, C
channels, V classes.
"""

import importlib.util
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import types
from tokpress_jax.errors import UserError

INDEX = 'programs.json'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def export_programs(
  loaded: types.Loaded,
  out_dir: str | os.PathLike[str],
  *,
  batch_size: int = 1,
  sampler: Any = None,
  platforms: Sequence[str] = PLATFORMS,
) -> list[str]:
  """Writes a model's programs.

  A tokenizer has `encode` (images float32 [B, H, W, C] in [-1, 1] to codes
  int32 [B, N, Q]) and `decode` (codes and lengths int32 [B] to images); a
  generator `sample` (labels int32 [B] and a seed uint32 [] to images); a
  compressor `apply` (what its `inputs` says to tokens [B, K, F]); any other
  model `apply` (images to logits [B, V]).

  Args:
    loaded: The model.
    out_dir: Where the files go.
    batch_size: B.
    sampler: Of a generator: its `generators.sampling.Sampler`.
    platforms: Platforms that the files run on.

  Returns:
    The names of the programs.
  """
  _check_flatbuffers()
  out = pathlib.Path(out_dir)
  out.mkdir(parents=True, exist_ok=True)
  index = {}
  programs = _programs(loaded, batch_size, sampler)
  for name, (function, arguments) in programs.items():
    exported = jax.export.export(jax.jit(function), platforms=platforms)(
      *arguments.values()
    )
    (out / f'{name}.stablehlo').write_bytes(exported.serialize())
    index[name] = {
      'inputs': {
        key: _describe(aval)
        for key, aval in zip(arguments, exported.in_avals, strict=True)
      },
      'outputs': [_describe(aval) for aval in exported.out_avals],
      'platforms': list(exported.platforms),
    }
  (out / INDEX).write_text(json.dumps(index, indent=2) + '\n')
  return list(programs)


def load_programs(
  directory: str | os.PathLike[str],
) -> dict[str, Callable[..., Any]]:
  """Reads the programs of a directory.

  Returns:
    Name -> a function of arrays.

  Raises:
    UserError: There are none.
  """
  path = pathlib.Path(directory)
  if not (path / INDEX).is_file():
    raise UserError(
      f'{path} has no {INDEX}; `tokpress export MODEL DIR --stablehlo` writes '
      'one.'
    )
  _check_flatbuffers()
  names = json.loads((path / INDEX).read_text())
  return {
    name: jax.export.deserialize(
      bytearray((path / f'{name}.stablehlo').read_bytes())
    ).call
    for name in names
  }


def _programs(
  loaded: types.Loaded, batch: int, sampler: Any
) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
  """Returns name -> (function, its arguments' shapes by name)."""
  shape = jax.ShapeDtypeStruct
  config = loaded.module.config
  if loaded.spec.family == 'generator':
    from tokpress_jax import generators

    def sample(labels: jax.Array, seed: jax.Array) -> jax.Array:
      out = generators.sample(
        loaded, labels, rng=jax.random.key(seed), sampler=sampler
      )
      drawn = out.codes if out.images is None else out.images
      assert drawn is not None  # A generator of classes draws codes.
      return drawn

    return {
      'sample': (
        sample,
        {
          'labels': shape((batch,), jnp.int32),
          'seed': shape((), jnp.uint32),
        },
      )
    }
  if loaded.spec.family == 'compressor':
    reads = {
      name: shape((batch, *sizes), jnp.float32)
      for name, sizes in loaded.inputs.items()
    }
    return {'apply': (lambda *given: loaded(*given), reads)}
  side = config.image_size
  images = shape((batch, side, side, config.channels), jnp.float32)
  if loaded.spec.family != 'tokenizer':
    return {'apply': (lambda x: loaded(x).logits, {'images': images})}
  if config.continuous or config.condition_shape:
    raise UserError(
      'only tokenizers whose decoder reads codes and nothing else are written '
      'as StableHLO; this one is continuous or reads a text'
    )
  encode = lambda x: loaded.encode(x).codes
  codes = jax.eval_shape(encode, images)
  return {
    'encode': (encode, {'images': images}),
    'decode': (
      lambda codes, length: loaded.decode_codes(codes, length=length),
      {
        'codes': shape(codes.shape, codes.dtype),
        'length': shape((batch,), jnp.int32),
      },
    ),
  }


def _check_flatbuffers() -> None:
  if importlib.util.find_spec('flatbuffers') is None:
    raise UserError(
      'StableHLO files need the flatbuffers package: pip install '
      "'tokpress_jax[stablehlo]'."
    )


def _describe(aval: Any) -> dict[str, Any]:
  return {'shape': list(map(int, aval.shape)), 'dtype': str(aval.dtype)}
