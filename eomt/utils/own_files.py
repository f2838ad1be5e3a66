"""The mark of safetensors files of whole networks that this package wrote."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

# what transformers asks for, and a mark by which `merge` knows a file that it may replace
OWN_METADATA = {"format": "pt", "written_by": "eomt"}


def is_own_file(file: Path) -> bool:
    """Return whether this package wrote a safetensors file of a whole network."""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("written_by") == OWN_METADATA["written_by"]
    except (OSError, SafetensorError):
        return False
