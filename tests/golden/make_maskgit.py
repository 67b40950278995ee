"""Makes maskgit.npz: what the official masked generators of TiTok give.

  python tests/golden/make_maskgit.py CHECKOUT

bytedance/1d-tokenizer, commit 942a96fbdd873780179d1b78d5462911528bf8c8
(Apache-2.0), classes ImageBert and UViTBert, PyTorch 2.13.0 on a CPU, float32;
needs transformers, einops and omegaconf. Weights are redrawn (redraw.py);
codes, labels and noise are drawn from seed 1 (maskgit_case.py). The sampler's
uniform draws are those whose Gumbel noise is the given one.
"""

import pathlib
import sys
import types

import numpy as np
import torch
from maskgit_case import NETWORKS, RULES, SAMPLING, SMALL, inputs
from redraw import check_sensitive, pack, redraw

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4


def official(network):
  from modeling.maskgit import ImageBert, UViTBert
  from omegaconf import OmegaConf

  c = SMALL
  config = OmegaConf.create(
    {
      'model': {
        'vq_model': {'codebook_size': c['codes']},
        'generator': {
          'condition_num_classes': c['classes'],
          'image_seq_len': c['tokens'],
          'hidden_size': c['width'],
          'num_hidden_layers': c['layers'],
          'num_attention_heads': c['heads'],
          'intermediate_size': c['hidden'],
          'dropout': 0.0,
          'attn_drop': 0.0,
        },
      }
    }
  )
  model = (ImageBert if network == 'bert' else UViTBert)(config)
  return model.eval()


def put(model, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  missing = model.load_state_dict(tensors, strict=False)[1]
  assert not missing, missing


def logits_of(model, codes, labels):
  """The last label stands for no class, as a class that is dropped."""
  dropped = labels == SMALL['classes']
  real = torch.from_numpy(np.where(dropped, 0, labels))
  run = lambda p: model(
    torch.from_numpy(codes), real.clone(), cond_drop_prob=p
  ).numpy()
  return np.where(dropped[:, None, None], run(1.0), run(0.0))


def sampled(model, labels, noise, options):
  """Codes drawn with the given noise: per step that of the codes, then that of
  the confidences."""
  queue = []
  for step in noise[: options['num_sample_steps']]:
    queue += [step[..., :-1], step[..., -1]]
  kept = torch.Tensor.uniform_

  def uniform(self, low, high):
    g = torch.from_numpy(np.ascontiguousarray(queue.pop(0))).double()
    return self.copy_(torch.exp(-torch.exp(-g)))

  torch.Tensor.uniform_ = uniform
  try:
    codes = model.generate(torch.from_numpy(labels), **options)
  finally:
    torch.Tensor.uniform_ = kept
  assert not queue
  return codes.numpy()


@torch.no_grad()
def main(checkout):
  sys.path.insert(0, str(checkout))
  # Its __init__ imports the losses, and with them torchvision.
  stand_in = types.ModuleType('modeling.modules')
  stand_in.__path__ = [str(checkout / 'modeling' / 'modules')]
  sys.modules['modeling.modules'] = stand_in
  codes, labels, noise = inputs(SMALL)
  out = {}
  for network in NETWORKS:
    model = official(network)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    shapes = {k: s for k, s in shapes.items() if 'position_ids' not in k}
    weights = redraw(shapes, rules=RULES)

    def run(weights, model=model):
      put(model, weights)
      return logits_of(model, codes, labels)

    # A bias of the keys moves all logits of a query alike: it cannot matter.
    check_sensitive(weights, run, tolerance=TOLERANCE, fixed=('key.bias',))
    out[f'{network}_logits'] = run(weights)
    out[f'{network}_codes'] = sampled(
      model, labels[:2].copy(), noise[:, :2], SAMPLING[network]
    )
    out[f'{network}_shapes'] = pack(shapes)
  np.savez_compressed(HERE / 'maskgit.npz', **out)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]).resolve())
