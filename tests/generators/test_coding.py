"""Codes by a generator's probabilities: round trips, sizes, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax import generators, types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import coding
from tokpress_jax.io import images, token_record, token_symbols, tokens

MODELS = {
  'next_token': tiny_models.next_token,
  'scale_wise': tiny_models.scale_wise,
}


def model(name):
  """A generator that is surer of some codes than of others."""
  found = MODELS[name]()
  leaves, tree = jax.tree.flatten(found.variables)
  rng = np.random.default_rng(0)
  draw = lambda x: x + 0.5 * rng.normal(size=x.shape).astype(np.float32)
  variables = jax.tree.unflatten(tree, [draw(x) for x in leaves])
  return dataclasses.replace(found, variables=variables)


def header_of(generator):
  config = generator.module.config
  return tokens.Header(
    fingerprint='x',
    image_size=8,
    channels=1,
    boundaries=tuple(config.boundaries),
    tokens=config.num_tokens,
    num_codes=1,
    codebook_size=config.codebook_size,
    num_classes=config.num_classes,
    coding='generator',
    coder=coding.coder_of(generator),
    fit='tile',
  )


def records_of(header, count=70):
  """More squares than fit one batch, of all lengths, with and without class."""
  rng = np.random.default_rng(0)
  found = []
  for index in range(count):
    rows = 1 + index % 2
    lengths = rng.choice(header.boundaries, rows).astype(np.int32)
    codes = rng.integers(0, header.codebook_size, (rows, header.num_tokens, 1))
    codes[np.arange(header.num_tokens) >= lengths[:, None]] = 0
    found.append(
      tokens.Record(
        codes=codes.astype(np.int32),
        lengths=lengths,
        placement=images.Placement(
          policy='tile',
          original=(8, 8 * rows),
          size=8,
          box=(0, 0, 8, 8 * rows),
          grid=(1, rows),
        ),
        index=index,
        label=index % (header.num_classes + 1) - 1,
      )
    )
  return found


@pytest.fixture(scope='module', params=MODELS)
def case(request, tmp_path_factory):
  """A generator, and a file that it has coded."""
  generator = model(request.param)
  header = header_of(generator)
  records = records_of(header)
  path = tmp_path_factory.mktemp(request.param) / 'x.tok'
  coder = coding.GeneratorCoding(generator, header)
  tokens.write(path, header, records, coding=coder)
  return generator, header, records, path


def test_codes_come_back(case):
  generator, _, records, path = case
  found = tokens.Reader([path], coding=coding.opener(generator))
  assert len(found) == len(records)
  for a, b in zip(found, records, strict=True):
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_array_equal(a.lengths, b.lengths)
    assert (a.label, a.index) == (b.label, b.index)


def test_they_take_what_the_training_pass_says(case):
  """Within 3% of the generator's own cross-entropy, by another program."""
  generator, header, records, _ = case
  codes = jnp.concatenate([r.codes[..., 0] for r in records])
  lengths = np.concatenate([r.lengths for r in records])
  labels = jnp.concatenate([jnp.full(len(r.lengths), r.label) for r in records])
  labels = jnp.where(labels < 0, header.num_classes, labels)
  inputs = generator.module.config.train_inputs(
    codes[..., None],
    lambda name, *args: getattr(generator.tokenizer, name)(*args),
    jax.random.key(0),
  )
  run = jax.jit(lambda model, x, labels: model(x, labels))
  log_p = jax.nn.log_softmax(run(generator, inputs, labels))
  taken = -jnp.take_along_axis(log_p, codes[..., None], axis=-1)[..., 0]
  used = np.arange(header.num_tokens) < lengths[:, None]
  ideal = float(np.sum(np.asarray(taken) * used)) / np.log(2)
  bits = 0
  coder = coding.GeneratorCoding(generator, header)
  for data, record in zip(coder.encode(records), records, strict=True):
    _, _, payload = token_record.unpack_fields(data, header)
    numbers = token_symbols.split_numbers(payload, len(record.lengths))
    bits += sum(n.bit_length() - 33 for n in numbers)
  assert abs(bits - ideal) < 0.03 * ideal, (bits, ideal)
  # A model of other probabilities would take another number of bits.
  assert abs(ideal - used.sum() * np.log2(header.codebook_size)) > 0.03 * ideal


def test_a_file_without_its_generator_is_refused(case):
  generator, header, _, path = case
  with pytest.raises(UserError, match='coded by a generator'):
    tokens.Reader([path])[0]
  changed = jax.tree.map(lambda x: x + 1e-3, generator.variables)
  other = dataclasses.replace(generator, variables=changed)
  with pytest.raises(UserError, match='another generator'):
    tokens.Reader([path], coding=coding.opener(other))[0]
  wrong = dataclasses.replace(header, codebook_size=header.codebook_size + 1)
  size = header.codebook_size
  message = rf'\(codebook size: {size} there, {size + 1} here\); take the one'
  with pytest.raises(UserError, match=message):
    coding.GeneratorCoding(generator, wrong)


def test_other_probabilities_are_noticed(case, tmp_path):
  """As on a device that rounds differently."""
  generator, header, records, _ = case
  changed = jax.tree.map(lambda x: x * 1.001, generator.variables)
  other = dataclasses.replace(generator, variables=changed)
  pretend = dataclasses.replace(header, coder=coding.coder_of(other))
  path = tmp_path / 'x.tok'
  coder = coding.GeneratorCoding(generator, header)
  tokens.write(path, pretend, records[:5], coding=coder)
  with pytest.raises(UserError, match='another kind of device'):
    tokens.Reader([path], coding=coding.opener(other))[0]


def test_a_flipped_bit_never_passes(case, tmp_path):
  generator, _, _, path = case
  data = path.read_bytes()
  rng = np.random.default_rng(0)
  for place in rng.choice(len(data), 12, replace=False):
    changed = bytearray(data)
    changed[place] ^= 1 << rng.integers(8)
    bad = tmp_path / 'bad.tok'
    bad.write_bytes(changed)
    with pytest.raises(UserError, match=r'bad\.tok'):
      list(tokens.Reader([bad], coding=coding.opener(generator)))


def test_generators_that_cannot_code_are_refused():
  config = generators.MaskGITConfig(
    codebook_size=11, num_classes=3, width=16, depth=3, heads=2, tokens=5
  )
  spec = types.Spec(name='', family='generator', config=config)
  with pytest.raises(UserError, match='refines all codes at once'):
    coding.Walk(types.Loaded(config.build(), {}, spec))
  with pytest.raises(UserError, match='this is a OneDConfig'):
    coding.Walk(tiny_models.one_d())
