#!/usr/bin/env bash
# Accuracy against tokens of learned compressors: trains a small ViT on drawings
# and, behind it, a reader through each compressor as its paper trains it; readers
# that were trained at one number of tokens; and readers of pruned tokens. Ends
# with a table and a picture, DIR/compressors.png. Run it again after an
# interruption. STEPS=400 gives a coarser answer in half the time.
#
#   ./launch/compressors.sh [DIR]      (runs/compressors)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
ensure_venv demo,viz

out="${1:-runs/compressors}"
steps="${STEPS:-800}"
tower="${TOWER:-$out/vit_scenes}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
[ -n "${TOWER:-}" ] ||
  tokpress train configs/vit_scenes.py --workdir "$tower"

runs=()
train() { # name, method, counts, how a step counts, more options
  local name="$1" method="$2" counts="$3" counting="$4"
  shift 4
  echo "== $name"
  # shellcheck disable=SC2086
  tokpress train configs/compress_scenes.py --workdir "$out/$name" \
    --task.tower "$tower" --train.steps "$steps" --task.counting "$counting" \
    --task.model.compressor.method "$method" \
    --task.model.compressor.counts $counts "$@"
  runs+=("$out/$name")
}
train all pool 64 nested
train m3 pool "64 16 4 1" nested
train mqt mqt 64 prefix
train token_flex token_flex "64 36 16" drawn --task.weights 0.5 0.3 0.2
train llavolta neighbours 64 curriculum --task.curriculum.until \
  $((steps / 4 - 1)) $((steps / 2 - 1)) $((3 * steps / 4 - 1))
train random random "64 16 4 1" drawn
train stride stride "64 16 4 1" drawn
train mqt_whole mqt 64 nested
for n in 16 4 1; do
  train "token_packer_$n" token_packer "$n" nested
  train "pool_$n" pool "$n" nested
  train "mqt_$n" mqt "$n" nested
done
for method in quecc hicom_local hicom_global slime; do
  train "${method}_16" "$method" 16 nested
done
# What a question is worth: how often a word is in the drawing's text, with the
# word given to the compressor, and to the reader alone.
for text in question constant; do
  for method in quecc hicom_local hicom_global; do
    train "asked_${method}_$text" "$method" 4 nested --task.asks word \
      --task.model.compressor.text "$text"
  done
done
train asked_pool pool 4 nested --task.asks word

echo "== report"
tokpress report "${runs[@]}" --out "$out"
