"""The names of CompVis/latent-diffusion: those of our autoencoders, but for the codebook."""

from collections.abc import Mapping

from torch import Tensor

from minidit.latents.autoencoder import Autoencoder, KLAutoencoder, VQAutoencoder
from minidit.weights import Outline

Network = Autoencoder
HEADS: dict[int, int] = {}  # of no transformer
TABLE = "quantize.embedding.weight"  # ours is quantizer.table
STABLE_DIFFUSION = dict(width=128, multipliers=(1, 2, 4, 4), blocks=2, latent_channels=4)
SCALE = 0.18215  # of the latents of every autoencoder of that shape but SDXL's
SIGNS = ("decoder.mid.attn_1.q.",)  # with which a name of this code begins
GROUPS = 32  # of its normalisations


def outline(tensors: Mapping[str, Tensor]) -> dict:
    """The arguments of the autoencoder that a state dict's names and shapes tell."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim not in (2, 4):
            raise ValueError(f"these are no whole autoencoder's weights: {name} is missing or odd")
        return tuple(tensors[name].shape)

    def count(start: str) -> int:
        places = (name[len(start) :] for name in tensors if name.startswith(start))
        return len({place.split(".")[0] for place in places})

    width, in_channels = shape("encoder.conv_in.weight")[:2]
    levels = range(count("encoder.down."))
    widths = [shape(f"encoder.down.{k}.block.0.conv1.weight")[0] for k in levels]
    config = {
        "in_channels": in_channels,
        "latent_channels": shape("post_quant_conv.weight")[1],
        "z_channels": shape("decoder.conv_in.weight")[1],
        "width": width,
        "multipliers": tuple(channels // width for channels in widths),
        "blocks": count("encoder.down.0.block."),
        "attention": tuple(k for k in levels if count(f"encoder.down.{k}.attn.")),
    }
    codebook = {"num_codes": shape(TABLE)[0], "convention": "legacy"} if TABLE in tensors else {}
    return config | codebook


def build(config: dict) -> Autoencoder:
    """The autoencoder with these arguments."""
    return (VQAutoencoder if "num_codes" in config else KLAutoencoder)(**config)


def names_of(config: dict) -> dict[str, str]:
    """Official → our names; the scale has none."""
    with Outline():
        own = [name for name in build(config).state_dict() if name != "scale"]
    return {TABLE if name == "quantizer.table" else name: name for name in own}


def check_export(model: Autoencoder) -> None:
    """ValueError for a network that the official code would build with other groups."""
    if model.config["groups"] not in (None, GROUPS):
        raise ValueError(f"groups={model.config['groups']}: the official code always has {GROUPS}")


def finish(model: Autoencoder, told: dict) -> None:
    """Set what isn't in an official autoencoder's weights.

    The scale of the latents: what config.json says, Stable Diffusion's for its shape, or 1. The
    groups of the normalisations: what config.json says, if it does.
    """
    known = all(model.config.get(k) == v for k, v in STABLE_DIFFUSION.items())
    scale = told.get("scaling_factor", SCALE if known else 1.0)
    model.scale = model.quant_conv.weight.new_full((), scale)
    if "norm_num_groups" in told:
        model.set_groups(told["norm_num_groups"])
