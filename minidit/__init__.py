"""minidit: the diffusion transformer, built step by step."""

from minidit.patches import ConvPatchEmbed, PatchEmbed, patchify, unpatchify
from minidit.embed import LabelEmbedder, TimestepEmbedder, sincos_2d, timestep_embedding
from minidit.attention import Attention, Mlp
from minidit.schedule import SCHEDULES, Schedule, cosine, linear, scaled_linear, straight, vp_sde
from minidit.blocks import BLOCKS, SKIPS, FinalLayer, LongSkip, modulate
from minidit.diffusion import Diffusion
from minidit.tokenizer import Tokenizer
from minidit.condition import ENCODERS, LayoutEncoder, TextEncoder
from minidit.gaussian import DiagonalGaussian
from minidit.quantize import Quantizer
from minidit.encoder import Decoder, Encoder
from minidit.autoencoder import KLAutoencoder, VQAutoencoder
from minidit.dit import DIT_SIZES, DiT
from minidit.uvit import UVIT_SIZES, UViT, without_skips
from minidit.steps import select_steps, space_timesteps
from minidit.dpm_solver import dpm_solver
from minidit.dpm_adaptive import dpm_adaptive
from minidit.sde import euler_maruyama
from minidit.sample import SAMPLERS, ddim, ddim_invert, ddpm, guided, sample
from minidit.bits import bits_per_dim
from minidit.counts import count
from minidit.maps import attention_maps
from minidit.official import export_official, load_official
from minidit.recipe import Recipe
from minidit.train import EMA, fit
from minidit.train_autoencoder import Terms, fit_autoencoder
from minidit.weights import load, save
from minidit import latent
