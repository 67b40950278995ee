"""Makes selectors.npz: the image tokens that AngelSlim's pruners keep.

  python tests/golden/make_selectors.py CHECKOUT

CHECKOUT is Tencent/AngelSlim, commit 67394ce55f6b6cfae702575fbc3c7a05c13fdd74
(Apache-2.0), of which the functions divprune, scope_pruning, dart_pruning,
vispruner_pruning, hiprune_pruning and idpruner of
angelslim/compressor/token_compressor/algorithm are run as they are, one sample
at a time, on the inputs of selectors_case.py, with a LLaVA's configuration. The
learned scores that idpruner loads are given. PyTorch 2.13.0 on a CPU, float32.
"""

import argparse
import importlib
import pathlib
import sys

import numpy as np
import selectors_case as case
import torch

ROOT = 'angelslim/compressor'
TOKEN = 9


def context(module, arrays, i):
  """What the functions read of sample i."""
  image = torch.tensor(case.is_image())
  maps = {}
  for name, key in (('vit_q', 'queries'), ('vit_k', 'keys')):
    layers = torch.tensor(arrays[key][i])
    maps[name] = module.LayerTensorMap({n: layers[n][None] for n in range(2)})
  embeds = torch.tensor(arrays['embeds'][i])[None]
  keys = torch.tensor(arrays['llm_keys'][i])[None]
  return module.PruningContext(
    input_ids=torch.where(image, TOKEN, 1)[None],
    inputs_embeds=embeds,
    feature_map=embeds,
    llm_k=module.LayerTensorMap({0: keys}),
    model_config={'model_type': 'llava', 'image_token_index': TOKEN},
    **maps,
  )


def main():
  """Runs every function on every sample and ratio."""
  parser = argparse.ArgumentParser()
  parser.add_argument('checkout', type=pathlib.Path)
  sys.path.insert(0, str(parser.parse_args().checkout / ROOT))
  load = lambda name: importlib.import_module(f'token_compressor.{name}')
  arrays, base = case.inputs(), load('base.context')
  idp = load('algorithm.idpruner')
  methods = {
    'divprune': (load('algorithm.divprune').divprune, {}),
    'scope': (load('algorithm.scope').scope_pruning, {'layer_idx': 0}),
    'dart': (
      load('algorithm.dart').dart_pruning,
      {
        'layer_idx': 0,
        'pivot_image_token': case.IMAGE_PIVOTS,
        'pivot_text_token': case.TEXT_PIVOTS,
      },
    ),
    'vispruner': (
      load('algorithm.vispruner').vispruner_pruning,
      {'layer_idx': 0},
    ),
    'hiprune': (
      load('algorithm.hiprune').hiprune_pruning,
      {'object_layer': 0, 'last_vit_layer': 1, 'alpha': case.ALPHA},
    ),
    'idpruner': (
      idp.idpruner,
      {'selector_path': '', 'mmr_lambda': case.BALANCE},
    ),
    'idpruner_by_four': (
      idp.idpruner,
      {'selector_path': '', 'mmr_lambda': case.BALANCE, 'parallel_k': 4},
    ),
  }
  kept = {}
  for name, (prune, options) in methods.items():
    rows = np.zeros((len(case.RATIOS), case.ROWS, case.SLOTS), bool)
    for r, i in np.ndindex(rows.shape[:2]):
      scores = torch.tensor(arrays['importance'][i])[None]
      idp.get_universal_selector_scores = lambda scores=scores, **_: scores
      where = context(base, arrays, i)
      rows[r, i] = prune(where, ratio=case.RATIOS[r], **options)[0].numpy()
    assert rows[..., ~case.is_image()].all()
    number = rows[..., case.is_image()].sum(axis=-1)
    assert (number == np.array(case.KEPT)[:, None]).all(), (name, number)
    kept[name] = rows
  # Methods that agreed would show little.
  names = list(kept)
  for a, b in ((a, b) for a in names for b in names if a < b):
    assert (kept[a] != kept[b]).any(axis=-1).all(), (a, b)
  out = pathlib.Path(__file__).parent / 'selectors.npz'
  np.savez_compressed(out, **kept)
  print(f'{out}: {out.stat().st_size} bytes')


if __name__ == '__main__':
  main()
