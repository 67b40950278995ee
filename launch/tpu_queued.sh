#!/usr/bin/env bash
# A TPU by queued resource: create it, wait for it, delete it.
#
#   export TPU_NAME=my-tpu ZONE=us-east5-b TPU_TYPE=v6e-32
#   ./launch/tpu_queued.sh [--dry-run] create|wait|delete
#
# RUNTIME   software of the VM (default v2-alpha-tpuv6e; v2-alpha-tpuv5-lite
#           for v5e, v2-alpha-tpuv5 for v5p, tpu-ubuntu2204-base for v4)
# SPOT=1    cheaper, taken away at any time; training resumes where it was
# POLL      seconds between two looks (default 60)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/cloud.sh
: "${TPU_NAME:?set TPU_NAME, the name of the TPU VM}"
place=("--zone=${ZONE:?set ZONE, such as us-east5-b}"
  ${PROJECT:+"--project=$PROJECT"})
queued=(gcloud compute tpus queued-resources)

case "${1:-}" in
  create)
    run "${queued[@]}" create "$TPU_NAME" --node-id="$TPU_NAME" \
      --accelerator-type="${TPU_TYPE:?set TPU_TYPE, such as v6e-32}" \
      --runtime-version="${RUNTIME:-v2-alpha-tpuv6e}" \
      "${place[@]}" ${SPOT:+--spot}
    ;;
  wait)
    look=("${queued[@]}" describe "$TPU_NAME" "${place[@]}"
      '--format=value(state.state)')
    if [[ -n "$DRY_RUN" ]]; then run "${look[@]}"; exit 0; fi
    while true; do
      state="$("${look[@]}")"
      echo "$(date -u +%H:%M:%S) $TPU_NAME: $state"
      case "$state" in
        ACTIVE) exit 0 ;;
        FAILED|SUSPENDED|SUSPENDING)
          echo "launch: $state does not become ACTIVE; delete and create" \
            "again: the work directory keeps the progress" >&2
          exit 1 ;;
      esac
      sleep "${POLL:-60}"
    done
    ;;
  delete)
    run "${queued[@]}" delete "$TPU_NAME" "${place[@]}" --force --quiet
    ;;
  *)
    echo "usage: tpu_queued.sh [--dry-run] create|wait|delete" >&2
    exit 2
    ;;
esac
