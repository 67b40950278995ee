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
_flags = os.environ.get('XLA_FLAGS', '')
if 'host_platform_device_count' not in _flags:
  os.environ['XLA_FLAGS'] = (
    f'{_flags} --xla_force_host_platform_device_count=8'.strip()
  )

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
