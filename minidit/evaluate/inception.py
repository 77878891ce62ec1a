"""The features behind the usual FID (arXiv 1706.08500), by a library that minidit doesn't need."""

from pathlib import Path

import torch
from torch import Tensor

from minidit._validate import check_images
from minidit.weights import file_sha256

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # 91 MB; its sha256 begins with 6726825d
ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"


def inception(path: str | Path) -> torch.nn.Module:
    """FID's network, (n, 3, h, w) uint8 → a tuple of (n, 2048); ValueError tells what is needed."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        told = "the Inception distance needs torch-fidelity"
        raise ValueError(f'{told}; pip install "minidit[fid]"') from None
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing; get it from {ORIGIN}")
    begin = WEIGHTS.removesuffix(".pth").rpartition("-")[2]
    if not file_sha256(path).startswith(begin):
        fault = f"{path} isn't {WEIGHTS}: its sha256 doesn't begin with {begin}"
        raise ValueError(f"{fault}; get it from {ORIGIN}")
    try:  # the library would run what is pickled in the file; this refuses all but tensors
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise ValueError(f"{path} holds more than tensors; get it from {ORIGIN}") from error
    weights = {"feature_extractor_weights_path": str(path)}
    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], **weights)


@torch.no_grad()
def inception_features(network: torch.nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """(n, 3, h, w) uint8 → (n, 2048) on the CPU; on a processor core ten thousand take an hour."""
    check_images(images, 3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    return torch.cat([network(part.to(device))[0].cpu() for part in images.split(batch_size)])
