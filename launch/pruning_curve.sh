#!/usr/bin/env bash
# The curve of accuracy against tokens: trains a small ViT on drawings, learns
# DiffRate's rates for four budgets, fine-tunes with ToMe, with DiffRate and with
# random pruning inside, and measures all of them beside what is pruned off the
# shelf. About 40 minutes on 1 CPU core. Ends with a table and a picture,
# DIR/pruning_curve.png. Run it again after an interruption.
#
#   ./launch/pruning_curve.sh [DIR]      (runs/pruning)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
ensure_venv demo,viz

out="${1:-runs/pruning}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
train() {
  local config="$1" name="$2"
  shift 2
  echo "== $name"
  tokpress train "configs/$config.py" --workdir "$out/$name" "$@"
}
train vit_scenes vit_scenes
host="$out/vit_scenes"
runs=("$host")
tune() {
  train vit_scenes_tome "$@" --train.init-from "$host"
  runs+=("$out/$1")
}
tune none_tuned --task.model.plan.method "" --task.model.plan.flops None
# Rates of fewer FLOPs start from those of more.
from=()
for share in 0.875 0.75 0.5 0.4; do
  rates="$out/diffrate_$share"
  train vit_scenes_diffrate "diffrate_$share" --task.classifier "$host" \
    --task.flops "$share" ${from[@]+"${from[@]}"}
  from=(--train.init-from "$rates")
  runs+=("$rates")
  tune "diffrate_tuned_$share" --task.plan-from "$rates"
  for method in tome random; do
    tune "${method}_tuned_$share" --task.model.plan.method "$method" \
      --task.model.plan.flops "$share"
  done
done

echo "== report"
tokpress report "${runs[@]}" --out "$out" --test-images 2048
