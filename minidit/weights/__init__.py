"""Weights: files of our own (`files`), and the official networks' (`official`)."""

from minidit.weights.files import (
    NETWORKS,
    Loaded,
    add_info,
    autoencoder_of,
    file_sha256,
    find,
    info,
    known,
    load,
    save,
    shipped,
    shipped_folder,
    start_from,
)

__all__ = ["NETWORKS", "Loaded", "add_info", "autoencoder_of", "file_sha256", "find", "info"]
__all__ += ["known", "load", "save", "shipped", "shipped_folder", "start_from"]
