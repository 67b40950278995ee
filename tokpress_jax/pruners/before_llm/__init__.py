"""Methods that choose a vision tower's tokens before a language model.

They read a tower's output (`models.ViT.observe`), before or after a projector,
and signals of its layers.
"""

from tokpress_jax.pruners.before_llm.adapting import (
  at_budget,
  layers_of,
  reads_text,
)
from tokpress_jax.pruners.before_llm.aim import AIM
from tokpress_jax.pruners.before_llm.catp import CATP
from tokpress_jax.pruners.before_llm.dart import DART
from tokpress_jax.pruners.before_llm.divprune import DivPrune
from tokpress_jax.pruners.before_llm.dtd import DTD
from tokpress_jax.pruners.before_llm.dycoke import DyCoke
from tokpress_jax.pruners.before_llm.globalcom2 import GlobalCom2
from tokpress_jax.pruners.before_llm.hiprune import HiPrune
from tokpress_jax.pruners.before_llm.hired import HiRED
from tokpress_jax.pruners.before_llm.idpruner import IDPruner
from tokpress_jax.pruners.before_llm.mustdrop import MustDrop, key_set
from tokpress_jax.pruners.before_llm.ppe import PPE
from tokpress_jax.pruners.before_llm.prumerge import PruMerge, PruMergePlus
from tokpress_jax.pruners.before_llm.recoverable import Recoverable
from tokpress_jax.pruners.before_llm.scope import SCOPE
from tokpress_jax.pruners.before_llm.segpruner import SeGPruner
from tokpress_jax.pruners.before_llm.todre import ToDRE
from tokpress_jax.pruners.before_llm.token_corr import TokenCorr
from tokpress_jax.pruners.before_llm.visionzip import VisionZip
from tokpress_jax.pruners.before_llm.vispruner import VisPruner
from tokpress_jax.pruners.before_llm.vtc_cls import VTCCLS
from tokpress_jax.pruners.before_llm.zoo_prune import ZOOPrune

__all__ = [
  'AIM',
  'CATP',
  'DART',
  'DTD',
  'PPE',
  'SCOPE',
  'VTCCLS',
  'DivPrune',
  'DyCoke',
  'GlobalCom2',
  'HiPrune',
  'HiRED',
  'IDPruner',
  'MustDrop',
  'PruMerge',
  'PruMergePlus',
  'Recoverable',
  'SeGPruner',
  'ToDRE',
  'TokenCorr',
  'VisPruner',
  'VisionZip',
  'ZOOPrune',
  'at_budget',
  'key_set',
  'layers_of',
  'reads_text',
]
