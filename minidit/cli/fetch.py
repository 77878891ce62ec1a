"""What `fetch` does: it gets official weights, which are too large to be shipped."""

from argparse import Namespace
from pathlib import Path

from minidit import data
from minidit.cli.terminal import bar, command
from minidit.data.fetch import Source
from minidit.data.fetch import fetch as download

# Folder and file. Their authors publish neither size nor sha256: the server tells the size.
_DIT = ("https://dl.fbaipublicfiles.com/DiT/models/",)
_VAE = ("https://huggingface.co/stabilityai/sd-vae-ft-ema/resolve/main/",)
AUTOENCODER = "sd-vae-ft-ema", Source("diffusion_pytorch_model.safetensors", None, None, _VAE)
FILES = {
    f"dit-xl-2{end}": (("", Source(f"DiT-XL-2-{side}x{side}.pt", None, None, _DIT)), AUTOENCODER)
    for end, side in {"": 256, "-512": 512}.items()
}


def add(subparsers) -> None:
    """The options of `fetch`."""
    told = "download official weights of DiT-XL/2 (2.7 GB, CC BY-NC) and their autoencoder"
    option = command(subparsers, fetch, told)
    option("name", choices=FILES, help="256×256 pixels, or 512×512")
    option("--out", help="folder (default: official, where the data sets lie)")


def fetch(args: Namespace) -> None:
    """Download what isn't there yet; a transfer that broke off goes on."""
    folder = data.data_root() / "official" if args.out is None else Path(args.out).expanduser()
    paths = [folder / inner / source.name for inner, source in FILES[args.name]]
    for (_, source), path in zip(FILES[args.name], paths):
        if not path.is_file():
            with bar(0, unit="B") as progress:

                def report(done: int, size: int | None) -> None:
                    progress.total = size
                    progress.update(done - progress.n)

                download(source, path.parent, report)
            print(f"{path}: {path.stat().st_size:,} bytes; no sha256 of it is published")
    network, autoencoder = paths
    print(f"python -m minidit sample --weights {network} --autoencoder {autoencoder}", end=" ")
    print("--labels 207,360,387,974 --guidance 4 --out dogs.png")
