"""Where a result comes from: the machine, and the revision of the package."""

import platform
import re
import subprocess
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")


def machine() -> dict:
    """Where and from which revision of the package a result comes."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "revision": _revision(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": gpu or processor(),
    }


def processor() -> str:
    """The processor's name, as far as it says so."""
    told = _CPUINFO.read_text() if _CPUINFO.exists() else ""  # on Linux
    named = re.search(r"^model name[ \t]*:[ \t]*(\S.*)", told, re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine()


def _revision() -> str:
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():  # installed elsewhere, another project's would be named
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
