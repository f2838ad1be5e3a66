"""No false alarm: healthy LoRA on many architectures, with PEFT's layers and this package's, is passed."""

import time
import warnings

import pytest
import torch

import eomt
from eomt.verification import audit

pytest.importorskip("peft")
from peft import LoraConfig, inject_adapter_in_model

from tests.documents import ROOT
from tests.verification import architectures

BACKENDS = ["peft", "native"]


def check(name: str, backend: str) -> float:
    """Audit an architecture, and return the seconds that it took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, batch = architectures.make(name)
    targets = architectures.targets(name, model)
    assert targets
    if backend == "peft":
        model = inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), model)
    else:
        eomt.apply_lora(model, eomt.LoRAConfig(rank=2, target_modules=targets, freeze_base_model=True))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    start = time.process_time()
    # these are random, and they are to be
    report = audit(model, batch, architectures.loss, optimizers=[optimizer], allow_random_base=True)
    assert report.findings == (), report.describe()
    assert len(report.adapters) == len(targets)
    return time.process_time() - start


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", architectures.QUICK)
def test_healthy_lora_is_passed(name: str, backend: str) -> None:
    check(name, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in architectures.NAMES if name not in architectures.QUICK])
def test_healthy_lora_is_passed_on_every_architecture(name: str, backend: str) -> None:
    check(name, backend)


def test_the_document_lists_every_architecture() -> None:
    text = (ROOT / "docs" / "audit.md").read_text()
    assert len(architectures.NAMES) >= 50
    missing = [name for name in architectures.NAMES if f"| `{name}` |" not in text]
    assert not missing
