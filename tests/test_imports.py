"""What importing costs, and what a user finds."""

import subprocess
import sys
from pathlib import Path

import pytest

import eomt

ROOT = Path(__file__).parents[1]
HEAVY = ("lightning", "timm", "transformers", "torchmetrics", "torchvision", "matplotlib", "sklearn", "peft", "wandb")


def loaded_by(statement: str) -> set[str]:
    """Names of the packages in a fresh process after a statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["eomt.lora", "eomt.verification.audit"])
def test_lora_and_the_audit_load_torch_and_none_of_the_larger_libraries(module: str) -> None:
    found = loaded_by(f"import {module}")
    assert "torch" in found
    assert not found & set(HEAVY)


def test_a_page_of_a_run_needs_neither_torch_nor_a_plotting_library() -> None:
    assert not loaded_by("import eomt.reports.page, eomt.reports.comparison") & {"torch", *HEAVY}


def test_the_package_itself_loads_nothing() -> None:
    assert not loaded_by("import eomt") & {"torch", *HEAVY}


def test_everything_that_the_package_offers_is_there() -> None:
    for name in eomt.__all__:
        assert getattr(eomt, name) is not None
    assert set(eomt.__all__) <= set(dir(eomt))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = eomt.no_such_name  # type: ignore[attr-defined]
