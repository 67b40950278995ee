#!/usr/bin/env bash
# Run one tokpress command on all workers of a TPU, again after a preemption.
#
#   TPU_NAME=my-tpu ZONE=us-east5-b ./launch/tpu_run.sh [--dry-run] \
#     train configs/var_d16_imagenet256.py --workdir gs://bucket/runs/a
#
# Exit code 75 means "state saved, start me again" (see CONTRIBUTING.md): the
# same command finds its checkpoint in --workdir, which every worker must
# reach. 255 is a lost connection and restarts too. Any other code ends the
# run. Start this from a machine that stays up (tmux, or a small VM).
#
# MAX_RESTARTS  default 50
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/cloud.sh
: "${TPU_NAME:?set TPU_NAME, the name of the TPU VM}"
: "${1:?give a tokpress command, such as: train configs/x.py --workdir gs://...}"
place=("--zone=${ZONE:?set ZONE, such as us-east5-b}"
  ${PROJECT:+"--project=$PROJECT"})

remote="cd tokpress_jax && exec .venv/bin/python -m tokpress_jax $(quote "$@")"

for ((attempt = 0; attempt <= ${MAX_RESTARTS:-50}; attempt++)); do
  code=0
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker=all "${place[@]}" \
    --command="$remote" || code=$?
  [[ "$code" == 75 || "$code" == 255 ]] || exit "$code"
  echo "launch: exit code $code, restart $((attempt + 1))" >&2
  sleep "${RESTART_DELAY:-10}"
done
exit 75
