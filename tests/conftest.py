"""Every test runs on 8 CPU devices, with implicit rank promotion an error.

Warnings are errors too (setup.cfg). Compiled programs are cached between runs,
in `.cache/jax` unless JAX_COMPILATION_CACHE_DIR says otherwise.
"""

import contextlib
import ctypes
import gc
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
# Compiling is most of the time: LLVM's optimisation is left out, and XLA's new
# way to write loops, which takes a small program twice as long.
_FLAGS = {
  'xla_force_host_platform_device_count': '8',
  'xla_backend_optimization_level': '0',
  'xla_llvm_disable_expensive_passes': 'true',
  'xla_cpu_use_fusion_emitters': 'false',
}
_given = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = ' '.join(
  [_given, *(f'--{k}={v}' for k, v in _FLAGS.items() if k not in _given)]
).strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


_MAPS, _PAGES = 25_000, 4 << 30 >> 12  # 4 GB
_tests_since_looked = 0


@pytest.fixture(autouse=True)
def _few_programs():
  """Drops compiled programs before their memory runs out.

  Each holds several memory maps, of which Linux gives a process 65,530; LLVM
  crashes at the next. One file may hold a thousand tests, so that it is asked
  among them.
  """
  yield
  global _tests_since_looked
  _tests_since_looked += 1
  own = pathlib.Path('/proc/self')
  if _tests_since_looked < 10 or not own.exists():
    return
  _tests_since_looked = 0
  maps = len((own / 'maps').read_bytes().splitlines())
  resident = int((own / 'statm').read_text().split()[1])
  if maps > _MAPS or resident > _PAGES:
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(AttributeError):  # Not glibc.
      # What was freed goes back to the system, several gigabytes of it.
      ctypes.CDLL(None).malloc_trim(0)
