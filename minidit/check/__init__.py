"""Is your own version right? And if it isn't, what is the likeliest mistake?

`check.patchify(my_patchify)` compares a function with the package's on awkward inputs. The common
mistakes are listed as functions that make them: one that does the same as yours on every input
tells what happened. Each topic has a file.
"""
# ruff: noqa: F401 - one public place for all checks

from minidit.check.classifier_free import (
    guidance,
    limited_guidance,
    negative_guidance,
    ramped_guidance,
)
from minidit.check.conditions import key_mask, label_dropout, mirrored_layout
from minidit.check.diffusion import best_fraction, gaussian_score, hybrid_loss, x0_from_v
from minidit.check.evidence import permutation_share, scaling_slopes
from minidit.check.latents import finest_patch, latent_sampler, latent_scale, quantise, with_mirrors
from minidit.check.network import block_parameters, final_layer, parallel_block, unused_parameters
from minidit.check.official import first_difference, sizes, split_qkv
from minidit.check.property import property_test
from minidit.check.sampling import (
    ancestral_sampler,
    consistency_sampler,
    ddim_sampler,
    derivatives,
    respaced_betas,
)
from minidit.check.skips import as_concat, inner_width, uvit_forward
from minidit.check.tokens import clock, patchify, positions, timestep_embedding, unpatchify
from minidit.check.training import accumulated_step, corrected_average, repaired_loop
from minidit.check.verdict import Verdict
