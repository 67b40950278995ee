#!/usr/bin/env bash
# Copy this checkout to every worker of a TPU VM or pod slice and install it.
#
#   TPU_NAME=my-tpu ZONE=us-east5-b ./launch/tpu_setup.sh [--dry-run]
#
# Only committed files travel. Run it again after each commit: the environment
# on the workers is reused as long as the dependencies stay the same.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/cloud.sh
: "${TPU_NAME:?set TPU_NAME, the name of the TPU VM}"
place=("--zone=${ZONE:?set ZONE, such as us-east5-b}"
  ${PROJECT:+"--project=$PROJECT"})

archive="${TMPDIR:-/tmp}/tokpress_jax.tar.gz"
run git archive --format=tar.gz --output="$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" \
  "$TPU_NAME:tokpress_jax.tar.gz" --worker=all "${place[@]}"

# TPU images carry Python 3.10; uv brings a newer one into the home directory.
read -r -d '' remote <<'REMOTE' || true
set -e; mkdir -p tokpress_jax; tar -xzf tokpress_jax.tar.gz -C tokpress_jax;
cd tokpress_jax; export PATH="$HOME/.local/bin:$PATH";
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
python3 -m pip install --quiet --user uv; uv python install --quiet 3.11;
export PYTHON="$(uv python find 3.11)"; fi;
source launch/venv.sh; ensure_venv tpu,demo,viz;
python -c 'import tokpress_jax, jax; print("ready: jax", jax.__version__)'
REMOTE
run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker=all "${place[@]}" \
  --command="${remote//$'\n'/ }"
