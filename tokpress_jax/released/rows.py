"""Every released file: where it is, and the config that it fits."""

from __future__ import annotations

from tokpress_jax.released.hosts import HOSTS
from tokpress_jax.released.projectors import PROJECTORS
from tokpress_jax.released.row import Released

_VAR = 'FoundationVision/var'
_VAE = 'vae_ch160v4096z32.pth'
_PARAMETERS = {  # by depth, of VAR and MVAR
  16: 310_283_520,
  20: 600_917_136,
  24: 1_033_399_360,
  30: 2_010_020_356,
  36: 2_353_893_904,
}


def _var(depth: int, pixels: int = 256) -> Released:
  return Released(
    name=f'var-d{depth}',
    kind='var',
    config='var_config',
    arguments=(depth, pixels),
    parameters=_PARAMETERS[depth],
    repository=_VAR,
    file=f'var_d{depth}.pth',
    tokenizer='var-vqvae' if pixels == 256 else f'var-vqvae-{pixels}',
  )


def _mvar(name: str, depth: int) -> Released:
  return Released(
    name=name,
    kind='mvar',
    config='mvar_config',
    arguments=(depth,),
    parameters=_PARAMETERS[depth],
    repository='CVLUESTC/MVAR',
    file=f'{name}.pth',
    tokenizer='var-vqvae',
  )


def _vqvae(name: str, pixels: int) -> Released:
  return Released(
    name=name,
    kind='var-vqvae',
    config='released_config',
    arguments=(pixels,),
    parameters=108_948_355,
    repository=_VAR,
    file=_VAE,
  )


def _titok(name: str, parameters: int, *arguments: int | str) -> Released:
  """A file of TiTok, TA-TiTok or One-D-Piece; see `titok_keys`."""
  places = {
    'titok': f'yucornetto/tokenizer_{name.replace("-", "_")}_imagenet',
    'tatitok': f'turkeyju/tokenizer_{name.replace("-", "_")}',
    'one': f'turing-motors/One-D-Piece-{name[-4].upper()}-256',
  }
  return Released(
    name=name,
    kind='one-d-piece' if name.startswith('one-d') else 'titok',
    config='released_config',
    arguments=arguments,
    parameters=parameters,
    repository=places[name.split('-')[0]],
    file='model.safetensors',
    instead=('pytorch_model.bin',),
  )


def _flextok(
  name: str, parameters: int, encoder: int, decoder: int
) -> Released:
  return Released(
    name=f'flextok-{name}',
    kind='flextok',
    config='released_config',
    arguments=(encoder, decoder),
    parameters=parameters,
    repository=f'EPFL-VILAB/flextok_{name.replace("-", "_")}',
    file='model.safetensors',
    beside=('config.json',),
  )


# Without two tables of sines in each official file, which are computed here.
_FLEXTOKS = (
  _flextok('d12-d12-in1k', 341_258_521, 12, 12),
  _flextok('d18-d18-in1k', 949_144_729, 18, 18),
  _flextok('d18-d28-in1k', 2_540_129_177, 18, 28),
  _flextok('d18-d28-dfn', 2_540_129_177, 18, 28),
)


def _flextok_vae(channels: int, parameters: int) -> Released:
  return Released(
    name=f'flextok-vae-c{channels}',
    kind='autoencoder-kl',
    config='released_config',
    arguments=(channels,),
    parameters=parameters,
    repository=f'EPFL-VILAB/flextok_vae_c{channels}',
    file='diffusion_pytorch_model.safetensors',
    beside=('config.json',),
  )


_SMALL, _BASE, _LARGE = 'small', 'base', 'large'
_TITOKS = (
  _titok('titok-l32', 641_054_735, _LARGE, _LARGE, 32, 'legacy'),
  _titok('titok-b64', 204_814_095, _BASE, _BASE, 64, 'legacy'),
  _titok('titok-s128', 83_674_639, _SMALL, _SMALL, 128, 'legacy'),
  _titok('titok-bl64-vq8k', 390_016_148, _BASE, _LARGE, 64, 'vq'),
  _titok('titok-bl128-vq8k', 390_179_988, _BASE, _LARGE, 128, 'vq'),
  _titok('titok-sl256-vq8k', 330_260_884, _SMALL, _LARGE, 256, 'vq'),
  _titok('titok-ll32-vae-c16', 606_879_604, _LARGE, _LARGE, 32, 'vae'),
  _titok('titok-bl64-vae-c16', 389_418_100, _BASE, _LARGE, 64, 'vae'),
  _titok('titok-bl128-vae-c16', 389_581_940, _BASE, _LARGE, 128, 'vae'),
  _titok('tatitok-bl32-vq', 390_800_532, _BASE, _LARGE, 32, 'vq', 77),
  _titok('tatitok-bl64-vq', 390_882_452, _BASE, _LARGE, 64, 'vq', 77),
  _titok('tatitok-bl128-vq', 391_046_292, _BASE, _LARGE, 128, 'vq', 77),
  _titok('tatitok-bl32-vae', 390_202_484, _BASE, _LARGE, 32, 'vae', 77),
  _titok('tatitok-bl64-vae', 390_284_404, _BASE, _LARGE, 64, 'vae', 77),
  _titok('tatitok-sl128-vae', 330_275_188, _SMALL, _LARGE, 128, 'vae', 77),
  _titok('one-d-piece-s256', 83_871_247, _SMALL, _SMALL, 256, 'one-d-piece'),
  _titok('one-d-piece-b256', 205_256_463, _BASE, _BASE, 256, 'one-d-piece'),
  _titok('one-d-piece-l256', 641_742_863, _LARGE, _LARGE, 256, 'one-d-piece'),
)


def _elastictok(name: str, parameters: int) -> Released:
  return Released(
    name=f'elastictok-{name}',
    kind='elastictok',
    config='released_config',
    arguments=(name,),
    parameters=parameters,
    repository=f'LargeWorldModel/ElasticTok-{name.upper()}',
    file='params',
  )


_ELASTICTOKS = (
  _elastictok('fsq', 210_165_760),
  _elastictok('vae', 210_571_264),
)


def _maskgit(name: str, parameters: int, *arguments: int | str) -> Released:
  """A masked generator of TiTok's or One-D-Piece's tokens."""
  place = f'yucornetto/generator_{name.replace("-", "_")}_imagenet'
  if name.startswith('one-d'):
    place = f'turing-motors/MaskGIT_One-D-Piece-{name[-4].upper()}-256'
  return Released(
    name=f'{name}-maskgit',
    kind='maskgit',
    config='released_config',
    arguments=arguments,
    parameters=parameters,
    repository=place,
    file='model.safetensors',
    instead=('pytorch_model.bin',),
    tokenizer=name,
  )


_MASKGITS = (
  _maskgit('titok-l32', 177_200_896, 'bert', 32),
  _maskgit('titok-b64', 177_225_472, 'bert', 64),
  _maskgit('titok-s128', 294_990_848, 'uvit', 128),
  *(
    _maskgit(f'one-d-piece-{size}256', 177_372_928, 'bert', 256, 'any')
    for size in 'sbl'
  ),
)


def _rar(name: str, parameters: int, *arguments: int) -> Released:
  return Released(
    name=f'rar-{name}',
    kind='rar',
    config='released_config',
    arguments=arguments,
    parameters=parameters,
    repository='yucornetto/RAR',
    file=f'rar_{name}.bin',
    tokenizer='maskgit-vqgan',
  )


# Without 2,146 rows of each official file that nothing reads.
_RARS = (
  _rar('b', 259_275_520, 768, 24, 3072),
  _rar('l', 459_470_848, 1024, 24, 4096),
  _rar('xl', 952_678_144, 1280, 32, 5120),
  _rar('xxl', 1_495_499_136, 1408, 40, 6144),
)


def _maskgen(name: str, parameters: int, *arguments: int | str) -> Released:
  codes = name.startswith('vq')
  return Released(
    name=f'maskgen-{name}',
    kind='maskgen-vq' if codes else 'maskgen-kl',
    config='released_config',
    arguments=arguments,
    parameters=parameters,
    repository=f'turkeyju/generator_maskgen_{name.replace("-", "_")}',
    file='model.safetensors',
    instead=('pytorch_model.bin',),
    tokenizer='tatitok-bl128-vq' if codes else 'tatitok-bl32-vae',
  )


# Those over codes without 1,001 rows of each official file that nothing reads.
_MASKGENS = (
  _maskgen('vq-l', 602_236_928, 'categorical', 1024, 16),
  _maskgen('vq-xl', 1_173_690_880, 'categorical', 1280, 20),
  _maskgen('kl-l', 640_314_400, 'diffusion', 1024, 16),
  _maskgen('kl-xl', 1_235_705_632, 'diffusion', 1280, 20),
)

# What these are made of is in a `config.yaml` beside the weights, and so is the
# tokenizer of that of classes.
_FLEXARS = tuple(
  Released(
    name=f'flexar-{size.lower()}',
    kind='flexar',
    repository=f'EPFL-VILAB/FlexAR-{size}',
    file='model.safetensors',
    tokenizer='flextok-d18-d28-dfn' if size.endswith('T2I') else '',
  )
  for size in ('113M-T2I', '382M-T2I', '1B-T2I', '3B-T2I', '1B-C2I')
)


def _adaptive(
  name: str, file: str, parameters: int, *arguments: int | str
) -> Released:
  """A file of KARL or ALIT, which their pages link on Dropbox."""
  return Released(
    name=name,
    kind=name.split('-')[0],
    config='released_config',
    arguments=arguments,
    parameters=parameters,
    repository='',
    file=file,
  )


# With the 54,515,587 of MAGE's VQGAN, which the files hold.
_ADAPTIVES = (
  _adaptive(
    'karl-small',
    'karl_small_vqgan_quantized_latents.pth',
    270_911_120,
    1024,
    'quantized',
  ),
  _adaptive(
    'karl-small-continuous',
    'karl_small_vqgan_continuous_latents.pth',
    270_861_968,
    1024,
    'continuous',
  ),
  _adaptive(
    'alit-small', 'alit_small_vqgan_quantized_latents.pth', 262_048_399, 'small'
  ),
  _adaptive(
    'alit-base', 'alit_base_vqgan_quantized_latents.pth', 228_689_551, 'base'
  ),
  _adaptive(
    'alit-semilarge',
    'alit_semilarge_vqgan_quantized_latents.pth',
    463_587_983,
    'semilarge',
  ),
)

RELEASED = {
  row.name: row
  for row in (
    _vqvae('var-vqvae', 256),
    _vqvae('var-vqvae-512', 512),
    _var(16),
    _var(20),
    _var(24),
    _var(30),
    _var(36, 512),
    _mvar('mvar-d16', 16),
    _mvar('mvar-finetune-d16', 16),
    _mvar('mvar-finetune-d20', 20),
    _mvar('mvar-finetune-d24', 24),
    Released(
      name='maskgit-vqgan',
      kind='maskgit-vqgan',
      config='released_config',
      parameters=54_515_587,
      repository='fun-research/TiTok',
      file='maskgit-vqgan-imagenet-f16-256.bin',
    ),
    *_TITOKS,
    *_ELASTICTOKS,
    _flextok_vae(4, 83_653_863),
    _flextok_vae(8, 83_709_419),
    _flextok_vae(16, 83_821_011),
    *_FLEXTOKS,
    *_ADAPTIVES,
    *_MASKGITS,
    *_RARS,
    *_MASKGENS,
    *_FLEXARS,
    *HOSTS,
    *PROJECTORS,
  )
}
