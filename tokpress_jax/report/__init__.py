"""What fewer tokens cost: trained runs, measured and shown on one page."""

from tokpress_jax.report.choosing import (
  ChoosingRow,
  choosing_figure,
  measure_choosing,
)
from tokpress_jax.report.compressing import (
  compressing_figure,
  compressing_rows,
  compressing_table,
  write_compressing,
)
from tokpress_jax.report.contact_sheets import Kept, contact_sheet, keep
from tokpress_jax.report.flow_steps import (
  FlowStepsResult,
  draws_steps,
  flow_steps_figure,
  measure_flow_steps,
)
from tokpress_jax.report.images import ImageSet, image_set
from tokpress_jax.report.pruning import (
  PruningResult,
  PruningRow,
  measure_pruners,
  pruning_figure,
)
from tokpress_jax.report.quality import QualityCost, measure_quality
from tokpress_jax.report.render import write_report
from tokpress_jax.report.results import Report
from tokpress_jax.report.retrieval import (
  Recalls,
  Texts,
  embed_texts,
  recalls,
)
from tokpress_jax.report.samples import SampleResult, measure_generator
from tokpress_jax.report.steps import (
  measure_steps,
  steps_figure,
  takes_steps,
)
from tokpress_jax.report.tokenizing import (
  TokenizerResult,
  measure_scales,
  measure_tokenizer,
)
from tokpress_jax.report.training import read_curves, scale_curves

__all__ = [
  'ChoosingRow',
  'FlowStepsResult',
  'ImageSet',
  'Kept',
  'PruningResult',
  'PruningRow',
  'QualityCost',
  'Recalls',
  'Report',
  'SampleResult',
  'Texts',
  'TokenizerResult',
  'choosing_figure',
  'compressing_figure',
  'compressing_rows',
  'compressing_table',
  'contact_sheet',
  'draws_steps',
  'embed_texts',
  'flow_steps_figure',
  'image_set',
  'keep',
  'measure_choosing',
  'measure_flow_steps',
  'measure_generator',
  'measure_pruners',
  'measure_quality',
  'measure_scales',
  'measure_steps',
  'measure_tokenizer',
  'pruning_figure',
  'read_curves',
  'recalls',
  'scale_curves',
  'steps_figure',
  'takes_steps',
  'write_compressing',
  'write_report',
]
