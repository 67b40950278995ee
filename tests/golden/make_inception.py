"""Makes inception.npz: what torch-fidelity's Inception and scores give.

  python tests/golden/make_inception.py CHECKOUT

toshas/torch-fidelity, commit 5e211a950a7b45206bd4976813ffd6aed6cf4ccc
(Apache-2.0): class FeatureExtractorInceptionV3, and the functions that make
numbers of features in metric_fid.py, metric_isc.py and metric_prc.py. PyTorch
2.13.0 on a CPU; features in float64, stored in float32. All 472 tensors are
redrawn (redraw.py), images and features drawn, from seed 0. Takes some minutes,
almost all of them for the check that each tensor matters.
"""

import pathlib
import sys
import tempfile
import types
from unittest import mock

import inception_case as case
import numpy as np
import torch
from redraw import pack, redraw


def stand_in(checkout):
  """Makes the checkout's modules importable without torchvision."""
  package = types.ModuleType('torch_fidelity')  # Its __init__ imports all.
  package.__path__ = [str(checkout / 'torch_fidelity')]
  sys.modules['torch_fidelity'] = package
  # Data sets and caches, which the functions below do not touch.
  sys.modules['torch_fidelity.utils'] = mock.MagicMock()


def scores():
  """FID, Inception score, precision and recall of drawn features."""
  from torch_fidelity import metric_fid, metric_isc, metric_prc

  samples, reference, logits = map(torch.from_numpy, case.features())
  first, second = (
    metric_fid.fid_features_to_statistics(x.double())
    for x in (samples, reference)
  )
  return {
    **metric_fid.fid_statistics_to_metric(first, second, False),
    **metric_isc.isc_features_to_metric(logits, 10, True, 2020),
    **metric_prc.prc_features_to_metric(samples, reference, verbose=False),
  }


def build():
  """The network with redrawn weights, and their shapes."""
  from torch_fidelity import feature_extractor_inceptionv3 as theirs

  layers = list(case.LAYERS[:-1])
  with (
    tempfile.NamedTemporaryFile(suffix='.pth') as file,
    # The constructor wants a file of weights, whose shapes it alone knows.
    mock.patch.object(torch.nn.Module, 'load_state_dict'),
  ):
    torch.save({}, file.name)
    network = theirs.FeatureExtractorInceptionV3('inception', layers, file.name)
  shapes = {
    name: tuple(x.shape)
    for name, x in network.state_dict().items()
    if not name.endswith('num_batches_tracked')
  }
  weights = redraw(shapes, rules=case.RULES)
  lost, more = network.load_state_dict(
    {name: torch.from_numpy(x) for name, x in weights.items()}, strict=False
  )
  assert all(n.endswith('num_batches_tracked') for n in lost) and not more
  return network, shapes


def features(network, images):
  """Every layer by name; 'spatial' are those of sFID."""
  kept = []
  hook = network.Mixed_6d.branch1x1.register_forward_hook(
    lambda module, inputs, output: kept.append(output)
  )
  with torch.no_grad():
    out = network(images)
  hook.remove()
  spatial = kept[0][:, :7].permute(0, 2, 3, 1).reshape(len(images), -1)
  found = zip(case.LAYERS, [*out, spatial], strict=True)
  return {name: x.numpy() for name, x in found}


def check_each_tensor_matters(network, images, before):
  """Makes each tensor 10% larger and asserts that a layer moves enough."""
  least = np.inf
  for name, tensor in network.state_dict().items():
    if name.endswith('num_batches_tracked'):
      continue
    kept = tensor.clone()
    tensor.mul_(1.1)
    after = features(network, images)
    tensor.copy_(kept)
    move = max(
      np.abs(after[k] - x).max() / x.std() / case.TOLERANCE[k]
      for k, x in before.items()
    )
    assert move > 100, f'{name} moves the layers by {move} tolerances only'
    least = min(least, move)
  print(f'least move: {least:.3g} tolerances')


def main():
  """Writes the file beside this script."""
  stand_in(pathlib.Path(sys.argv[1]))
  numbers = scores()
  print(numbers)
  network, shapes = build()
  images = torch.from_numpy(case.images()).permute(0, 3, 1, 2)
  single = features(network, images)
  network.double().feature_extractor_internal_dtype = torch.float64
  double = features(network, images)
  for name, x in double.items():
    rounding = np.abs(single[name] - x).max() / x.std()
    print(f'{name}: deviation {x.std():.4g}, their rounding {rounding:.2g}')
  network.float().feature_extractor_internal_dtype = torch.float32
  check_each_tensor_matters(network, images, single)
  np.savez_compressed(
    case.GOLDEN,
    shapes=pack(shapes),
    **{name: x.astype(np.float32) for name, x in double.items()},
    **numbers,
  )


if __name__ == '__main__':
  main()
