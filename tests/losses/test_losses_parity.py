"""Perceptual networks and the discriminator against PyTorch, redrawn."""

import convnext_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lpips_weights import released

from tokpress_jax.io import keymap
from tokpress_jax.losses import LPIPS, PatchDiscriminatorConfig, adaptive_weight
from tokpress_jax.losses import convnext as convnext_lib
from tokpress_jax.losses import lpips as lpips_lib

pytestmark = [
  pytest.mark.parity,
  pytest.mark.filterwarnings('ignore'),  # PyTorch's own.
]
torch = pytest.importorskip('torch')
F = torch.nn.functional


def _nchw(x):
  return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def _torch_lpips(tensors, x, y):
  """Scaling, VGG16, unit length, weighed differences: one line each."""
  shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
  scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
  levels = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
  get = lambda name: torch.from_numpy(tensors[name])
  maps = []
  for image in (x, y):
    h, found = (image - shift) / scale, []
    for i, level in enumerate(levels):
      h = F.max_pool2d(h, 2, 2) if i else h
      for n in level:
        weight, bias = get(f'features.{n}.weight'), get(f'features.{n}.bias')
        h = F.relu(F.conv2d(h, weight, bias, padding=1))
      found.append(h)
    maps.append(found)
  total = 0
  for i, (a, b) in enumerate(zip(*maps, strict=True)):
    a, b = (
      h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10) for h in (a, b)
    )
    total = total + F.conv2d((a - b) ** 2, get(f'lin{i}.model.1.weight')).mean(
      (1, 2, 3)
    )
  return total


def test_lpips():
  tensors = released()
  variables = keymap.convert(tensors, lpips_lib.RULES, lpips_lib.expected())
  keys = jax.random.split(jax.random.key(0), 2)
  x, y = (jax.random.uniform(k, (2, 20, 16, 3), minval=-1) for k in keys)

  @jax.jit
  def ours(variables, x):
    total, pull = jax.vjp(lambda x: LPIPS().apply(variables, x, y), x)
    return total, pull(jnp.ones(2))[0]

  found, slope = ours(variables, x)
  a = _nchw(x).requires_grad_()
  want = _torch_lpips(tensors, a, _nchw(y))
  np.testing.assert_allclose(found, want.detach(), rtol=1e-5)
  want.sum().backward()
  want = a.grad.permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(slope, want, atol=2e-4 * want.std(), rtol=1e-3)
  # Every group of weights matters, by far more than the tolerance.
  base = np.asarray(found)
  for group in ('conv_0', 'conv_7', 'conv_28', 'lin_0', 'lin_4'):
    params = dict(variables['params'])
    params[group] = jax.tree.map(lambda w: np.roll(w, 1, -1), params[group])
    moved, _ = ours({'params': params}, x)
    assert np.abs(moved / base - 1).max() > 1e-3, group


@pytest.mark.parametrize('norm', ['batch', 'group', 'none'])
def test_discriminator(norm):
  config = PatchDiscriminatorConfig(width=8, layers=3, norm=norm, groups=4)
  module = config.build()
  x = jax.random.normal(jax.random.key(0), (3, 32, 24, 3))
  params = jax.jit(module.init)(jax.random.key(1), x)['params']
  params = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape),
    params,
  )
  h = _nchw(x)
  for i in range(5):
    p = jax.tree.map(
      lambda p: torch.from_numpy(np.array(p)), params[f'conv_{i}']
    )
    stride = 2 if i < 3 else 1
    weight = p['kernel'].permute(3, 2, 0, 1)
    h = F.conv2d(h, weight, p.get('bias'), stride=stride, padding=1)
    if 0 < i < 4 and norm != 'none':
      p = params[f'norm_{i}']
      p = [torch.from_numpy(np.array(p[k])) for k in ('scale', 'bias')]
      if norm == 'batch':
        h = F.batch_norm(h, None, None, *p, training=True)
      else:
        h = F.group_norm(h, 4, *p, eps=1e-6)
    h = F.leaky_relu(h, 0.2) if i < 4 else h
  found = jax.jit(module.apply)({'params': params}, x)
  want = h[:, 0].detach().numpy()
  assert found.shape == want.shape == (3, 2, 1)
  np.testing.assert_allclose(found, want, atol=1e-4 * want.std(), rtol=1e-4)


def test_adaptive_weight():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 3, 3, 8, 3)).astype(np.float32)
  norm = lambda x: torch.from_numpy(x).norm()
  want = torch.clamp(norm(a) / (norm(0.01 * b) + 1e-4), 0, 1e4)
  np.testing.assert_allclose(adaptive_weight(a, 0.01 * b), want, rtol=1e-5)


def _hugging_face(name):
  """The name in transformers' ConvNeXt of a tensor of torchvision's."""
  layers = {'0': 'dwconv', '2': 'layernorm', '3': 'pwconv1', '5': 'pwconv2'}
  parts = name.split('.')
  if parts[0] == 'classifier':
    inside = 'convnext.layernorm' if parts[1] == '0' else 'classifier'
    return f'{inside}.{parts[-1]}'
  number, place, last = int(parts[1]), parts[2], parts[-1]
  if number == 0:
    inside = ('patch_embeddings', 'layernorm')[int(place)]
    return f'convnext.embeddings.{inside}.{last}'
  stage = f'convnext.encoder.stages.{(number - 1) // 2}'
  if number % 2 == 0:
    stage = f'convnext.encoder.stages.{number // 2}'
    return f'{stage}.downsampling_layer.{place}.{last}'
  block = f'{stage}.layers.{place}'
  if last == 'layer_scale':
    return f'{block}.layer_scale_parameter'
  return f'{block}.{layers[parts[4]]}.{last}'


def test_convnext():
  """Transformers' ConvNeXt after an antialiased resize, on redrawn weights."""
  transformers = pytest.importorskip('transformers')
  config = transformers.ConvNextConfig(
    hidden_sizes=list(convnext_case.WIDTHS),
    depths=list(convnext_case.DEPTHS),
    num_labels=1000,
  )
  network = transformers.ConvNextForImageClassification(config).eval()
  tensors = convnext_case.released()
  named = {
    _hugging_face(k): torch.from_numpy(
      x.reshape(-1) if k.endswith('layer_scale') else x
    )
    for k, x in tensors.items()
  }
  network.load_state_dict(named)  # Strict: every tensor has its place.
  wide = lambda x: torch.tensor(x)[None, :, None, None]
  mean, std = wide([0.485, 0.456, 0.406]), wide([0.229, 0.224, 0.225])

  def theirs(x):
    x = F.interpolate((x + 1) / 2, size=224, mode='bilinear', antialias=True)
    return network((x - mean) / std).logits

  variables = keymap.convert(
    tensors, convnext_lib.RULES, convnext_case.expected()
  )
  keys = jax.random.split(jax.random.key(0), 2)
  # Larger and smaller than 224 pixels.
  x, y = (jax.random.uniform(k, (2, 256, 160, 3), minval=-1) for k in keys)

  @jax.jit
  def ours(variables, x):
    apply = convnext_case.NETWORK.apply
    total, pull = jax.vjp(lambda x: apply(variables, x, y), x)
    logits = apply(variables, x, method='classify')
    return logits, total, pull(jnp.ones(2))[0]

  logits, found, slope = ours(variables, x)
  a, b = _nchw(x).requires_grad_(), theirs(_nchw(y))
  out = theirs(a)
  want = out.detach().numpy()
  np.testing.assert_allclose(logits, want, atol=2e-5 * want.std(), rtol=0)
  distance = (out - b).square().mean(1)
  np.testing.assert_allclose(found, distance.detach(), rtol=1e-3)
  distance.sum().backward()
  want = a.grad.permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(slope, want, atol=2e-3 * want.std(), rtol=1e-3)
  # Every group of weights matters, by far more than the tolerance.
  for group in variables['params']:
    params = dict(variables['params'])
    params[group] = jax.tree.map(lambda w: np.roll(w, 1, -1), params[group])
    moved, _, _ = ours({'params': params}, x)
    assert np.abs(moved - logits).max() > 2e-3 * logits.std(), group
