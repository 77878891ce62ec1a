"""U-ViT: a ViT in which everything is a token, with long skips (Bao et al., arXiv 2209.12152)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from minidit._validate import check_choice, check_grid, check_inputs, check_positive, plain_size
from minidit.blocks import BLOCKS, FinalLayer, LongSkip, checkpointed
from minidit.embed import (
    TimestepEmbedder,
    check_start,
    condition_tokens,
    make_condition,
    sincos_2d,
    timestep_embedding,
)
from minidit.patches import ConvPatchEmbed, PatchEmbed, unpatchify

TIMES = {"token": "in_context", "adaln": "adaln", "adaln_zero": "adaln_zero"}  # our blocks
PATCH_EMBEDS = {"linear": PatchEmbed, "conv": ConvPatchEmbed}
CONVS = ("after", "before", "none")
POSITIONS = ("learned_1d", "sincos_2d", "none")
STD = 0.02  # of every linear layer at the start, but for the patch embedding


class UViT(nn.Module):
    """Noisy images (b, c, h, w) and times in, a prediction for every pixel out.

    The tokens are the label's (or a text's words), the time's, and those of the patches, in this
    order. They pass `depth` // 2 blocks, one in the middle, and `depth` // 2 more, each of which is
    joined by the output of the early block at the same height.

    `input_size`, `patch_size`, `num_classes`, `class_dropout_prob`, `learn_sigma`, `label_std`,
    `condition` and `checkpointing`: as for `DiT`.
    The choices of the paper's ablation (figure 2), its own first: `skip`: "concat", "add",
    "add_linear", "linear_add" or "none" (see `LongSkip`). `time`: as a "token", or through adaptive
    normalisations, "adaln" (or the DiT's "adaln_zero"). `conv`: 3×3, "after" the last linear layer,
    "before" it, or "none". `patch_embed`: "linear" or "conv". `pos_embed`: "learned_1d",
    "sincos_2d" or "none".
    `pos_std`: scale of the learned positions at the start. The official code uses 0.02; near 0.7,
    the size of sinusoids, they tell patches apart from the first step, which matters in short runs.
    `time_mlp`: an MLP on the sinusoids of the time, which otherwise are its token as they are.
    """

    checkpointing = False

    def __init__(
        self,
        input_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 3,
        hidden_size: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        num_classes: int = 0,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = False,
        skip: str = "concat",
        time: str = "token",
        conv: str = "after",
        patch_embed: str = "linear",
        pos_embed: str = "learned_1d",
        time_mlp: bool = False,
        qkv_bias: bool = False,
        label_std: float = 0.02,
        pos_std: float = 0.02,
        condition: dict | None = None,
    ) -> None:
        input_size = plain_size(input_size)
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        check_choice("time", time, TIMES)
        check_choice("conv", conv, CONVS)
        check_choice("patch_embed", patch_embed, PATCH_EMBEDS)
        check_choice("pos_embed", pos_embed, POSITIONS)
        check_start(class_dropout_prob, pos_std, "pos_std")
        check_positive(depth=depth, in_channels=in_channels, hidden_size=hidden_size)
        self.size, self.grid = check_grid(input_size, patch_size)
        self.in_channels, self.patch_size = in_channels, patch_size
        n, d = self.grid[0] * self.grid[1], hidden_size

        self.patch_embed = PATCH_EMBEDS[patch_embed](in_channels, patch_size, d)
        self.time_embed = TimestepEmbedder(d, frequencies=d, inner=4 * d) if time_mlp else None
        self.label_embed = make_condition(condition, num_classes, d, class_dropout_prob, label_std)
        if condition is not None and time != "token":
            raise ValueError(f"time={time!r} can't go with a condition; use time='token'")
        self.null_label = getattr(self.label_embed, "null_label", None)
        tokens = getattr(self.label_embed, "num_tokens", 0)
        self.extras = (time == "token") + tokens  # tokens that are no patches
        self.pos_embed = self._positions(pos_embed, n)
        self.in_context = BLOCKS[TIMES[time]].in_context
        self.half = depth // 2
        own = dict(eps=1e-5, gelu="none", qkv_bias=qkv_bias, std=STD)
        self.blocks = nn.ModuleList(
            BLOCKS[TIMES[time]](d, num_heads, mlp_ratio, **own) for _ in range(2 * self.half + 1)
        )
        self.skips = nn.ModuleList(LongSkip(skip, d, STD) for _ in range(self.half))
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.conv_before = nn.Conv2d(d, d, 3, padding=1) if conv == "before" else None
        self.final = FinalLayer(d, patch_size**2 * out_channels, adaptive=False, eps=1e-5, std=STD)
        self.conv_after = (
            nn.Conv2d(out_channels, out_channels, 3, padding=1) if conv == "after" else None
        )

    def _positions(self, kind: str, n: int) -> nn.Parameter | None:
        """(extras + n, d), learned, or fixed with zeros for the tokens that are no patches."""
        if kind == "none":
            return None
        table = torch.randn(self.extras + n, self.config["hidden_size"]) * self.config["pos_std"]
        if kind == "sincos_2d":
            table[: self.extras] = 0
            table[self.extras :] = sincos_2d(table.shape[1], self.grid)
        return nn.Parameter(table, requires_grad=kind == "learned_1d")

    def _places(self, count: int) -> Tensor:
        """The positions of `count` tokens; where a text is short, those of its last words go."""
        missing, time = len(self.pos_embed) - count, self.extras - 1
        if not missing:
            return self.pos_embed
        return torch.cat([self.pos_embed[: time - missing], self.pos_embed[time:]])

    def time_vector(self, t: Tensor) -> Tensor:
        """(b,) → (b, d): the sinusoids of t, or an MLP of them."""
        if self.time_embed is not None:
            return self.time_embed(t)
        return timestep_embedding(t, self.config["hidden_size"]).to(self.final.norm.weight.dtype)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(b, c, h, w), (b,), labels (b,) or what `condition` says → (b, c or 2c, h, w)."""
        check_inputs(x, t, self.in_channels, self.size)
        cond = self.time_vector(t)[:, None]  # (b, 1, d)
        tokens, mask = condition_tokens(self.label_embed, y, t.shape[0])
        if self.in_context:
            tokens.append(cond)
        patches = self.patch_embed(x.to(cond.dtype))  # (b, n, d)
        if hasattr(self.label_embed, "join"):  # an image: more channels of x
            patches = self.label_embed.join(patches, y)  # (b, n, d)
        tokens = torch.cat([*tokens, patches], dim=1)  # (b, extras + n, d)
        if self.pos_embed is not None:
            tokens = tokens + self._places(tokens.shape[1])
        early = []
        for k, block in enumerate(self.blocks):
            if k > self.half:  # the last block down meets the first one up
                tokens = self.skips[k - self.half - 1](tokens, early.pop())  # (b, extras + n, d)
            tokens = checkpointed(block, tokens, cond, self.checkpointing, mask)
            if k < self.half:
                early.append(tokens)
        return self._to_image(tokens, cond)

    def _to_image(self, tokens: Tensor, cond: Tensor) -> Tensor:
        """(b, extras + n, d) → (b, c or 2c, h, w)."""
        tokens = tokens[:, -self.grid[0] * self.grid[1] :]  # (b, n, d)
        if self.conv_before is not None:
            h, w = self.grid
            plane = rearrange(self.final.norm(tokens), "b (h w) d -> b d h w", h=h, w=w)
            plane = self.conv_before(plane)  # (b, d, h, w)
            patches = self.final.proj(rearrange(plane, "b d h w -> b (h w) d"))
        else:
            patches = self.final(tokens, cond)  # (b, n, features)
        image = unpatchify(patches, self.patch_size, self.grid)  # (b, c or 2c, h, w)
        return image if self.conv_after is None else self.conv_after(image)


# The paper's table 1: CIFAR-10 (S/2), latents of MS-COCO (S-Deep/2), ImageNet at 64² (M/4, with no
# null label), and latents of ImageNet at 256² (L/2, H/2). Any part can be replaced, as for the DiT.
UVIT_SIZES: dict[str, dict] = {
    name: dict(
        input_size=64 if patch_size == 4 else 32,
        patch_size=patch_size,
        in_channels=in_channels,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        **more,
    )
    for name, patch_size, in_channels, hidden_size, depth, num_heads, more in [
        ("S/2", 2, 3, 512, 12, 8, {}),
        ("S-Deep/2", 2, 4, 512, 16, 8, {}),
        ("M/4", 4, 3, 768, 16, 12, {"num_classes": 1000, "class_dropout_prob": 0.0}),
        ("L/2", 2, 4, 1024, 20, 16, {"num_classes": 1000}),
        ("H/2", 2, 4, 1152, 28, 16, {"num_classes": 1000, "conv": "none"}),
    ]
}
