"""Where a result comes from: versions of packages, the machine, and the command."""

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import torch

from eomt.errors import printable, shortened

PACKAGES = ("eomt", "torch", "lightning", "timm", "transformers", "peft")
# of the longest command that is kept
MOST_CHARACTERS = 2000


def surroundings(device: torch.device) -> dict[str, object]:
    """Return `versions`, `machine` and `command` of this process, for a JSON file.

    Args:
        device: On which the network is.
    """
    return {"versions": versions(), "machine": machine(device), "command": command()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> str:
    """Return on what the network ran, and the system; no name of a host or of a user."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    return f"{name}, {threads}, {platform.system()} {platform.machine()}"


def command() -> str:
    """Return the command line of this process as it can be given again."""
    program, *words = sys.argv or [""]
    text = shlex.join([Path(program).name, *words])
    return shortened(printable(text), MOST_CHARACTERS)
