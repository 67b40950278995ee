#!/usr/bin/env bash
# All tests, from a fresh clone: makes .venv, installs, runs pytest on the CPU.
# Arguments go to pytest: ./launch/test.sh tests/quantize -k fsq
#
# TOKPRESS_TEST_WORKERS  processes (default 2; 0 runs in this one)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
ensure_venv test,demo,viz

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# Compiled programs are kept between runs and shared between the processes.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"

# -ra lists every skipped test with its reason; the durations say where the
# time goes.
exec python -m pytest -q -ra --durations=30 --durations-min=1 \
  -n "${TOKPRESS_TEST_WORKERS:-2}" --dist worksteal "$@"
