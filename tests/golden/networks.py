"""Embeddings, networks, intermediate activations, gradients and guidance."""

import torch

from golden import DOUBLE, GUIDED, NETWORK, Comparison, Golden
from minidit import DiT, guided, load_official, sincos_2d, timestep_embedding, unpatchify

NETWORKS = (
    "dit_p2_c1_sigma",
    "dit_p2_c4_sigma",
    "dit_p4_c3_nodrop",
    "dit_p4_c4_nosigma",
    "dit_small_tokens",
)


def read(name):
    """The official weights as our network, and the file."""
    golden = Golden(name)
    null = golden.config["class_dropout_prob"] > 0
    return load_official(golden.part("sd/"), golden.config["num_heads"], null_label=null), golden


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


def outputs():
    """Networks in float32 and float64."""
    for name in NETWORKS:
        model, golden = read(name)
        x, t, y = golden["in/x"], golden["in/t"], golden["in/y"]
        with torch.no_grad():
            ours, ours64 = model(x, t, y), model.double()(x.double(), t, y)
        yield Comparison(golden.name, "out/y", ours, golden["out/y"], NETWORK, floor=None)
        yield Comparison(golden.name, "out64/y", ours64, golden["out64/y"], DOUBLE)


def guidance():
    """Both passes mixed, on the first three channels as officially, and on all of them."""
    for name in NETWORKS:
        model, golden = read(name)
        if "in/cfg_x" not in golden:
            continue
        half = len(golden["in/cfg_x"]) // 2
        x, t, y = (golden[f"in/cfg_{key}"][:half] for key in "xty")
        for key, channels in {"cfg_": 3, "cfg_all_": "all"}.items():
            for scale in ("1.5", "4.0"):
                official = golden[f"out/{key}{scale}"][:half]
                with torch.no_grad():
                    ours = guided(model, float(scale), channels)(x, t, y)
                what = f"out/{key}{scale}"
                yield Comparison(golden.name, what, ours, official, GUIDED, floor=None)


def activations(model: DiT, *inputs) -> dict[str, torch.Tensor]:
    """What passes between the parts of a DiT, by the golden files' names."""
    seen = {}
    first = model.blocks[0]

    def keep(module, *names, what=1):
        def hook(module, arguments, output):
            for name in names:
                value = output if what == 1 else arguments[0]
                seen[name] = value.detach()

        module.register_forward_hook(hook)

    keep(model.patch_embed, "patch_embed")
    keep(first, "tokens", what=0)
    keep(model.time_embed, "t_emb")
    keep(model.label_embed, "y_emb")
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


def inside():
    """Intermediate activations, and the size of the gradient of each weight."""
    for name in NETWORKS:
        model, golden = read(name)
        inputs = [golden[f"in/{key}"] for key in "xty"]
        middle = golden.part("mid/")
        if middle:
            seen = activations(model, *inputs)
            for key, official in middle.items():
                yield Comparison(golden.name, f"mid/{key}", seen[key], official, NETWORK)
        norms = golden.config.get("grad_l2_of_mean_sq")
        if norms:
            yield gradients(model, golden, inputs, norms)


def gradients(model, golden, inputs, norms):
    """Norms of d mean(output²)/d weight, by the official names; frozen tables have none."""
    from minidit.official import names_of

    weights = dict(model.named_parameters())
    names = names_of(len(model.blocks))
    model(*inputs).square().mean().backward()
    ours, official = [], []
    for key, norm in norms.items():
        gradient = weights[names[key]].grad
        assert (gradient is None) == (norm is None), key
        if norm is not None:
            ours.append(gradient.double().norm())
            official.append(norm)
    official = torch.tensor(official, dtype=torch.float64)
    return Comparison(golden.name, "norms of gradients", torch.stack(ours), official, NETWORK)
