#!/usr/bin/env bash
# From a fresh machine to pictures: makes .venv, installs, trains two tokenizers,
# a generator on the tokens of each and a small classifier on 1,797 scanned
# digits, then samples, prunes and measures them. At most 15 minutes on 2 CPU
# cores. Ends with tables and the path of a page. Run it again after an
# interruption: what is trained is not trained again.
#
#   ./launch/quickstart.sh [DIR]      (runs/quickstart)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
ensure_venv demo,viz

out="${1:-runs/quickstart}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
train() {
  local name="$1"
  shift
  echo "== $name"
  tokpress train "configs/${name}_digits.py" --workdir "$out/$name" "$@"
}
train one_d
train multi_scale
train var --task.tokenizer "$out/multi_scale"
train next_token --task.tokenizer "$out/one_d"
train vit

echo "== report"
tokpress report "$out"/{one_d,multi_scale,var,next_token,vit} \
  --out "$out" --top-p 0.95 --guidance 1.0
