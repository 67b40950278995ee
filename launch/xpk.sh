#!/usr/bin/env bash
# One tokpress command as a workload on a GKE cluster made by xpk.
#
#   CLUSTER=my-cluster WORKLOAD=run-a ZONE=us-east5-b TPU_TYPE=v6e-256 \
#     ./launch/xpk.sh [--dry-run] train configs/x.py --workdir gs://bucket/a
#
# xpk lays this directory over BASE_IMAGE. The command is one line: xpk cuts a
# longer one at the first line break. Exit code 75 (preempted) starts it again.
#
# NUM_SLICES    default 1
# BASE_IMAGE    default python:3.11
# MAX_RESTARTS  default 50
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/cloud.sh
: "${CLUSTER:?set CLUSTER, the name of the xpk cluster}"
: "${WORKLOAD:?set WORKLOAD, a name for this run}"
: "${TPU_TYPE:?set TPU_TYPE, such as v6e-256}"
: "${1:?give a tokpress command, such as: train configs/x.py --workdir gs://...}"
place=("--zone=${ZONE:?set ZONE, such as us-east5-b}"
  ${PROJECT:+"--project=$PROJECT"})

install='python -m pip install -q -c constraints.txt ".[tpu,demo]"'
run xpk workload create --cluster="$CLUSTER" --workload="$WORKLOAD" \
  "${place[@]}" --tpu-type="$TPU_TYPE" --num-slices="${NUM_SLICES:-1}" \
  --base-docker-image="${BASE_IMAGE:-python:3.11}" --script-dir=. \
  --max-restarts="${MAX_RESTARTS:-50}" --restart-on-exit-codes=75 \
  --command="$install && python -m tokpress_jax $(quote "$@")"
