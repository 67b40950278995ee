"""The flags of `tokpress prune`."""

import dataclasses
from typing import Literal

from tokpress_jax.cli import texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(texts.TextFlags):
  """Show which patches of an image a pruner keeps.

  A pruner inside a vision transformer (tome, diffrate, top_attention, ...): a
  picture of the tokens that are left, layer by layer: merged patches have their
  mean colour and one outline, dropped ones are faded. Prints tokens in each
  layer, FLOPs, time, and the class before and after.

  One or several methods before a language model (divprune, scope, visionzip,
  ...; `all`): a contact sheet of what each keeps of the same images. Patches
  that were merged into a token have its colour and outline. With --text,
  methods that read one come twice, without and with it.

  Images that cannot be read are left out; the exit status is then 1.

  Attributes:
    model: A ViT, DeiT, CLIP or SigLIP: released weights by name (vit-b16), a
      file of `tokpress convert`, a model or work directory, or a hub name.
    image: Image files, or folders of them.
    pruner: A name of `tokpress list pruners`, or one of your own,
      path/to/file.py:Class. Several are compared before a language model.
    r: Tokens that leave in each layer: one number, or one for each layer.
      Where there are fewer (a matching merges at most a half) as many as can.
    inflect: Bends a single --r over the layers: 0 constant, -1 falling from 2r
      to 0, 1 rising.
    keep: The fraction of tokens that a site keeps; several for several sites.
      Of a contact sheet, a quarter by default.
    tokens: The number of patches that a site keeps, instead of a fraction;
      several are for the layers in order.
    left: Of diffrate: patches left before it merges them to --tokens.
    sites: Where the pruner acts (embed, block_0.after_attention, ...,
      tower_out); by default after the attention of each layer for --r and
      several numbers (from the first layer on), or of a block in the middle.
    set: Other fields of the pruner, as name=value (metric=features).
    text: What to look for, one for all images or one for each: for methods
      that read a text (dart, catp, idpruner, recoverable) on a CLIP.
    text_encoder: The one that was trained with the image tower: released
      weights by name (clip-text-b16 of clip-b16), or a file of `tokpress
      convert clip-text`. A run that trained both has its own.
    seed: For pruners that draw.
    fit: How an image becomes square: crop, pad or resize.
    batch_size: Images in one call, of which the time is measured.
    repeats: Timed calls with and without the pruner in turn, whose medians are
      taken; 0 measures no time.
    dtype: Of the matrix products.
    names: A file that names the classes: one on each line, or a config.json of
      transformers.
    out: The picture, .png, .jpg or .webp; without an ending a folder, with one
      for each image.
    panels: Pictures of an image at most, after evenly spaced sites.
    cell: Side of one picture in pixels; by default up to 336, and of a contact
      sheet up to 112.
    json: A file for all numbers.
  """

  model: str
  image: tuple[str, ...]
  pruner: tuple[str, ...] = ('tome',)
  r: tuple[int, ...] = ()
  inflect: float = 0.0
  keep: tuple[float, ...] = ()
  tokens: tuple[int, ...] = ()
  left: tuple[int, ...] = ()
  sites: tuple[str, ...] = ()
  set: tuple[str, ...] = ()
  seed: int = 0
  fit: Literal['crop', 'pad', 'resize'] = 'crop'
  batch_size: int = 1
  repeats: int = 5
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  names: str | None = None
  out: str = 'pruned.png'
  panels: int = 4
  cell: int | None = None
  json: str | None = None
