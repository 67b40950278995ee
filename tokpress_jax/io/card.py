"""Model cards: what a model directory says of itself to people."""

import math
from collections.abc import Mapping
from typing import Any

from tokpress_jax import registry

UNSTATED = 'not stated'


def write(
  body: Mapping[str, Any],
  facts: Mapping[str, Any],
  *,
  has_tokenizer: bool,
  inputs: Mapping[str, tuple[int, ...]],
) -> str:
  """Writes a card.

  Args:
    body: What `config.json` says.
    facts: More lines, by their names.
    has_tokenizer: Whether the model's tokenizer lies beside it.
    inputs: Of a compressor, what it reads, to shapes without the batch.

  Returns:
    Markdown, with the hub's front matter.
  """
  entry = registry.get(body['model']['type'])
  count = sum(math.prod(s) for s in body['arrays'].values())
  stated = body['licence'] != UNSTATED
  lines = [
    '---',
    f'license: {body["licence"] if stated else "other"}',
    'library_name: tokpress_jax',
    f'tags: [{entry.family}, {entry.name}, jax]',
    '---',
    f'# {body["name"]}',
    '',
    f'A `{entry.name}` {entry.family} with {count:,} numbers in its variables.',
    '',
    f'- Paper: {entry.paper or "none"}',
    f'- Licence of the weights: {body["licence"]}',
    f'- Fingerprint: `{body["fingerprint"]}`',
    *(f'- {key}: {value}' for key, value in facts.items()),
    *(['- Its tokenizer is in `tokenizer/`.'] if has_tokenizer else []),
    '',
    '```python',
    *_example(entry, body['model'], has_tokenizer, inputs),
    '```',
  ]
  return '\n'.join(lines) + '\n'


def _example(
  entry: registry.Entry,
  model: Mapping[str, Any],
  has_tokenizer: bool,
  inputs: Mapping[str, tuple[int, ...]],
) -> list[str]:
  """Returns the lines of a program that uses the model."""
  family = entry.family
  if family == 'generator' and registry.resolve(entry.name).reads_text:  # type: ignore[attr-defined]
    return [
      'import jax',
      'import tokpress_jax as tp',
      '',
      "model = tp.load('PATH')",
      '# Of a text encoder; help(tp.generators.Text) says of which layers.',
      'texts = tp.generators.text(',
      '  features, pooled,  # [B, M, F], [B, F]',
      "  null_features=null_features, null_pooled=null_pooled,  # of ''",
      '  for_decoder=last_features,  # [B, M, F]',
      ')',
      'drawn = tp.sample(model, texts, rng=jax.random.key(0))',
      'drawn.images  # float32 [B, H, W, C] in [-1, 1]',
    ]
  if family == 'generator':
    labels = '[0, 0]' if model['num_classes'] < 2 else '[0, 1]'
    result = 'images  # float32 [2, H, W, C] in [-1, 1]'
    if not has_tokenizer:
      result = 'codes  # int32 [2, N, 1]'
    return [
      'import jax',
      'import tokpress_jax as tp',
      '',
      "model = tp.load('PATH')",
      f'labels = jax.numpy.array({labels})  # classes, int [2]',
      'drawn = tp.sample(model, labels, rng=jax.random.key(0))',
      f'drawn.{result}',
    ]
  if family == 'encoder':
    return [
      'import tokpress_jax as tp',
      'from tokpress_jax import models',
      '',
      "model = tp.load('PATH')",
      "codes = models.clip_codes(['a text'])",
      'model(codes).last  # float32 [1, M, D]',
    ]
  if family == 'compressor':
    sizes = {name: ', '.join(map(str, s)) for name, s in inputs.items()}
    return [
      'import tokpress_jax as tp',
      '',
      "model = tp.load('PATH')",
      *(f'# {name}: float32 [B, {s}]' for name, s in sizes.items()),
      f'model({", ".join(inputs)})  # [B, K, F]',
    ]
  text = []
  uses = ['model(batch).logits  # [1, classes]']
  names = model.get('words', ())
  of = lambda given: f'codes = model.module.config.codes([{given!r}])'
  if 'image' in model:  # two towers
    text = [of(' '.join(names[:2]) or 'a text')]
    uses = ['model(batch, codes)  # similarities, [1, 1]']
    model = model['image']
  elif names:  # a reader that is asked about one
    text = [of(names[0])]
    uses = ['model(batch, word=codes).logits  # of 0, 1, 2, ... times']
  seen = model['tower'] if family == 'reader' else model
  size, channels = seen['image_size'], seen['channels']
  shape = f'[1, {size}, {size}, {channels}]'
  if family == 'tokenizer':
    uses = [
      'encoded = model.encode(batch)',
      f'model.decode(encoded)  # {shape}',
    ]
  return [
    'import tokpress_jax as tp',
    'from tokpress_jax.io import images',
    '',
    "model = tp.load('PATH')",
    f"pixels = tp.load_image('photo.jpg', channels={channels})",
    f'squares, _ = images.fit_image(pixels, {size})  # uint8 {shape}',
    f'batch = images.to_float(squares)  # float32 {shape} in [-1, 1]',
    *text,
    *uses,
  ]
