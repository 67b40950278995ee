#!/usr/bin/env bash
# Contact sheets: what each method before a language model keeps of the same ten
# photographs and of eight drawings, without and with a text. Trains two small
# CLIPs first, unless they are there. Ends with DIR/pruners_kept.png and
# DIR/pruners_kept_text.png.
#
#   ./launch/pruners_kept.sh [DIR]      (runs/kept)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
ensure_venv demo,viz

out="${1:-runs/kept}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
for name in clip_photos clip_scenes; do
  echo "== $name"
  tokpress train "configs/$name.py" --workdir "$out/$name"
done

echo "== images and what to look for"
python - "$out" <<'PYTHON'
import pathlib
import shutil
import sys

from PIL import Image

from tokpress_jax.data.builders import photos, scenes

out = pathlib.Path(sys.argv[1])
shown = 'astronaut camera chelsea china coffee coins flower hubble_deep_field'
for kind in ('photos', 'drawings'):
  (out / kind).mkdir(parents=True, exist_ok=True)
texts = []
files = photos.whole()
for name in f'{shown} motorcycle_left rocket'.split():
  # Folders are read in the order of names.
  shutil.copy(files[name], out / 'photos' / files[name].name)
  texts.append(photos.TEXTS[name])
(out / 'photos.txt').write_text('\n'.join(texts) + '\n')
texts = []
for number in range(8):
  seed = 9_000_000 + number
  shapes, _ = scenes.plan_scene(3 + number % 3, seed=seed)
  picture = Image.fromarray(scenes.draw_scene(len(shapes), seed=seed))
  picture.save(out / 'drawings' / f'{number}.png')
  texts.append(f'{shapes[0].colour} {shapes[0].kind}')
(out / 'drawings.txt').write_text('\n'.join(texts) + '\n')
PYTHON

echo "== sheets"
sheet() {
  local run="$1" images="$2" picture="$3"
  shift 3
  mapfile -t texts < "$out/$images.txt"
  tokpress prune --model "$out/$run" --image "$out/$images" \
    --text "${texts[@]}" --out "$out/$picture.png" "$@"
}
sheet clip_photos photos pruners_kept --pruner all --keep 0.25 --cell 96
sheet clip_scenes drawings pruners_kept_text --keep 0.125 --cell 96 \
  --pruner dart catp idpruner recoverable divprune visionzip random

# 256 colours: a third of the bytes.
python - "$out"/pruners_kept*.png <<'PYTHON'
import pathlib
import sys

from PIL import Image

from tokpress_jax import viz

for path in map(pathlib.Path, sys.argv[1:]):
  with Image.open(path) as sheet:
    small = viz.small_png(sheet.convert('RGBA'))
  path.write_bytes(small)
  print(path, len(small), 'bytes')
PYTHON
