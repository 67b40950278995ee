#!/usr/bin/env bash
# Several processes on this machine that act as the hosts of a pod: the way to
# try a multi-host run without one. CPU devices, collectives by gloo.
#
#   ./launch/local_pod.sh [--dry-run] train configs/x.py --workdir runs/pod
#
# PROCESSES  default 2
# DEVICES    forced CPU devices per process (default 4)
# PORT       of the coordinator (default: a free one)
#
# Output of process i goes to the terminal for i = 0, else to a file beside
# the others, whose folder is printed. SIGTERM reaches every process; the exit
# code is the first that is not 0, and a failed process ends the others.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/cloud.sh
: "${1:?give a tokpress command, such as: train configs/x.py --workdir runs/a}"
processes="${PROCESSES:-2}"
python="$(command -v "${TOKPRESS_VENV:-.venv}/bin/python" || command -v python3)"
free='import socket; s = socket.socket(); s.bind(("localhost", 0))
print(s.getsockname()[1])'
port="${PORT:-$([[ -n "$DRY_RUN" ]] && echo 12345 || "$python" -c "$free")}"
flags="--xla_force_host_platform_device_count=${DEVICES:-4}"

command=(env JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
  "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flags"
  "TOKPRESS_COORDINATOR=localhost:$port" "TOKPRESS_PROCESSES=$processes")
if [[ -n "$DRY_RUN" ]]; then
  for ((i = 0; i < processes; i++)); do
    quote "${command[@]}" "TOKPRESS_PROCESS=$i" python -m tokpress_jax "$@"
  done
  exit 0
fi

logs="$(mktemp -d)"
echo "launch: $processes processes, logs of the others in $logs" >&2
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
start() {
  exec "${command[@]}" "TOKPRESS_PROCESS=$1" "$python" -m tokpress_jax "${@:2}"
}
for ((i = 0; i < processes; i++)); do
  if [[ "$i" == 0 ]]; then
    start "$i" "$@" &
  else
    start "$i" "$@" > "$logs/$i.log" 2>&1 &
  fi
  pids+=($!)
done
code=0
ended=()
while [[ "${#ended[@]}" -lt "$processes" ]]; do
  sleep 0.2
  for i in "${!pids[@]}"; do
    [[ -z "${ended[$i]:-}" ]] && ! kill -0 "${pids[$i]}" 2>/dev/null || continue
    one=0
    wait "${pids[$i]}" || one=$?
    ended[i]=1
    [[ "$one" != 0 && "$code" == 0 ]] || continue
    code="$one"
    echo "launch: process $i ended with exit code $code" >&2
    [[ "$i" == 0 ]] || tail -n 20 "$logs/$i.log" >&2
    # The others would wait for it; after a preemption they stop by themselves.
    [[ "$code" == 75 ]] || kill -TERM "${pids[@]}" 2>/dev/null || true
  done
done
exit "$code"
