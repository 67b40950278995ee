"""Every test runs on 8 CPU devices, with implicit rank promotion an error.

Warnings are errors too (setup.cfg). Compiled programs are cached between runs,
in `.cache/jax` unless JAX_COMPILATION_CACHE_DIR says otherwise.
"""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
# Compiling is most of the time: LLVM's optimisation is left out.
_FLAGS = {
  'xla_force_host_platform_device_count': '8',
  'xla_backend_optimization_level': '0',
  'xla_llvm_disable_expensive_passes': 'true',
}
_given = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = ' '.join(
  [_given, *(f'--{k}={v}' for k, v in _FLAGS.items() if k not in _given)]
).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


_tests_since_looked = 0


@pytest.fixture(autouse=True)
def _few_memory_maps():
  """Drops compiled programs before their memory maps run out.

  Each holds several, of which Linux gives a process 65,530; LLVM crashes at the
  next. One file may hold a thousand tests, so that it is asked among them.
  """
  yield
  global _tests_since_looked
  _tests_since_looked += 1
  maps = pathlib.Path('/proc/self/maps')
  if _tests_since_looked < 10 or not maps.exists():
    return
  _tests_since_looked = 0
  if len(maps.read_bytes().splitlines()) > 25_000:
    jax.clear_caches()
