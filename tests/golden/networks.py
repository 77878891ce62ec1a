"""Embeddings, networks, intermediate activations, gradients and guidance.

Everything here depends on the float32 frequencies of the time's sinusoids, and their last place
depends on the processor, in the official codes as well. So they are read off the official
embeddings first, and must not differ from ours by more than that place.
"""

import functools
from unittest import mock

import torch

from golden import AUTOENCODER, DOUBLE, GUIDED, NETWORK, Comparison, Golden
from minidit import (
    DiT,
    UViT,
    embed,
    guided,
    load_official,
    sincos_2d,
    timestep_embedding,
    unpatchify,
)
from minidit.weights import official_dit, official_uvit

DITS = (
    "dit_p2_c1_sigma",
    "dit_p2_c4_sigma",
    "dit_p4_c3_nodrop",
    "dit_p4_c4_nosigma",
    "dit_small_tokens",
)
UVITS = (
    "uvit_cond_mlptime_noconv",
    "uvit_cond_noskip",
    "uvit_qkvbias_odd_depth",
    "uvit_small_tokens",
    "uvit_uncond",
)
NETWORKS = DITS + UVITS


def official_frequencies():
    """{half: (half,)} for the widths in embeddings.npz: the nearest to ours that give these."""
    golden, found = Golden("embeddings"), {}
    for key, official in golden.part("out/timestep_embedding_d").items():
        dim, t = int(key), golden["in/t"]
        ours = embed.frequencies(dim // 2)
        places = torch.tensor(sorted(range(-7, 8), key=abs), dtype=torch.int32)  # the nearest first
        tried = (ours.view(torch.int32) + places[:, None]).view(torch.float32)  # (15, half)
        angles = t[:, None, None] * tried  # (times, 15, half)
        waves = torch.stack([angles.cos(), angles.sin()])
        wanted = official[:, : 2 * len(ours)].unflatten(1, (2, 1, -1)).movedim(1, 0)
        best = (waves - wanted).abs().amax(dim=(0, 1)).argmin(dim=0)  # (half,)
        found[dim // 2] = tried.gather(0, best[None])[0]
    return found


def on_the_official_processor(comparisons):
    """The same comparisons, with frequencies rounded as where the files were made."""

    @functools.wraps(comparisons)
    def patched():
        ours, recorded = embed.frequencies, official_frequencies()

        def frequencies(half, max_period=10_000.0, device="cpu"):
            known = max_period == 10_000.0 and half in recorded
            return recorded[half] if known else ours(half, max_period, device)

        with mock.patch.object(embed, "frequencies", frequencies):
            yield from comparisons()

    return patched


def read(name):
    """The official weights as our network, and the file."""
    golden = Golden(name)
    null = golden.config.get("class_dropout_prob", 0.1) > 0
    return load_official(golden.part("sd/"), golden.config["num_heads"], null_label=null), golden


def inputs(golden):
    """Images, times, and labels if there are any."""
    return [golden[f"in/{key}"] for key in "xty" if f"in/{key}" in golden]


@on_the_official_processor
def embeddings():
    """Sinusoids of times, tables of positions, patches put together."""
    golden = Golden("embeddings")
    for key, official in golden.part("out/").items():
        if key.startswith("timestep_embedding"):
            t = golden["in/t_frac" if "_frac_" in key else "in/t"]
            period = 100.0 if "maxperiod100" in key else 10_000.0
            ours = timestep_embedding(t, int(key.rpartition("d")[2]), period)
            yield Comparison(golden.name, key, ours, official, NETWORK)
        elif key.startswith("pos_embed_d") and not key.endswith("cls1"):
            dim, grid = (int(part) for part in key.removeprefix("pos_embed_d").split("_g"))
            yield Comparison(golden.name, key, sincos_2d(dim, grid), official, DOUBLE)
    tokens = golden["in/unpatchify_dit_p2_outc6"]
    images = unpatchify(tokens, 2, 3)
    yield Comparison(golden.name, "unpatchify", images, golden["out/unpatchify_dit_p2_outc6"], 0.0)


@on_the_official_processor
def outputs():
    """Networks in float32 and float64."""
    for name in NETWORKS:
        model, golden = read(name)
        x, *rest = inputs(golden)
        with torch.no_grad():
            ours, ours64 = model(x, *rest), model.double()(x.double(), *rest)
        yield Comparison(golden.name, "out/y", ours, golden["out/y"], NETWORK, floor=None)
        yield Comparison(golden.name, "out64/y", ours64, golden["out64/y"], DOUBLE)


@on_the_official_processor
def names_of_diffusers():
    """The official network from diffusers' names, which computes with the official frequencies."""
    golden = Golden("hf_dit")
    heads, size = (golden.config["arguments"][k] for k in ("num_attention_heads", "sample_size"))
    weights = {k: z.float() for k, z in golden.part("sd/").items()}
    model = load_official(weights, heads, input_size=size)
    with torch.no_grad():
        ours = model(*inputs(golden))
    yield Comparison(golden.name, "out/y", ours, golden["out/y"], AUTOENCODER, floor=None)


@on_the_official_processor
def guidance():
    """Both passes mixed, on the first three channels as officially, and on all of them."""
    for name in DITS:
        model, golden = read(name)
        if "in/cfg_x" not in golden:
            continue
        half = len(golden["in/cfg_x"]) // 2
        x, t, y = (golden[f"in/cfg_{key}"][:half] for key in "xty")
        for key, channels in {"cfg_": 3, "cfg_all_": "all"}.items():
            if key == "cfg_" and model.in_channels < 3:
                continue  # officially, the variance is guided, too; here that is an error
            for scale in ("1.5", "4.0"):
                official = golden[f"out/{key}{scale}"][:half]
                with torch.no_grad():
                    ours = guided(model, float(scale), channels)(x, t, y)
                what = f"out/{key}{scale}"
                yield Comparison(golden.name, what, ours, official, GUIDED, floor=None)


@on_the_official_processor
def guidance_of_uvit():
    """U-ViT's convention, c + w·(c - u), and what it guides away from."""
    for name in UVITS:
        model, golden = read(name)
        if "out/y_null" not in golden:
            continue
        x, t, y = inputs(golden)
        with torch.no_grad():
            ours = model(x, t, torch.full_like(y, model.null_label))
            yield Comparison(golden.name, "out/y_null", ours, golden["out/y_null"], NETWORK)
            for w in ("0.4", "2.0"):
                ours, official = guided(model, 1 + float(w))(x, t, y), f"out/cfg_{w}"
                yield Comparison(golden.name, official, ours, golden[official], GUIDED, floor=None)


def keeper(seen):
    """A function that makes a module keep what leaves it, or with what=0 what enters it."""

    def keep(module, name, what=1):
        def hook(module, arguments, output):
            seen[name] = (output if what == 1 else arguments[0]).detach()

        module.register_forward_hook(hook)

    return keep


def activations(model, *inputs) -> dict[str, torch.Tensor]:
    """What passes between the parts of a network, by the golden files' names."""
    return (activations_of_dit if isinstance(model, DiT) else activations_of_uvit)(model, *inputs)


def activations_of_uvit(model: UViT, *inputs) -> dict[str, torch.Tensor]:
    """The same for a U-ViT; its last linear layer sees the patches' tokens only."""
    seen = {}
    keep = keeper(seen)
    half, first = model.half, model.blocks[0]
    keep(model.patch_embed, "patch_embed")
    keep(first, "tokens", what=0)
    for part in ("norm1", "attn", "norm2", "mlp"):
        keep(getattr(first, part), f"in0_{part}_out")
    for i, block in enumerate(model.blocks):
        place = f"in{i}_block" if i < half else f"out{i - half - 1}_block"
        keep(block, "mid_block_out" if i == half else f"{place}_out")
    keep(model.skips[0].proj, "out0_skip_linear_in", what=0)
    keep(model.skips[0].proj, "out0_skip_linear_out")
    keep(model.final.norm, "norm")
    keep(model.final.proj, "decoder_pred")
    if model.conv_after is not None:
        keep(model.conv_after, "unpatchified", what=0)
    seen["output"] = model(*inputs).detach()
    seen.setdefault("unpatchified", seen["output"])
    with torch.no_grad():
        return seen | {"time_token": model.time_vector(inputs[1])}


def activations_of_dit(model: DiT, *inputs) -> dict[str, torch.Tensor]:
    """The same for a DiT."""
    seen = {}
    keep = keeper(seen)
    first = model.blocks[0]
    keep(model.patch_embed, "patch_embed")
    keep(first, "tokens", what=0)
    keep(model.time_embed, "t_emb")
    keep(model.label_embed.table, "y_emb")
    keep(first.norm1, "block0_norm1")
    keep(first.adaln, "block0_adaln")
    for part in ("attn", "mlp"):
        keep(getattr(first, part), f"block0_{part}_in", what=0)
        keep(getattr(first, part), f"block0_{part}_out")
    for i, block in enumerate(model.blocks):
        keep(block, f"block{i}_out")
    keep(model.final, "final_layer")
    model(*inputs)
    return seen | {"c": seen["t_emb"] + seen["y_emb"]}


@on_the_official_processor
def inside():
    """Intermediate activations, and the size of the gradient of each weight."""
    for name in NETWORKS:
        model, golden = read(name)
        middle = golden.part("mid/")
        if middle:
            seen = activations(model, *inputs(golden))
            for key, official in middle.items():
                if key in ("norm", "decoder_pred"):  # all tokens there, those of the patches here
                    official = official[:, -seen[key].shape[1] :]
                yield Comparison(golden.name, f"mid/{key}", seen[key], official, NETWORK)
        norms = golden.config.get("grad_l2_of_mean_sq")
        if norms:
            yield gradients(model, golden, norms)


def gradients(model, golden, norms):
    """Norms of d mean(output²)/d weight, by the official names; frozen tables have none."""
    weights = dict(model.named_parameters())
    code = official_dit if isinstance(model, DiT) else official_uvit
    names = code.names_of(model.config)
    model(*inputs(golden)).square().mean().backward()
    ours, official = [], []
    for key, norm in norms.items():
        gradient = weights[names[key]].grad
        assert (gradient is None) == (norm is None), key
        if norm is not None:
            ours.append(gradient.double().norm())
            official.append(norm)
    official = torch.tensor(official, dtype=torch.float64)
    return Comparison(golden.name, "norms of gradients", torch.stack(ours), official, NETWORK)
