"""The diffusion transformer (Peebles & Xie, arXiv 2212.09748, section 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_choice, check_grid, check_inputs, check_positive, plain_size
from minidit.blocks import BLOCKS, FinalLayer, checkpointed
from minidit.embed import TIME_EMBEDDERS, condition_tokens, make_condition, sincos_2d
from minidit.patches import PatchEmbed, unpatchify


class DiT(nn.Module):
    """Noisy images (b, c, h, w) and times in, a prediction for every pixel out.

    `input_size`: side of the square images, or (height, width); `patch_size` must divide it.
    `num_classes`: labels 0 … num_classes - 1; 0 for a network without labels. With
    `class_dropout_prob` > 0 there is one label more, `null_label`, for guidance.
    `learn_sigma`: 2c output channels, the second half for the variance.
    `condition`: a text, layout or image in place of labels, then with num_classes=0, plain values:
    {"encoder": "text", "words": [...], "length": 24} (see `make_condition` and its encoders).
    `block`: "in_context", "cross_attention", "adaln" or "adaln_zero" (section 3.2), or a later one.
    `label_std`: scale of the label table at the start (see `LabelEmbedder`). `time_embed`: a key of
    `TIME_EMBEDDERS`.
    Set `checkpointing` to True to train with less memory and more computing (see `checkpointed`).
    """

    checkpointing = False

    def __init__(
        self,
        input_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = True,
        block: str = "adaln_zero",
        label_std: float = 0.02,
        condition: dict | None = None,
        time_embed: str = "sinusoidal",
    ) -> None:
        input_size = plain_size(input_size)
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        check_choice("block", block, BLOCKS)
        check_choice("time_embed", time_embed, TIME_EMBEDDERS)
        check_positive(depth=depth, in_channels=in_channels)
        self.size, self.grid = check_grid(input_size, patch_size)
        self.in_channels, self.patch_size = in_channels, patch_size
        out_channels = 2 * in_channels if learn_sigma else in_channels

        self.patch_embed = PatchEmbed(in_channels, patch_size, hidden_size)
        # Frozen, but a parameter: the paper's parameter counts include it, and checkpoints hold it.
        weight = self.patch_embed.proj.weight
        self.pos_embed = nn.Parameter(sincos_2d(hidden_size, self.grid).to(weight.dtype), False)
        self.time_embed = TIME_EMBEDDERS[time_embed](hidden_size)
        self.label_embed = make_condition(
            condition, num_classes, hidden_size, class_dropout_prob, label_std
        )
        self.null_label = getattr(self.label_embed, "null_label", None)
        self.blocks = BLOCKS[block].stack(depth, self.grid, hidden_size, num_heads, mlp_ratio)
        adaptive, self.in_context = BLOCKS[block].num_modulations > 0, BLOCKS[block].in_context
        self.final = FinalLayer(hidden_size, patch_size**2 * out_channels, adaptive)

    def condition(self, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The condition as tokens, time first: (b,), y → (b, m, d); where there is padding, a mask.

        The mask (b, m) is False for padding, whose tokens are zeros.
        """
        tokens, mask = condition_tokens(self.label_embed, y, t.shape[0])
        if mask is not None:
            mask = F.pad(mask, (1, 0), value=True)  # the time is never padding
        return torch.cat([self.time_embed(t)[:, None], *tokens], dim=1), mask

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(b, c, h, w), (b,), labels (b,) or what `condition` says → (b, c or 2c, h, w)."""
        check_inputs(x, t, self.in_channels, self.size)
        tokens = self.patch_embed(x.to(self.pos_embed.dtype)) + self.pos_embed  # (b, n, d)
        cond, mask = self.condition(t, y)  # (b, m, d), (b, m) or None
        if hasattr(self.label_embed, "join"):  # an image: more channels of x
            tokens = self.label_embed.join(tokens, y)  # (b, n, d)
        if self.in_context:
            tokens = torch.cat([cond, tokens], dim=1)  # (b, m + n, d)
        for block in self.blocks:
            tokens = checkpointed(block, tokens, cond, self.checkpointing, mask)
        tokens = tokens[:, -self.pos_embed.shape[0] :]  # (b, n, d): in-context tokens leave
        return unpatchify(self.final(tokens, cond), self.patch_size, self.grid)


# The paper's table 1, for 32×32×4 latents of 256² ImageNet images; any part can be replaced:
# DiT(**DIT_SIZES["S/2"] | {"num_classes": 10}).
DIT_SIZES = {
    f"{name}/{patch}": dict(
        input_size=32,
        patch_size=patch,
        in_channels=4,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        num_classes=1000,
        learn_sigma=True,
    )
    for name, depth, hidden_size, num_heads in [
        ("S", 12, 384, 6),
        ("B", 12, 768, 12),
        ("L", 24, 1024, 16),
        ("XL", 28, 1152, 16),
    ]
    for patch in (2, 4, 8)
}
