"""A critic that looks at patches, to make reconstructions crisp (VQGAN, arXiv 2012.09841, section
3.1; LDM, arXiv 2112.10752, appendix G): hinge losses, and a weight that adapts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_positive


class PatchDiscriminator(nn.Module):
    """Images (b, c, h, w) → a grid of opinions (b, 1, h', w'), above zero for "real".

    As in pix2pix (arXiv 1611.07004), but with normalisations that don't mix images: a batch of
    real ones and one of false ones see the same network.
    """

    def __init__(self, in_channels: int, width: int = 32) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, width=width)
        self.in_channels = in_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, 2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, padding=1),
            nn.GroupNorm(1, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.GroupNorm(1, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, h, w) → (b, 1, h/4, w/4)."""
        check_images(images, self.in_channels)
        return self.layers(images)


def hinge_loss(real: Tensor, false: Tensor) -> Tensor:
    """The critic's loss, a scalar, from opinions (b, 1, h, w): real and false should pass ±1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + false).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """‖∇ reconstruction‖ / ‖∇ adversarial‖, gradients of both losses (scalars) for `last`.

    `last`: the decoder's last weights. The critic then pulls as hard as the reconstruction does.
    """
    (ours,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (its,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (ours.norm() / (its.norm() + 1e-4)).clamp(max=1e4).detach()
