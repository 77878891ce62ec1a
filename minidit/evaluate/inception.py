"""The features behind the usual FID (arXiv 1706.08500), by a library that minidit doesn't need.

They are an InceptionV3's, whose weights (91 MB) are no part of minidit or of the library.
"""

from pathlib import Path

import torch
from torch import Tensor

from minidit._validate import check_images
from minidit.weights import file_sha256

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # the sha256 begins with its last part
ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"


def inception(path: str | Path) -> torch.nn.Module:
    """The network that FID is defined by: (n, 3, h, w) uint8 → a tuple of features (n, 2048).

    Raises ValueError, in a sentence that tells what to do, without the library torch-fidelity or
    the file `path` of its weights.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError(
            'the Inception distance needs torch-fidelity; pip install "minidit[fid]"'
        ) from None
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; get it from {ORIGIN}")
    begin = WEIGHTS.removesuffix(".pth").rpartition("-")[2]
    if not file_sha256(path).startswith(begin):
        raise ValueError(
            f"{path} isn't {WEIGHTS}: its sha256 doesn't begin with {begin}; get it from {ORIGIN}"
        )
    try:  # the library would run what is pickled in the file; this refuses all but tensors
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise ValueError(f"{path} holds more than tensors; get it from {ORIGIN}") from error
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    )


@torch.no_grad()
def inception_features(network: torch.nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """(n, 3, h, w) uint8 → (n, 2048) on the CPU; on a processor core ten thousand take an hour."""
    check_images(images, 3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    return torch.cat([network(part.to(device))[0].cpu() for part in images.split(batch_size)])
