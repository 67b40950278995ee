"""Checkpoints that are used only when they are whole.

Orbax writes them: asynchronously, each process its own shards, atomically.
What Orbax does not do is notice a flipped bit: it restores wrong numbers
without an error. So every leaf is stored with an integer checksum, computed on
the device that holds it and equal under every sharding. A step whose bytes do
not give the stored checksums, or that cannot be read, is moved aside to
`<step>.corrupt` and the step before it is used, with a warning that names both.

On disk:

  <directory>/<step>/state/     the leaves, flat, keyed by their path ('a/b/c')
  <directory>/<step>/meta/      JSON: leaves (shape, dtype, checksum), the
                                caller's meta, package versions, a CRC of these
"""

import functools
import importlib.metadata
import json
import math
import platform
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import safetensors
from tokpress_jax.train.checksum import checksums

_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


class CorruptCheckpointWarning(UserWarning):
  """A checkpoint was damaged and an older one is used instead."""


class Restored(NamedTuple):
  """What `Checkpoints.restore` found."""

  step: int
  state: Any
  meta: dict[str, Any]


class _DamagedError(Exception):
  """The bytes of a step are missing, unreadable or not what was saved."""


class Checkpoints:
  """The checkpoints of one training run.

  Every process of a run must make the same calls in the same order.

  Args:
    directory: Where the steps are. Made if it does not exist.
    keep: How many of the newest steps to keep.
    read_only: Changes nothing on disk; the directory must exist. For readers
      of a run (evaluation, export), which may go on meanwhile.
  """

  def __init__(
    self, directory: str, *, keep: int = 3, read_only: bool = False
  ) -> None:
    import orbax.checkpoint as ocp
    from etils import epath
    from orbax.checkpoint import checkpoint_managers

    if keep < 1:
      raise UserError(f'keep must be at least 1, got {keep}.')
    self._directory = epath.Path(directory).expanduser().absolute()
    self._read_only = read_only
    if read_only and not self._directory.is_dir():
      raise UserError(
        f'No checkpoints at {str(directory)!r}: there is no such directory.'
      )
    self._ocp = ocp
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep),
        create=not read_only,
      ),
      item_names=('state', 'meta'),
    )
    # Reads are local to a process, so that an error on one of them is not a
    # barrier on which the others wait: the processes compare notes afterwards.
    me = jax.process_index()
    self._reader = ocp.Checkpointer(
      ocp.PyTreeCheckpointHandler(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=me, active_processes={me}
        )
      ),
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        primary_host=me,
        active_processes={me},
        barrier_sync_key_prefix=f'reader{me}',
      ),
    )

  def steps(self) -> list[int]:
    """Returns the steps on disk, oldest first, valid or not."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    meta: Mapping[str, Any] | None = None,
    *,
    wait: bool = False,
  ) -> bool:
    """Saves `state`; returns once it is copied, while the disk is written.

    Args:
      step: The number of finished steps. A step that is on disk is kept.
      state: A pytree of arrays. Typed PRNG keys are refused: derive them from
        the seed and the step instead.
      meta: What JSON can hold, given back by `restore` (the config).
      wait: Returns only when the bytes are on disk.

    Returns:
      Whether the step was written (False if it was there already).
    """
    if self._read_only:
      raise UserError(f'{self._directory} was opened for reading only.')
    if step in self._manager.all_steps():
      return False
    leaves = _flatten(state)
    keys = [k for k, x in leaves.items() if _is_prng_key(x)]
    if keys:
      raise TypeError(
        f'Typed PRNG keys cannot be stored: {", ".join(keys)}. Fold the step '
        'into a key made from the seed, or store jax.random.key_data(key).'
      )
    sums = jax.device_get(checksums(list(leaves.values())))
    body = {
      'step': step,
      'meta': dict(meta or {}),
      'versions': versions(),
      'leaves': {
        key: [list(np.shape(leaf)), str(jnp.asarray(leaf).dtype), int(value)]
        for (key, leaf), value in zip(leaves.items(), sums, strict=True)
      },
    }
    stored = {k: x for k, x in leaves.items() if np.size(x)}
    args = self._ocp.args.Composite(
      state=self._ocp.args.StandardSave(stored),
      meta=self._ocp.args.JsonSave({**body, 'crc': _crc(body)}),
    )
    self._manager.save(step, args=args, force=True)
    if wait:
      self.wait()
    return True

  def restore(self, abstract_state: Any) -> Restored | None:
    """Restores the newest valid checkpoint onto the given shardings.

    Args:
      abstract_state: The state's tree with `jax.ShapeDtypeStruct` leaves; a
        leaf with a `sharding` is placed so, whatever it was saved from.

    Returns:
      The step, the state and the meta; None if there is no checkpoint.

    Raises:
      UserError: There are checkpoints, but of another model (every wrong leaf
        is listed), or every one of them is damaged.
    """
    wanted = _flatten(abstract_state)

    def read(step: int) -> Restored:
      body = self._body(step)
      self._check_same(step, wanted, body['leaves'])
      leaves = self._read(step, wanted, body['leaves'])
      treedef = jax.tree.structure(abstract_state)
      state = jax.tree.unflatten(treedef, [leaves[k] for k in wanted])
      return Restored(step, state, body['meta'])

    return self._newest_valid(read)

  def load(self, *prefixes: str, step: int | None = None) -> Restored | None:
    """Reads parts of the newest valid checkpoint without knowing its model.

    Args:
      *prefixes: First components of the leaves' paths, such as 'ema'; all
        leaves if none is given.
      step: A certain step instead of the newest.

    Returns:
      As `restore`, with the state as nested dicts of NumPy arrays.
    """
    if step is not None and step not in self.steps():
      raise UserError(
        f'No step {step} in {self._directory}; there are {self.steps()}.'
      )

    def read(step: int) -> Restored:
      body = self._body(step)
      stored = {
        key: row
        for key, row in body['leaves'].items()
        if not prefixes or key.split('/')[0] in prefixes
      }
      wanted = {
        key: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
        for key, (shape, dtype, _) in stored.items()
      }
      leaves = self._read(step, wanted, stored)
      return Restored(step, safetensors.unflatten(leaves), body['meta'])

    return self._newest_valid(read, None if step is None else [step])

  def wait(self) -> None:
    """Returns when everything saved so far is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then frees the background threads."""
    self._manager.wait_until_finished()
    self._reader.close()
    self._manager.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _newest_valid(
    self, read: Callable[[int], Restored], steps: list[int] | None = None
  ) -> Restored | None:
    """Calls `read` on the newest step, then on older ones if it is damaged."""
    self.wait()
    self._manager.reload()
    steps = self.steps() if steps is None else steps
    damaged: dict[int, str] = {}
    found = None
    for step in reversed(steps):
      found, reason = self._attempt(read, step)
      if found is not None:
        break
      damaged[step] = reason
    if damaged and found is None:
      reasons = '; '.join(f'step {s}: {why}' for s, why in damaged.items())
      raise UserError(
        f'No valid checkpoint in {self._directory} ({reasons}). Move the '
        'directory away to start again from step 0.'
      )
    if found is None:
      return None
    for step, reason in damaged.items():
      aside = '' if self._read_only else f'; moved to {step}.corrupt'
      warnings.warn(
        f'Checkpoint {step} in {self._directory} is damaged ({reason})'
        f'{aside}. Using step {found.step} instead.',
        CorruptCheckpointWarning,
        stacklevel=3,
      )
      if not self._read_only:
        self._move_aside(step)
    return found

  def _attempt(
    self, read: Callable[[int], Restored], step: int
  ) -> tuple[Restored | None, str]:
    found, reason = None, ''
    try:
      found = read(step)
    except _DamagedError as error:
      reason = str(error)
    if not _everywhere(found is not None):
      found, reason = None, reason or 'another process could not read it'
    return found, reason

  def _body(self, step: int) -> dict[str, Any]:
    """Reads a step's JSON and checks that it is what was written."""
    path = self._directory / str(step) / 'meta' / 'metadata'
    try:
      body = json.loads(path.read_text())
      crc = body.pop('crc')
    except (OSError, ValueError, KeyError, AttributeError) as error:
      raise _DamagedError(f'meta cannot be read: {error}') from error
    if crc != _crc(body):
      raise _DamagedError('meta does not match its checksum')
    return body

  def _check_same(
    self, step: int, wanted: dict[str, Any], stored: dict[str, Any]
  ) -> None:
    """Raises if the step is of another model, naming every difference."""
    lines = [f'  missing   {k} {w.shape}' for k, w in wanted.items()
             if k not in stored]  # fmt: skip
    lines += [f'  unknown   {k} {tuple(stored[k][0])}' for k in stored
              if k not in wanted]  # fmt: skip
    for key in wanted.keys() & stored.keys():
      ours = (tuple(wanted[key].shape), str(jnp.dtype(wanted[key].dtype)))
      theirs = (tuple(stored[key][0]), stored[key][1])
      if ours != theirs:
        lines.append(f'  different {key}: stored {theirs}, expected {ours}')
    if lines:
      raise UserError(
        f'Checkpoint {step} in {self._directory} is of another model:\n'
        + '\n'.join(sorted(lines))
        + '\nGive the config it was trained with, or another directory.'
      )

  def _read(
    self,
    step: int,
    wanted: dict[str, jax.ShapeDtypeStruct],
    stored: dict[str, Any],
  ) -> dict[str, Any]:
    """Reads leaves and compares them with their checksums.

    Args:
      step: The step to read.
      wanted: Shapes and shardings by path.
      stored: [shape, dtype, checksum] by path.

    Raises:
      _DamagedError: A leaf cannot be read or is not what was saved.
    """
    # Orbax stores no arrays of size 0; there is nothing in them to read.
    items = {k: w for k, w in wanted.items() if math.prod(w.shape)}
    args = jax.tree.map(_restore_args, items)
    path = self._directory / str(step) / 'state'
    leaves: dict[str, Any] = {}
    reason = ''
    try:
      leaves = self._reader.restore(
        path,
        self._ocp.args.PyTreeRestore(
          item=items, restore_args=args, partial_restore=True
        ),
      )
    except MemoryError:
      raise
    except Exception as error:  # Orbax raises anything down to bare Exception.
      if 'RESOURCE_EXHAUSTED' in str(error):
        raise
      first = (str(error).strip() or type(error).__name__).splitlines()[0]
      reason = f'state cannot be read: {first[:200]}'
    if not _everywhere(not reason):
      raise _DamagedError(reason or 'another process could not read it')
    sums = jax.device_get(checksums([leaves[k] for k in items]))
    bad = [k for k, s in zip(items, sums, strict=True) if s != stored[k][2]]
    if bad:
      raise _DamagedError('wrong checksum of ' + ', '.join(bad))
    for key in wanted.keys() - items.keys():
      zeros = np.zeros(wanted[key].shape, wanted[key].dtype)
      sharding = getattr(wanted[key], 'sharding', None)
      leaves[key] = jax.device_put(zeros, sharding) if sharding else zeros
    return leaves

  def _move_aside(self, step: int) -> None:
    """Renames a damaged step, so that its number can be written again."""
    if jax.process_index() == 0:
      source = self._directory / str(step)
      target = self._directory / f'{step}.corrupt'
      count = 1
      while target.exists():
        count += 1
        target = self._directory / f'{step}.corrupt{count}'
      source.rename(target)
    _everywhere(True)
    self._manager.reload()


@functools.cache
def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that made a run."""
  found = {'python': platform.python_version()}
  for name in ('tokpress_jax', *_PACKAGES):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _restore_args(wanted: jax.ShapeDtypeStruct) -> Any:
  import orbax.checkpoint as ocp

  sharding = getattr(wanted, 'sharding', None)
  if sharding is None:
    return ocp.RestoreArgs(restore_type=np.ndarray, dtype=wanted.dtype)
  return ocp.ArrayRestoreArgs(
    sharding=sharding, global_shape=wanted.shape, dtype=wanted.dtype
  )


def _flatten(tree: Any) -> dict[str, Any]:
  """Returns the leaves by path, 'params/encoder/kernel'."""
  pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in pairs
  }


def _is_prng_key(x: Any) -> bool:
  dtype = getattr(x, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _crc(body: Mapping[str, Any]) -> int:
  text = json.dumps(body, sort_keys=True)
  return zlib.crc32(text.encode())


def _everywhere(ok: bool) -> bool:
  """Returns whether `ok` holds on every process; also a barrier."""
  if jax.process_count() == 1:
    return ok
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(ok)).all())
