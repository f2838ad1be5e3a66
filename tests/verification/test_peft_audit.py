"""What PEFT writes, and what it keeps of a base that transformers read from a file."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eomt.verification import audit

pytest.importorskip("peft")
from peft import LoraConfig
from transformers import LlamaForCausalLM

from tests.verification.hugging_face import adapted, images, llama, texts, vit


def test_a_head_that_was_unfrozen_by_hand_is_named_as_not_saved() -> None:
    model = adapted(vit(), modules_to_save=None)
    model.base_model.model.classifier.requires_grad_(True)
    report = audit(model, images(), allow_random_base=True)
    assert report.is_sound
    assert [(f.kind, f.where) for f in report.findings] == [("not_saved", "base_model.model.classifier")]
    assert audit(adapted(vit()), images(), allow_random_base=True).findings == ()
    tokens = adapted(llama(), trainable_token_indices=[int(texts()["input_ids"][0, 0])])
    assert audit(tokens, texts(), allow_random_base=True).findings == ()


def read(folder: Path, **settings: bool) -> LlamaForCausalLM:
    model = llama(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_that_were_resized_are_a_warning(tmp_path: Path, tied: bool) -> None:
    base = read(tmp_path, tie_word_embeddings=tied)
    base.resize_token_embeddings(44)
    report = audit(adapted(base), texts())
    assert report.is_sound, report.describe()
    # the output is made anew, and where it is tied the input keeps its mark
    assert [f.kind for f in report.findings] == ([] if tied else ["base_looks_random"])


def test_an_output_that_no_file_held_is_a_fault(tmp_path: Path) -> None:
    base = read(tmp_path, tie_word_embeddings=False)
    base.lm_head.weight = nn.Parameter(torch.randn_like(base.lm_head.weight))
    report = audit(adapted(base), texts())
    assert [f.kind for f in report.findings] == ["base_never_loaded"]


def test_the_copy_of_an_adapter_that_is_not_active_is_no_part_of_the_base(tmp_path: Path) -> None:
    model = adapted(read(tmp_path), modules_to_save=["lm_head"])
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert audit(model, texts()).findings == ()
