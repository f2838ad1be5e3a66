"""docs/audit.md: its code runs, and its tables name every finding."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.documents import ROOT, blocks

pytest.importorskip("peft")
from peft import PeftModel
from transformers import Trainer as HuggingFaceTrainer
from transformers import TrainingArguments, ViTForImageClassification

from tests.verification.hugging_face import adapted, images, llama, optimizer_of, texts, train, vit
from tests.verification.test_training_audit import Classifier, Rows

AUDIT = ROOT / "docs" / "audit.md"


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    """What the reader has: a model that was read from a file and adapted, and a batch."""
    vit().save_pretrained(tmp_path / "base")

    def make_base() -> ViTForImageClassification:
        return ViTForImageClassification.from_pretrained(tmp_path / "base")

    torch.manual_seed(0)
    model, batch = adapted(make_base()), images()
    network = nn.Sequential(nn.Linear(6, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 3))
    return {
        "model": model, "batch": batch, "optimizer": optimizer_of(model, lr=0.01), "make_base": make_base,
        "network": network, "images": torch.randn(4, 6), "criterion": lambda answer: answer.square().mean(),
        "PeftModel": PeftModel, "copy": copy, "Trainer": Trainer, "steps": 3, "folder": tmp_path / "adapter",
        "tmp_path": tmp_path,
    }  # fmt: skip


def _run_of_a_tied_model(code: str, names: dict[str, Any]) -> None:
    """Run what is to be done with tied pairs, and see that it is needed."""

    def make_base() -> nn.Module:
        return llama(tie_word_embeddings=True)

    model = adapted(make_base(), target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
    train(model, texts())
    folder = names["tmp_path"] / "tied"
    model.save_pretrained(folder)
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    names = names | {"model": model, "make_base": make_base, "folder": folder, "batch": texts(), "nn": nn}
    exec(code, names)
    twice = PeftModel.from_pretrained(make_base(), folder).merge_and_unload()
    report = names["audit_reopened"](model, twice, texts(), merged=True)
    assert "embed_tokens' holds its update 2 times in the merged model" in report.faults[0]


def test_the_code_of_the_document_runs(names: dict[str, Any]) -> None:
    here, anything, trainer, lightning, loop, files, tied, expected = blocks(AUDIT, "python")
    exec(here, names)
    exec(anything, names | {"optimizer": optimizer_of(names["network"])})
    exec(loop, names)
    assert list(names["watch"].reports) == ["start", "end"]
    train(names["model"], names["batch"])
    names["model"].save_pretrained(names["folder"])
    exec(files, names)
    exec(expected, names)
    _run_of_a_tied_model(tied, names)
    arguments = TrainingArguments(
        output_dir=str(names["tmp_path"]), max_steps=2, per_device_train_batch_size=3, save_steps=2, report_to=[],
        learning_rate=0.05, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    model = adapted(names["make_base"]())
    names["trainer"] = HuggingFaceTrainer(model=model, args=arguments, train_dataset=Rows(names["batch"]))
    exec(trainer, names)
    names["trainer"].train()
    names["settings"] = {
        "accelerator": "cpu", "max_steps": 2, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    exec(lightning, names)
    module = Classifier()
    module.model = adapted(names["make_base"]())
    data = DataLoader(TensorDataset(names["batch"]["pixel_values"], names["batch"]["labels"]), batch_size=3)
    names["trainer"].fit(module, data)
    assert list(names["trainer"].callbacks[0].reports) == ["start", "end"]


def test_the_document_explains_every_finding() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "eomt" / "verification").glob("*.py"))
    kinds = set(re.findall(r'Finding\(\s*"([a-z_]+)"', code))
    kinds |= set(re.findall(r'return "([a-z]+_[a-z_]+)", "', code))
    kinds |= set(re.findall(r'Finding\(\s*"([a-z_]+)" if [^,]* else "([a-z_]+)"', code)[0])
    explained = set(re.findall(r"`([a-z_]+)`", AUDIT.read_text()))
    assert len(kinds) >= 25
    assert kinds <= explained, kinds - explained
