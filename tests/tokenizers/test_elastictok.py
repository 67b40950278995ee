"""ElasticTok against the official functions, by a golden file.

`tests/golden/make_elastictok.py` says what made it. Tolerances are relative to
the standard deviation of the official output.
"""

import dataclasses
import functools

import elastictok_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from redraw import redraw, unpack

from tokpress_jax import released, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import checkpoints, convert, flax_stream, keymap
from tokpress_jax.tokenizers import elastictok_keys, error_search
from tokpress_jax.train.tasks import TokenizerTask

every = pytest.mark.parametrize('name', case.CASES)
VIDEO = case.inputs().astype(np.float32) / 127.5 - 1


@functools.cache
def golden(name):
  with np.load(case.GOLDEN / 'elastictok.npz') as arrays:
    return {
      k.removeprefix(f'{name}/'): v
      for k, v in arrays.items()
      if k.startswith(f'{name}/')
    }


def weights_of(name):
  return redraw(unpack(golden(name)['shapes']), rules=case.RULES)


def config_of(name):
  theirs = case.CASES[name]
  return tokenizers.ElasticTokConfig(
    image_size=case.SIDE,
    patch=theirs['patch_size'][1],
    patch_frames=theirs['patch_size'][0],
    frames=case.FRAMES,
    shortest=theirs['min_toks'],
    width=theirs['hidden_size'],
    heads=theirs['num_attention_heads'],
    mlp_ratio=theirs['intermediate_size'] / theirs['hidden_size'],
    encoder_depth=theirs['num_encoder_layers'],
    decoder_depth=theirs['num_decoder_layers'],
    theta=theirs['theta'],
    quantizer=elastictok_keys.released_config(name).quantizer,
  )


@functools.cache
def loaded(name):
  config = config_of(name)
  variables = keymap.convert(
    elastictok_keys.prepare(weights_of(name)),
    elastictok_keys.RULES,
    elastictok_keys.expected(config),
  )
  spec = types.Spec(name='', family='tokenizer', config=config)
  return types.Loaded(config.build(), variables, spec)


@functools.cache
def coded(name):
  """The video at the golden lengths, [B, K]."""
  policy = tokenizers.Prefix(jnp.asarray(golden(name)['kept'], jnp.int32))
  return jax.jit(lambda m: m.encode(VIDEO, policy=policy))(loaded(name))


def close(ours, theirs, tolerance=1e-5):
  assert ours.shape == theirs.shape
  error = np.abs(np.asarray(ours) - theirs).max() / theirs.std()
  assert error < tolerance, error


def patches(name, video):
  """As the official arrays: [B, slots, numbers]."""
  found = loaded(name).module.bind({})._patches(video)
  return found.reshape(found.shape[0], -1, found.shape[-1])


@every
def test_the_sampler_keeps_one_token_more_than_it_is_asked_for(name):
  slots = case.CASES[name]['max_toks']
  asked, kept = case.ASKED[name], golden(name)['kept']
  np.testing.assert_array_equal(kept, np.minimum(asked + 1, slots))
  np.testing.assert_array_equal(tokenizers.kept_tokens(asked, slots), kept)
  assert (asked == slots).any() and (asked < slots - 1).any()
  # A length of ours, as theirs in `encode`, is the number of slots below it.
  encoded = coded(name)
  np.testing.assert_array_equal(encoded.length, kept)
  np.testing.assert_array_equal(encoded.valid.sum(-1), kept)
  assert encoded.valid[..., 0].all()


@every
def test_tokens_and_pictures_equal_the_official_ones(name):
  want, encoded, model = golden(name), coded(name), loaded(name)
  batch, blocks, slots = encoded.valid.shape
  z = want['z'].reshape(batch, blocks, slots, -1)
  if name == 'fsq':
    codes = want['codes'].reshape(batch, blocks, slots)
    seen = np.asarray(encoded.valid)
    np.testing.assert_array_equal(encoded.codes[..., 0][seen], codes[seen])
    assert not np.any(encoded.codes[..., 0][~seen])
    assert len(np.unique(codes[seen])) > 40
    lookup = model.spec.config.quantizer.build().lookup(encoded.codes)
    close(np.where(seen[..., None], lookup, 0), z)
  else:
    close(encoded.embeddings, z)
  painted = patches(name, jax.jit(lambda m: m.decode(encoded))(model))
  close(painted, want['painted'])


@every
def test_all_blocks_at_once_equal_one_after_the_other(name):
  want, encoded, model = golden(name), coded(name), loaded(name)
  length = jnp.asarray(want['kept'], jnp.int32)
  out = jax.jit(lambda m: m.reconstruct(VIDEO, length))(model)
  close(patches(name, out.images), want['painted'])
  tokens = encoded.embeddings if encoded.codes is None else encoded.codes
  ours = getattr(out.quantized, 'codes' if name == 'fsq' else 'embeddings')
  np.testing.assert_allclose(
    tokens, ours.reshape(tokens.shape), rtol=0, atol=2e-5
  )
  if name == 'vae':
    np.testing.assert_allclose(out.quantized.loss, want['kl'], rtol=1e-5)


@every
def test_the_linear_search_finds_the_official_lengths(name):
  want, model = golden(name), loaded(name)
  slots, shortest = model.num_tokens, model.boundaries[0]
  kept = np.minimum(want['search'] + 1, slots)
  # Said once, stored once more: what the official functions give.
  np.testing.assert_array_equal(want['search_kept'], kept)
  tried = error_search.log_lengths(shortest, slots, count=case.TRIED)
  assert set(kept.ravel()) <= set(tried) and tried[-1] == slots
  policy = tokenizers.ErrorSearch(threshold=want['threshold'], count=case.TRIED)
  run = jax.jit(lambda m, policy: m.encode(VIDEO, policy=policy))
  encoded = run(model, policy)
  np.testing.assert_array_equal(encoded.length, kept)
  assert len(np.unique(kept)) > 2
  loose = run(model, policy.replace(threshold=np.float32(9)))
  np.testing.assert_array_equal(loose.length, shortest + 1)
  strict = run(model, policy.replace(threshold=np.float32(0)))
  np.testing.assert_array_equal(strict.length, slots)
  assert run._cache_size() == 1


def test_the_binary_search_ends_on_a_length_that_is_good():
  """The official one may end on the last that it tried, good or not."""
  bounds = tuple(range(3, 17))
  need = jnp.array([3, 4, 9, 15, 16, 99])

  def decode(length):
    error = jnp.where(length >= need, 0.0, 1.0)
    return jnp.broadcast_to(error[:, None, None, None], (6, 2, 2, 1))

  made = tokenizers.Coded(
    images=jnp.zeros((6, 2, 2, 1)), boundaries=bounds, decode=decode
  )
  search = tokenizers.ErrorSearch(threshold=0.5, search='binary')
  np.testing.assert_array_equal(search.lengths(made), [3, 4, 9, 15, 16, 16])
  with pytest.raises(UserError, match="'linear' or 'binary'"):
    tokenizers.ErrorSearch(threshold=0.5, search='quick')
  # 100 lengths between 256 and 4,096: those of the released searches.
  tried = error_search.log_lengths(256, 4096, count=100)
  assert tried[0] == 257 and tried[-1] == 4096 and len(tried) == 100


@every
def test_blocks_depend_on_those_before_and_on_no_others(name):
  model, encoded = loaded(name), coded(name)
  first = VIDEO.copy()
  first[:, : case.FRAMES] = -first[:, : case.FRAMES]
  last = VIDEO.copy()
  last[:, -case.FRAMES :] = -last[:, -case.FRAMES :]
  policy = tokenizers.Prefix(encoded.length)
  run = jax.jit(lambda video: model.encode(video, policy=policy))
  pick = lambda e: e.embeddings if e.codes is None else e.codes
  want = pick(run(VIDEO))
  changed = np.any(pick(run(last)) != want, axis=(0, 2, 3))
  np.testing.assert_array_equal(changed, [False, False, True])
  changed = np.any(pick(run(first)) != want, axis=(0, 2, 3))
  assert changed.all()


def test_many_lengths_and_videos_share_one_program():
  """20 lengths, videos of 1, 2 and 3 blocks: a program for each way in."""
  model = loaded('fsq')
  slots, traces = model.num_tokens, []

  @jax.jit
  def run(model, video, blocks, length):
    traces.append(video.shape)
    policy = tokenizers.Prefix(length)
    encoded = model.encode(video, policy=policy, blocks=blocks)
    return encoded, model.decode(encoded)

  rng = np.random.default_rng(0)
  seen = set()
  for step in range(20):
    length = rng.integers(2, slots + 1, (case.BATCH, case.BLOCKS))
    blocks = rng.integers(1, case.BLOCKS + 1, case.BATCH)
    video = VIDEO.copy()
    for row, count in enumerate(blocks):
      video[row, count * case.FRAMES :] = 0.7 * step / 20
    encoded, painted = run(model, video, blocks, length)
    real = np.arange(case.BLOCKS)[None] < blocks[:, None]
    np.testing.assert_array_equal(encoded.length, np.where(real, length, 0))
    assert not np.any(encoded.valid.any(-1) & ~real)
    for row, count in enumerate(blocks):
      assert not np.any(painted[row, count * case.FRAMES :])
    seen |= set(blocks)
    if step < 3:  # A short video alone gives the same.
      short = int(blocks[0])
      alone = model.encode(
        VIDEO[:1, : short * case.FRAMES],
        policy=tokenizers.Prefix(jnp.asarray(length[:1, :short])),
      )
      np.testing.assert_array_equal(encoded.codes[:1, :short], alone.codes)
  assert seen == {1, 2, 3} and len(traces) == 1


def test_an_image_is_a_block_of_equal_frames():
  model = loaded('fsq')
  images = VIDEO[:, 0]
  video = np.repeat(images[:, None], case.FRAMES, axis=1)
  policy = tokenizers.Fixed(tokens=9)
  one, block = (model.encode(x, policy=policy) for x in (images, video))
  np.testing.assert_array_equal(one.codes, block.codes[:, 0])
  np.testing.assert_allclose(
    model.decode(one), model.decode(block)[:, 0], atol=1e-6
  )
  # Encoding is told the length: a row that is cut is another.
  cut = model.encode(images).first(9)
  assert np.any(np.asarray(cut.codes)[:, :9] != np.asarray(one.codes)[:, :9])
  assert not model.spec.config.nested


def test_videos_that_do_not_fit_are_refused():
  model = loaded('fsq')
  with pytest.raises(ValueError, match='blocks of 4 frames, got 3 frames'):
    model.encode(VIDEO[:, :3])
  with pytest.raises(ValueError, match=r'takes images \[B, 8, 8, 3\]'):
    model.encode(VIDEO[:, :, :4])
  with pytest.raises(ValueError, match='one length per block'):
    model.encode(VIDEO, policy=tokenizers.Prefix(jnp.ones((2, 2), int)))
  with pytest.raises(UserError, match='leave it out'):
    model.encode(VIDEO[:, 0], blocks=jnp.array([1, 1]))
  with pytest.raises(ValueError, match='frames=3 is not divisible'):
    tokenizers.ElasticTokConfig(frames=3, patch_frames=2)
  with pytest.raises(ValueError, match='shortest must be from 1 to'):
    tokenizers.ElasticTokConfig(shortest=5000)


def test_the_training_loss_reaches_every_parameter():
  config = dataclasses.replace(config_of('vae'), shortest=2)
  task = TokenizerTask(model=config, lengths='uniform', full=0.0)
  variables = task.init(jax.random.key(0))
  (program,) = task.programs()
  images = case.inputs()[:, 0]
  batch = {'image': images, 'valid': jnp.array([True, True])}

  @jax.jit
  def step(params, rng):
    loss = lambda p: program.loss({'params': p}, batch, rng, 0)[:2]
    (value, found), grads = jax.value_and_grad(loss, has_aux=True)(params)
    moved = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
    return moved, value, found, grads

  params, values = variables['params'], []
  for i in range(12):
    params, value, found, grads = step(params, jax.random.key(i))
    values.append(float(value))
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.any(grad), jax.tree_util.keystr(path)
  assert np.mean(values[-3:]) < 0.98 * values[0], values
  assert 2 <= found['mean_length'] <= config.slots


@every
def test_a_stream_of_released_weights_is_converted(name, tmp_path):
  """The whole way of `tokpress convert`, from a small file of its layout."""
  weights = weights_of(name)
  path = tmp_path / 'params'
  flax_stream.write(path, weights)
  read = lambda *args: checkpoints.read(*args).tensors
  again = read(path, released.KINDS['elastictok'].mark)
  assert again.keys() == weights.keys()
  for key, x in again.items():
    np.testing.assert_array_equal(x, weights[key])
  # As a train state, deeper and among the optimiser's; in half precision.
  state = {
    f'params.params.{k}': x.astype(jnp.bfloat16) for k, x in weights.items()
  }
  flax_stream.write(path, state | {'opt_state.0.mu': np.ones(3)})
  half = read(path, released.KINDS['elastictok'].mark)
  assert half.keys() == weights.keys()
  assert all(x.dtype == np.float32 for x in half.values())
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(UserError, match='damaged'):
    read(path, 'encoder.in_proj.kernel')
  path.write_bytes(b'\x80\x04N.')  # a pickle
  with pytest.raises(UserError, match='damaged, or no stream'):
    read(path, 'encoder.in_proj.kernel')


@pytest.mark.parametrize('name', ['fsq', 'vae'])
def test_the_config_is_read_off_the_shapes(name):
  config = elastictok_keys.released_config(name)
  tree = elastictok_keys.expected(config)
  shapes = official_shapes(config)
  assert elastictok_keys.config_of(shapes) == config
  row = released.RELEASED[f'elastictok-{name}']
  assert row.make_config() == config
  count = sum(x.size for x in jax.tree.leaves(tree))
  assert (
    count == row.parameters == {'fsq': 210_165_760, 'vae': 210_571_264}[name]
  )
  with pytest.raises(UserError, match='neither a Gaussian nor'):
    elastictok_keys.config_of(shapes | {'decoder.post_quant.kernel': (5, 1024)})


def test_a_small_stream_goes_the_whole_way(tmp_path):
  config = dataclasses.replace(
    elastictok_keys.released_config('vae'),
    width=128,
    heads=1,
    encoder_depth=2,
    decoder_depth=1,
  )
  weights = redraw(official_shapes(config), rules=case.RULES)
  flax_stream.write(tmp_path / 'params', weights)
  model = convert.convert(tmp_path / 'params', 'elastictok')
  assert model.module.config == config
  layers = model.variables['params']['encoder']['tower']['stack']['layers']
  block = 'encoder.encoder_blocks.scan_decoder'
  np.testing.assert_array_equal(
    layers['attn']['qkv']['kernel'][1, :, 128:256],
    weights[f'{block}.attention.wk.kernel'][1],
  )
  np.testing.assert_array_equal(
    layers['mlp']['gate']['kernel'],
    weights[f'{block}.feed_forward.w3.kernel'],
  )
  with pytest.raises(UserError, match='of another shape'):
    convert.convert(tmp_path / 'params', 'elastictok-vae')


def official_shapes(config):
  """Official names to shapes, counted by hand."""
  sizes = {'encoder': config.encoder_depth, 'decoder': config.decoder_depth}
  width, hidden = config.width, round(config.mlp_ratio * config.width)
  z = config.quantizer
  found = {
    'encoder.in_proj.kernel': (config.patch_size, width),
    'encoder.is_kept_embed': (1, width),
    'encoder.is_masked_embed': (1, width),
    'encoder.pre_quant.kernel': (width, z.input_dim),
    'decoder.post_quant.kernel': (z.dim, width),
    'decoder.out_proj.kernel': (width, config.patch_size),
  }
  for side, depth in sizes.items():
    found[f'{side}.ln_f.kernel'] = (width,)
    for name, shape in {
      'attention.wq': (width, width),
      'attention.wk': (width, width),
      'attention.wv': (width, width),
      'attention.wo': (width, width),
      'feed_forward.w1': (width, hidden),
      'feed_forward.w2': (hidden, width),
      'feed_forward.w3': (width, hidden),
      'attention_norm': (width,),
      'ffn_norm': (width,),
    }.items():
      key = f'{side}.{side}_blocks.scan_decoder.{name}.kernel'
      found[key] = (depth, *shape)
  return found
