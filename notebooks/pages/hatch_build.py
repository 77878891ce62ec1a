"""What hatchling calls when it builds a wheel: smaller weights and results, README with full links.

A clone and its notebooks have the weights as they were trained, in float32; wheels, and the page
that draws digits, have them halved. Needs nothing but Python, and takes what weights there are.
"""

import hashlib
import json
import re
import struct
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parent.parent.parent
IN_A_CLONE = ("uvit-mnist-fine", "dit-mnist-fine-modern")  # alone: a wheel shall stay below 35 MB


def halved(content: bytes) -> bytes:
    """A safetensors file with every float32 tensor as float16; the rest, and the header, stay.

    Rounded to ten bits instead of float16's eleven: networks don't feel it, a wheel does.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header, parts, place = json.loads(content[8:start]), [], 0
    for entry in sorted(header.keys() - {"__metadata__"}, key=lambda k: header[k]["data_offsets"]):
        first, last = (start + offset for offset in header[entry]["data_offsets"])
        parts.append(content[first:last])
        if header[entry]["dtype"] == "F32":
            count = (last - first) // 4
            bits = (b + 0x2000 & 0xFFFFC000 for b in struct.unpack(f"<{count}I", parts[-1]))
            floats = struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *bits))
            parts[-1] = struct.pack(f"<{count}e", *floats)
            header[entry]["dtype"] = "F16"
        header[entry]["data_offsets"] = [place, place + len(parts[-1])]
        place += len(parts[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def halves() -> dict[str, bytes]:
    """Shipped weights, halved, and their JSON files: by name.

    Latents' networks name their autoencoder by its sha256, so the new ones are put everywhere.
    """
    paths = sorted((ROOT / "data" / "weights").glob("*.safetensors"))
    paths = [path for path in paths if path.stem not in IN_A_CLONE]
    content = {path.name: halved(path.read_bytes()) for path in paths}
    notes = {path.name: path.with_suffix(".json").read_text("utf-8") for path in paths}
    for name in sorted(notes, key=lambda name: '"autoencoder": {' in notes[name]):
        old = json.loads(notes[name])["sha256"]
        new = hashlib.sha256(content[name]).hexdigest()
        size = f'"bytes": {len(content[name])}'
        notes[name] = re.sub(r'"bytes": \d+', size, notes[name], count=1)
        for other in notes:
            content[other] = content[other].replace(old.encode(), new.encode())
            notes[other] = notes[other].replace(old, new)
    return content | {f"{Path(name).stem}.json": text.encode() for name, text in notes.items()}


def results() -> dict[str, bytes]:
    """What notebooks read of data/results, without spaces; sweeps of rates and benchmarks stay."""
    paths = (ROOT / "data" / "results").glob("*.json")
    read = (path for path in paths if not re.match(r"bench|growth|.*-rates", path.stem))
    short = {"ensure_ascii": False, "separators": (",", ":")}
    return {
        path.name: json.dumps(json.loads(path.read_text("utf-8")), **short).encode()
        for path in read
    }


class Halves(BuildHookInterface):
    """Puts weights, halved, and results into a wheel, where `shipped_folder` and `results` look."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Called by hatchling before it builds; an editable installation reads the clone's."""
        self.folder = tempfile.TemporaryDirectory()
        shipped = {"weights": halves, "results": results} if version != "editable" else {}
        for kind, found in shipped.items():
            for name, content in found().items():
                path = Path(self.folder.name, f"{kind}-{name}")
                path.write_bytes(content)
                build_data["force_include"][str(path)] = f"minidit/_shipped/{kind}/{name}"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        """Called after it; the wheel has what it needs."""
        self.folder.cleanup()


LOCAL = re.compile(r'(\]\(|href="|src=")(?![a-z]+:|#)([^)"]+)')  # a link inside the repository


class Readme(MetadataHookInterface):
    """README for a package index, where a link needs the repository's address, if there is one."""

    def update(self, metadata: dict) -> None:
        """Called by hatchling for what pyproject.toml declares dynamic."""
        text = Path(self.root, "README.md").read_text("utf-8")
        if address := metadata.get("urls", {}).get("Repository"):
            kinds = {'src="': "raw"}
            text = LOCAL.sub(
                lambda m: f"{m[1]}{address.rstrip('/')}/{kinds.get(m[1], 'blob')}/main/{m[2]}", text
            )
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
