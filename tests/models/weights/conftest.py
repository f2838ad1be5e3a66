"""A repository in a cache of the hub that a test makes by hand."""

from pathlib import Path

import huggingface_hub.constants
import pytest

HASH = "0123456789012345678901234567890123456789"


@pytest.fixture
def repository() -> str:
    """Name of the repository of `snapshot`."""
    return "somebody/some-model"


@pytest.fixture
def snapshot(repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of a repository's files in a cache of its own, without the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(HASH)
    files = folder / "snapshots" / HASH
    files.mkdir(parents=True)
    return files
