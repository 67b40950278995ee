"""Readers that are asked about a word: labels, guidance, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_compress as case

from tokpress_jax import load
from tokpress_jax.errors import UserError
from tokpress_jax.io import export, words
from tokpress_jax.train.tasks import questions

tower = case.tower  # The fixture.
CODEC = words.WordCodec(words=('red', 'blue', 'disc'), length=8)
INFO = dataclasses.replace(case.INFO, codec=CODEC)
TEXTS = ('red disc red disc', 'blue disc', '', 'blue blue blue blue blue blue')


def test_answers_are_counts_and_half_of_the_words_are_the_texts_own():
  text = jnp.asarray(CODEC.encode(TEXTS * 250))
  word, count = jax.jit(
    lambda text, rng: questions.ask(text, rng, vocabulary=CODEC.vocabulary)
  )(text, jax.random.key(0))
  names = ['', '', *CODEC.words]
  for row in range(40):
    asked = names[word[row]]
    assert count[row] == TEXTS[row % 4].split().count(asked) and asked
  share = np.asarray(count > 0).reshape(-1, 4).mean(axis=0)
  # Half at random of three words, of which a text has two, two, none or one.
  want = [0.5 + 1 / 3, 0.5 + 1 / 3, 0, 0.5 + 1 / 6]
  np.testing.assert_allclose(share, want, atol=0.09)
  other = questions.ask(text, jax.random.key(1), vocabulary=CODEC.vocabulary)[0]
  assert 0.4 < np.mean(other != word) < 0.8


def task_of(tower, method, text='question'):
  # SliME picks 3 of 2 x 2 queries' tokens.
  counts = (3,) if method == 'slime' else case.METHODS[method]
  task = case.task_of(tower, method, asks='word', counts=counts)
  chosen = dataclasses.replace(task.model.compressor, text=text)
  model = dataclasses.replace(task.model, compressor=chosen)
  return dataclasses.replace(task, model=model)


def ask_about(batch):
  """Its classes, as texts."""
  texts = [' '.join(['red'] * n + ['disc']) for n in batch['label']]
  return {**batch, 'text': CODEC.encode(texts)}


@pytest.mark.parametrize('method', ['quecc', 'hicom_local', 'slime', 'pool'])
def test_the_word_guides_those_that_read_a_text(tower, method):
  """What they give depends on it, unless they are given a constant."""
  batch = case.step_batch(0)
  images = jnp.asarray(batch['image'] / 127.5 - 1, jnp.float32)
  given = []
  for text in ('question', 'constant'):
    task = task_of(tower, method, text).bind(INFO)
    assert task.model.classes == CODEC.length - 1
    # At first their attention is even, and no query moves it.
    rng = np.random.default_rng(0)
    draw = lambda x, rng=rng: jnp.float32(rng.normal(size=x.shape) * 0.5)
    variables = {'params': jax.tree.map(draw, case.started(task))}
    module = task.model.build()

    @jax.jit
    def run(word, module=module, variables=variables):
      count = module.config.compressor.counts[0]
      see = lambda m: m.see(images, word=word)
      give = lambda m, seen: m.compressor(seen, count=count)
      seen = module.apply(variables, method=see)
      x, valid = module.apply(variables, seen, method=give)
      return jnp.where(valid[..., None], x, 0), module.apply(
        variables, seen, method='read'
      ).logits

    codes = [
      jnp.asarray(module.config.codes([w] * case.B)) for w in CODEC.words
    ]
    (a, said), (b, other) = run(codes[0]), run(codes[2])
    given.append(float(jnp.abs(a - b).max()) > 1e-6)
    # The reader is asked in both cases.
    assert float(jnp.abs(said - other).max()) > 1e-6
  assert given == [method != 'pool', False]


def test_a_step_teaches_words_and_the_reader_goes_with_them(tower, tmp_path):
  task = task_of(tower, 'quecc').bind(INFO)
  (program,) = task.programs()
  variables = {'params': case.started(task)}
  batch = ask_about(case.step_batch(0))
  loss = lambda v: program.loss(v, batch, jax.random.key(0), jnp.int32(0))[0]
  gradient = jax.jit(jax.grad(loss))(variables)['params']
  for part in (gradient['words'], gradient['compressor']['words']):
    norms = np.linalg.norm(part['embedding'], axis=1)
    assert (norms[:2] == 0).all() and (norms[2:-1] > 0).any()
  batch['valid'] = np.ones(case.B, bool)
  right, total = jax.jit(task.evaluate)(variables, batch, jax.random.key(1))[
    'accuracy_4'
  ]
  assert total == case.B and 0 <= right <= total
  model = task.export(variables)
  export.export(model.module, model.variables, tmp_path / 'm', name='tiny')
  again = load(tmp_path / 'm')
  assert again.module.config.codes(['disc', 'red']).tolist() == [4, 2]
  images = jnp.zeros((1, case.SIZE, case.SIZE, 1))
  with pytest.raises(UserError, match='asked about words: red, blue, disc;'):
    again(images)
  with pytest.raises(UserError, match='unknown words: cat'):
    again.module.config.codes(['cat'])


def test_what_cannot_be_asked_is_refused(tower):
  with pytest.raises(UserError, match=r'no texts to ask about.*scenes'):
    task_of(tower, 'pool').bind(case.INFO)
  with pytest.raises(UserError, match="'question' or 'constant', got 'none'"):
    task_of(tower, 'pool', 'none')
  task = case.task_of(tower).bind(INFO)
  with pytest.raises(UserError, match='asked about words: none;'):
    task.model.build().init(
      jax.random.key(0),
      jnp.zeros((1, case.SIZE, case.SIZE, 1)),
      word=jnp.zeros((1,), jnp.int32),
    )
