"""minidit: the diffusion transformer, built step by step."""

import signal
import sys

__version__ = "0.1.0"
# While `python -m minidit` is being imported, Ctrl-C ends it without a word.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# The core, in the order in which the notebooks build it.
from minidit.patches import ConvPatchEmbed, PatchEmbed, patchify, unpatchify
from minidit.embed import ENCODERS, LabelEmbedder, TimestepEmbedder, sincos_2d, timestep_embedding
from minidit.attention import Attention, Mlp
from minidit.blocks import BLOCKS, SKIPS, FinalLayer, LongSkip, modulate
from minidit.dit import DIT_SIZES, DiT
from minidit.uvit import UVIT_SIZES, UViT
from minidit.schedule import SCHEDULES, Schedule, cosine, linear, scaled_linear, straight
from minidit.diffusion import Diffusion
from minidit.sampling import SAMPLERS, ddim, ddpm, guided, sample, select_steps, space_timesteps
from minidit.train import EMA, Recipe, fit

# The folders; what they add to the core's registries is then known to everyone.
from minidit import training
from minidit.training.presets import without_skips
from minidit.solvers import ddim_invert, dpm_adaptive, dpm_solver, euler_maruyama, vp_sde
from minidit.weights import NETWORKS, load, official, save
from minidit.weights.official import export_official, load_official
from minidit.conditions import LayoutEncoder, TextEncoder, Tokenizer
from minidit.latents.gaussian import DiagonalGaussian
from minidit.latents.quantizer import Quantizer
from minidit.latents.encoder import Decoder, Encoder
from minidit.latents.autoencoder import KLAutoencoder, VQAutoencoder
from minidit.latents.training import Terms, fit_autoencoder
from minidit.latents import latent, official_ldm
from minidit.evaluate.attention import attention_maps
from minidit.evaluate.classifier import Classifier
from minidit.evaluate.detector import SceneDetector
from minidit.evaluate.flops import count
from minidit.evaluate.nll import bits_per_dim

official.CODES.append(official_ldm)
NETWORKS |= {n.__name__: n for n in (Classifier, SceneDetector, KLAutoencoder, VQAutoencoder)}
