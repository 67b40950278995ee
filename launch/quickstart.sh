#!/usr/bin/env bash
# From a fresh machine to pictures: makes .venv, installs, trains two tokenizers
# and two generators on 1,797 scanned digits, samples, prunes, evaluates.
# About 15 minutes on 2 CPU cores. Ends with a table and the path of a page.
# Run it again after an interruption: finished parts are not repeated.
#
#   ./launch/quickstart.sh [--workdir runs/other]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
ensure_venv demo,viz

[[ "$*" == *--workdir* ]] || set -- --workdir runs/quickstart "$@"
exec python -m tokpress_jax quickstart "$@"
