"""The pruners of the family's table, each with the tokens that it wants."""

import jax.numpy as jnp

from tokpress_jax import pruners
from tokpress_jax.pruners import before_llm, compressors, testing
from tokpress_jax.types import Ratio

HALF = Ratio(ratio=0.5)
# On rows of tokens in no grid.
FLAT = {
  'top-attention': pruners.TopAttention(budget=5),
  'top-norm': pruners.TopNorm(budget=Ratio(ratio=0.3), order='score'),
  'random': pruners.Random(budget=Ratio(ratio=0.4, rounding='ceil')),
  'stride': pruners.Stride(budget=pruners.Bytes(limit=56, per_token=8)),
  'tome': pruners.ToMe(budget=pruners.Remove(tokens=4), positions='mean'),
  'tome-random': pruners.RandomToMe(budget=7),
  'tome-kth': pruners.EveryKth(budget=Ratio(ratio=1 / 3)),
  'pitome': pruners.PiToMe(budget=pruners.Remove(tokens=4)),
  'pitome-all': pruners.PiToMe(budget=Ratio(ratio=0.7), partition='all'),
  'diffrate': pruners.DiffRate(budget=5, left=Ratio(ratio=0.5)),
  'token-transforming': pruners.TokenTransforming(budget=6),
  'divprune': before_llm.DivPrune(budget=Ratio(ratio=0.3, rounding='round')),
  'vtc-cls': before_llm.VTCCLS(budget=6, layers=(-4, -2)),
  'hiprune': before_llm.HiPrune(budget=9, share=0.6, width=4),
  'scope': before_llm.SCOPE(budget=6, alpha=2),
  'dart': before_llm.DART(budget=7),
  'dart-keys': before_llm.DART(budget=7, by='keys'),
  'vispruner': before_llm.VisPruner(budget=7),
  'idpruner': before_llm.IDPruner(budget=5, order='score'),
  'todre': before_llm.ToDRE(budget=5),
  'catp': before_llm.CATP(budget=5),
  'aim': before_llm.AIM(budget=Ratio(ratio=0.25)),
  'zoo-prune': before_llm.ZOOPrune(budget=5, project=jnp.tanh, directions=4),
  'visionzip': before_llm.VisionZip(budget=6, contextual=2),
  'visionzip-mean': before_llm.VisionZip(
    budget=Ratio(ratio=0.5), contextual=Ratio(ratio=0.3), merge='mean'
  ),
  'prumerge': before_llm.PruMerge(budget=7, neighbours=3),
  'prumerge-plus': before_llm.PruMergePlus(budget=9, step=5, neighbours=3),
  'recoverable': before_llm.Recoverable(
    budget=9, neighbours=3, outlier_neighbours=(5, 5, 3)
  ),
  'ppe': before_llm.PPE(
    positions=pruners.Members(count=2, axes=1), sections=(4,)
  ),
  'token-corr': before_llm.TokenCorr(similarity=0.3, repeats=2),
  'slime': compressors.SliME(budget=HALF, mass=0.8),
  'slime-noise': compressors.SliME(budget=6, noise=1.0),
}
# On tokens in a grid, in frames, in crops, in space.
QUARTERS = testing.Grid(
  grid=(4, 4),
  lengths=(17, 9, 9, 17, 9, 9, 17, 9),
  others=((9, 17, 9, 17, 9, 17, 9, 9),),
)
PLACED = {
  'llavolta': (
    compressors.LLaVolta(stride=4, length=20),
    testing.Inputs(unit=24),
  ),
  'hiprune-grid': (
    before_llm.HiPrune(budget=9, share=0.6, edges='stop'),
    testing.Grid(),
  ),
  'mustdrop': (
    before_llm.MustDrop(budget=HALF, window=2),
    testing.Grid(moves=True),
  ),
  'm3': (compressors.M3(budget=Ratio(ratio=0.25)), QUARTERS),
  'dtd': (before_llm.DTD(budget=Ratio(ratio=0.6)), testing.Frames()),
  'dycoke': (before_llm.DyCoke(budget=HALF), testing.Frames()),
  'ppe-video': (before_llm.PPE(), testing.Frames()),
  'hired': (before_llm.HiRED(budget=HALF), testing.Crops()),
  'hired-blocks': (
    before_llm.HiRED(budget=Ratio(ratio=0.4), split='blocks'),
    testing.Crops(),
  ),
  'globalcom2': (before_llm.GlobalCom2(budget=HALF), testing.Crops()),
  'token-corr-crops': (
    before_llm.TokenCorr(similarity=0.3, repeats=2),
    testing.Crops(),
  ),
  'segpruner': (before_llm.SeGPruner(budget=Ratio(ratio=0.3)), testing.Space()),
}
PRUNERS = {n: (pruner, None) for n, pruner in FLAT.items()} | PLACED
MERGERS = (  # which drop nothing
  'tome',
  'tome-random',
  'pitome',
  'pitome-all',
  'token-transforming',
  'visionzip',
  'visionzip-mean',
  'aim',
  'ppe',
  'ppe-video',
  'mustdrop',
  'm3',
  'llavolta',
)
