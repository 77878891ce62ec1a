"""Is your own version right? And if it isn't, what is the likeliest mistake?

`check.patchify(my_patchify)` compares a function with the package's on awkward inputs. The common
mistakes are listed as functions that make them: one that does the same as yours on every input
tells what happened. Each topic has a file.
"""
# ruff: noqa: F401 - one public place for all checks

from minidit.check.blocks import (
    adaln_step,
    adaln_zero_step,
    attention,
    block_parameters,
    cross_attention_step,
    in_context_step,
    key_mask,
    modulate,
)
from minidit.check.classifier_free import guidance, guidance_w, negative_guidance, ramped_guidance
from minidit.check.conditions import label_dropout, mirrored_layout, word_numbers
from minidit.check.diffusion import (
    best_fraction,
    ema_update,
    gaussian_score,
    learned_log_variance,
    normal_kl,
    posterior_mean,
    q_sample,
    x0_from_v,
)
from minidit.check.latents import (
    kl_from_standard,
    latent_scale,
    quantise,
    straight_through,
    to_pixels,
    token_count,
    with_mirrors,
)
from minidit.check.likelihood import grey_probability, hybrid_loss, variational_term
from minidit.check.network import final_layer, parallel_block, unused_parameters
from minidit.check.official import first_difference, sizes, split_qkv
from minidit.check.property import property_test
from minidit.check.sampling import (
    ancestral_sampler,
    ancestral_step,
    ddim_step,
    derivatives,
    respaced_betas,
)
from minidit.check.skips import as_concat, inner_width, long_skip, u_walk, uvit_forward
from minidit.check.tokens import patchify, positions, timestep_embedding, unpatchify
from minidit.check.training import accumulated_step, corrected_average, repaired_loop
from minidit.check.verdict import Verdict
