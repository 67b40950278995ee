"""Training a compressor between a frozen tower and a small reader.

Each learned compressor is trained as its paper says (`counting`), by the cross
entropy of the reader's answer; only the compressor, its projector and the
reader learn. What makes the comparison of their accuracies fair:

- All have the same tower, the same kind of reader trained from scratch, the
  same data, steps and optimiser. Neither is tuned for a method.
- A loss at several numbers of tokens in one step ('nested') costs more than a
  loss at one; the steps are equal, the compute is not.
- Methods without parameters of their own ('pool', 'neighbours', 'random',
  'stride') share all parameters, so an evaluation shows the others' tokens to
  the same reader. That reader has not learned to read them: this is what is
  lost off the shelf. How good pruning can be is asked of a run of its own,
  with `method='random'`, whose reader has met it.
- A reader learns one number of tokens best if it is trained at that alone:
  `counts=(16,)`. Such specialists bound what one model for all can reach; that
  of all tokens, `method='pool'` and `counts` the grid, bounds everything.
- With `asks='word'` each image is asked how often a word is in its text. What
  that is worth to a compressor that is guided by a text is the difference to
  the same one with `compressor.text='constant'`: the reader knows the question
  in both. With `asks='class'` there is nothing to tell, and the text is a
  constant.

Dimension letters: B batch, K new tokens, S numbers of tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from tokpress_jax import losses, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.models.reader import Answer, Seen
from tokpress_jax.models.reader_config import FREE, Method, ReaderConfig
from tokpress_jax.pruners import compressors
from tokpress_jax.train.task import FROZEN, Batch, Program, Task, Variables
from tokpress_jax.train.tasks import questions
from tokpress_jax.train.tasks.classify import load_classifier
from tokpress_jax.train.tasks.tokenizer import Tokenizing, check_images

Counting = Literal['nested', 'drawn', 'prefix', 'curriculum']


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressorTask(Task):
  """Cross entropy of what a reader answers from compressed tokens.

  Attributes:
    model: tower, compressor and reader; the tower's config is taken from it.
    tower: a ViT: a run, a model directory or a name.
    counting: which numbers of tokens a step trains: 'nested', the mean loss
      over all of `counts` (M3; with a single number, the fixed training of
      TokenPacker and others); 'drawn', one of them for a step (TokenFLEX);
      'prefix', a random number of the first queries (MQT); 'curriculum', what
      the step's stage says (LLaVolta).
    weights: of 'drawn', for each of `counts`; even if none are given.
    multiple: of 'prefix': numbers are multiples of it, 2 as published.
    curriculum: of 'curriculum'. Layers are the reader's; a step of the
      optimiser counts as one, however many microbatches it has.
    shown: numbers of tokens that an evaluation measures, where they are legal,
      beside those of training.
    asks: 'class', what the image is; 'word', how often a word that is drawn for
      it is in its text (`questions.ask`), on data with texts.
  """

  groups: ClassVar[tuple[tuple[str, str], ...]] = (
    ('^tower/', FROZEN),
    ('', 'main'),
  )
  sharding_rules: ClassVar[Any] = Tokenizing.sharding_rules

  model: ReaderConfig = ReaderConfig()
  tower: str = ''
  counting: Counting = 'nested'
  weights: tuple[float, ...] = ()
  multiple: int = 2
  curriculum: compressors.Curriculum = compressors.Curriculum()
  shown: tuple[int, ...] = (64, 36, 16, 9, 4, 1)
  asks: Literal['class', 'word'] = 'class'

  def bind(self, info: Any) -> CompressorTask:
    """Loads the tower; checks it against the data, and the numbers of tokens.

    Raises:
      UserError: if they do not fit.
    """
    if not self.tower:
      raise UserError(
        'a compressor is trained behind a trained tower; give its directory: '
        '--task.tower runs/x (a run or an exported model)'
      )
    loaded = _load(self.tower)
    check_images(loaded.module.config, info)
    if self.asks == 'word':
      if info.codec is None:
        raise UserError(
          f'the data set {info.name!r} has no texts to ask about; choose one '
          "with texts, such as --data.name scenes, or asks='class'"
        )
      words, classes = info.codec.words, info.codec.length - 1
    else:
      words, classes = (), info.num_classes
    if not classes:
      raise UserError(
        f'the data set {info.name!r} has no classes to answer with; choose one '
        'with labels, such as --data.name scenes'
      )
    model = dataclasses.replace(
      self.model, tower=loaded.module.config, classes=classes, words=words
    )
    bound = dataclasses.replace(self, model=model)
    bound._check()
    # The loaded tower is no field: configs hold plain values only.
    object.__setattr__(bound, '_loaded', loaded)
    return bound

  def _check(self) -> None:
    """Refuses a counting that does not fit the compressor."""
    self.model.check()
    chosen = self.model.compressor
    owner = {'prefix': 'mqt', 'curriculum': 'neighbours'}.get(self.counting)
    if owner is not None and chosen.method != owner:
      raise UserError(
        f'counting={self.counting!r} is of {owner!r}, not of '
        f"{chosen.method!r}; set counting='nested' or 'drawn', or the method"
      )
    if self.weights and len(self.weights) != len(chosen.counts):
      raise UserError(
        f'weights={self.weights} are of counts={chosen.counts}; give one for '
        'each, or none'
      )
    if self.counting == 'prefix' and not 1 <= self.multiple <= chosen.side**2:
      raise UserError(
        f'multiple={self.multiple} of {chosen.side**2} queries; give 1 or more'
      )
    if self.counting == 'curriculum':
      stages = zip(self.curriculum.strides, self.curriculum.layers, strict=True)
      total, depth = self.model.tower.grid**2, self.model.depth
      bad = [s for s in stages if total % s[0] or not -1 <= s[1] < depth]
      if bad:
        raise UserError(
          f'(stride, layer) of the stages {bad} do not fit {total} tokens and '
          f'a reader of {depth} layers; take strides that divide, and layers '
          f'-1 to {depth - 1}'
        )

  @property
  def loaded(self) -> types.Loaded:
    """The tower; after `bind`."""
    return getattr(self, '_loaded', None) or _load(self.tower)

  def start(self) -> Any:
    """The tower's weights."""
    return {'params': {'tower': self.loaded.variables['params']}}

  def init(self, rng: jax.Array) -> Variables:
    """Initialises all; the tower is replaced by `start`."""
    c = self.model
    images = jnp.zeros((1, c.image_size, c.image_size, c.channels))
    word = jnp.zeros((1,), jnp.int32) if c.words else None
    return c.build(dtype=self.dtype).init(rng, images, rng=rng, word=word)

  def programs(self) -> tuple[Program, ...]:
    """One program: compressor and reader."""
    return (Program(name='reader', loss=self._loss),)

  def _see(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> tuple[Seen, jax.Array]:
    """What the tower gives, without a gradient, and the right answers."""
    images = images_lib.to_float(batch['image'])
    module = self.model.build(dtype=self.dtype)
    word, answer = None, batch['label']
    if self.asks == 'word':
      draw = jax.random.fold_in(rng, 1)
      word, answer = questions.ask(
        batch['text'], draw, vocabulary=self.model.vocabulary
      )
    seen: Any = module.apply(
      variables, images, rng=rng, word=word, method='see'
    )
    return jax.lax.stop_gradient(seen), answer

  def _read(
    self,
    variables: Variables,
    seen: Seen,
    *,
    method: Method | None = None,
    **options: Any,
  ) -> Answer:
    """What the reader answers, of the tokens of another method if it is named.

    That must be one of those without parameters, as the own one.
    """
    config = self.model
    if method:
      chosen = dataclasses.replace(config.compressor, method=method)
      config = dataclasses.replace(config, compressor=chosen)
    module = config.build(dtype=self.dtype)
    answer: Any = module.apply(variables, seen, method='read', **options)
    return answer

  def _loss(
    self, variables: Variables, batch: Batch, rng: jax.Array, step: jax.Array
  ):
    draw, noise = jax.random.split(rng)
    seen, labels = self._see(variables, batch, noise)
    mask = batch.get('valid')

    def at(**options: Any) -> jax.Array:
      """Loss, accuracy and tokens of one number of tokens: float32 [3]."""
      answer = self._read(variables, seen, **options)
      entropy = losses.cross_entropy(answer.logits, labels, mask=mask)
      right = losses.accuracy(answer.logits, labels, mask=mask)
      number = jnp.mean(answer.tokens.astype(jnp.float32))
      return jnp.stack([entropy, right, number])

    loss, right, number = self._count(at, draw, step)
    return loss, {'accuracy': right, 'tokens': number}, {}

  def _count(
    self, at: Callable[..., jax.Array], rng: jax.Array, step: jax.Array
  ) -> jax.Array:
    """What `at` gives at the numbers of tokens of a step.

    A choice is a branch of one compiled program, so that a step costs what its
    own number of tokens does.
    """
    chosen = self.model.compressor
    if self.counting == 'prefix':
      queries = chosen.side**2
      first = compressors.random_prefix(
        rng, queries=queries, step=self.multiple
      )
      return at(count=queries, prefix=first)
    if self.counting == 'curriculum':
      total = self.model.tower.grid**2
      plan = self.curriculum
      stages = [
        functools.partial(at, count=total // stride, before=max(layer, 0))
        for stride, layer in zip(plan.strides, plan.layers, strict=True)
      ]
      return jax.lax.switch(stage(plan, step), stages)
    branches = [functools.partial(at, count=n) for n in chosen.counts]
    if self.counting == 'nested':
      return jnp.mean(jnp.stack([branch() for branch in branches]), axis=0)
    weights = self.weights or (1.0,) * len(chosen.counts)
    share = jnp.log(jnp.asarray(weights, jnp.float32))
    return jax.lax.switch(jax.random.categorical(rng, share), branches)

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Accuracy at each number of tokens.

    Of a method without parameters also what the same reader makes of tokens
    that are chosen at random, by stride and by pooling: `random_16`.
    """
    seen, labels = self._see(variables, batch, rng)
    weight = batch['valid'].astype(jnp.float32)
    total = jnp.sum(weight)
    chosen = self.model.compressor
    found = {}

    def measure(method: Method, name: str) -> None:
      own = dataclasses.replace(chosen, method=method)
      legal = own.legal(self.model.tower.grid)
      for n in sorted({*self.shown, *chosen.counts} & set(legal))[::-1]:
        answer = self._read(variables, seen, method=method, count=n)
        right = jnp.argmax(answer.logits, axis=-1) == labels
        found[f'{name}_{n}'] = (jnp.sum(right * weight), total)
        if method == 'slime':
          read = jnp.sum(answer.tokens * weight)
          found[f'tokens_{n}'] = (read, total)

    measure(chosen.method, 'accuracy')
    if chosen.method in FREE:
      for other in ('random', 'stride', 'pool'):
        if other != chosen.method:
          measure(other, other)
    return found

  def export(self, variables: Variables) -> types.Loaded:
    """Tower, compressor and reader."""
    return types.Loaded(
      module=self.model.build(),
      variables=variables,
      spec=types.Spec(name='', family='reader', config=self.model),
    )


def stage(plan: compressors.Curriculum, step: jax.Array) -> jax.Array:
  """The number of a step's stage, int32 []; see `Curriculum.at`."""
  last = jnp.asarray(plan.until, jnp.int32)
  return jnp.sum(step > last, dtype=jnp.int32)


def _load(name: str) -> types.Loaded:
  return load_classifier(name, reader='the compressor', field='--task.tower')
