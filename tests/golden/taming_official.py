"""Makes the official classes of KARL and ALIT importable, without their data.

Both repositories hold a copy of the same VQGAN and of what is around it; their
imports of training code are stood in for.
"""

import importlib.machinery
import sys
import types

import numpy as np
import torch


def stand_in(name, **attributes):
  module = types.ModuleType(name)
  module.__spec__ = importlib.machinery.ModuleSpec(name, None)
  vars(module).update(attributes)
  sys.modules[name] = module
  return module


def prepare(checkout, vqgan):
  """Puts a checkout on the path; gives the class that wraps its VQGAN.

  Args:
    checkout: of either repository.
    vqgan: `ddconfig`, `n_embed` and `embed_dim` of the VQGAN.
  """
  sys.path[:0] = [str(checkout), f'{checkout}/base_tokenizers']
  params = types.SimpleNamespace(**vqgan)
  config = types.SimpleNamespace(model=types.SimpleNamespace(params=params))
  load = types.SimpleNamespace(load=lambda path: config)
  stand_in('omegaconf', OmegaConf=load)
  stand_in('pytorch_lightning', LightningModule=torch.nn.Module)
  stand_in('base_tokenizers.vae_ldm', AutoencoderKL=None)
  stand_in('utils', __path__=[])
  sys.modules['utils'].misc = stand_in('utils.misc')
  for name in ('adaptive_tokenizers', 'kolmogorov_tokenizers'):
    # Their __init__ reads configs of all variants.
    stand_in(name, __path__=[f'{checkout}/{name}'])
  # There it is a number, which is no device on a CPU.
  torch.Tensor.get_device = lambda self: self.device
  from modules.base_tokenizers import VQGANWrapper

  return lambda: VQGANWrapper(
    embed_dim=vqgan['embed_dim'], pretrained_ckpt_path=None
  )


def shapes_of(module):
  return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def put(module, weights):
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  module.load_state_dict(tensors)


def check_margin(z, codebook):
  """Asserts that no code of tokens [..., C] is nearly a tie."""
  z = torch.nn.functional.normalize(z.flatten(0, -2), dim=-1)
  codebook = torch.nn.functional.normalize(codebook, dim=-1)
  near = torch.cdist(z, codebook).square().topk(2, largest=False)[0]
  margin = (near[:, 1] - near[:, 0]).min()
  assert margin > 1e-4, margin
