"""What the comparison with a model that was read back, or merged, names: layers, adapters, factors, frozen weights."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import eomt
from eomt.errors import UserError
from eomt.verification import AuditReport
from eomt.verification.reopened import audit_reopened

pytest.importorskip("peft")
from peft import LoraConfig, PeftModel

from tests.verification.hugging_face import adapted, images, llama, texts, train, vit

FIRST, SECOND = (f"base_model.model.model.layers.{number}.self_attn.q_proj" for number in (0, 1))
TARGETS = ["q_proj"]


def trained(**settings: Any) -> PeftModel:
    model = adapted(llama(), **{"target_modules": TARGETS, **settings})
    train(model, texts())
    return model


def with_two_adapters() -> PeftModel:
    model = adapted(llama(), target_modules=TARGETS)
    model.add_adapter("b", LoraConfig(r=2, target_modules=TARGETS))
    return model


def cause(report: AuditReport, kind: str) -> tuple[str, str, str]:
    """Return place, observation and remedy of the only finding, and check that each line ends with the difference."""
    (finding,) = report.findings
    assert finding.kind == kind
    seen, _, difference = finding.seen.rpartition("; ")
    assert difference.startswith("the model that was")
    return finding.where, seen, finding.remedy


def test_a_frozen_head_of_another_base_is_named(tmp_path: Path) -> None:
    base = vit()
    nn.init.normal_(base.classifier.weight)
    model = adapted(base, modules_to_save=None)
    train(model, images())
    model.save_pretrained(tmp_path)
    where, seen, remedy = cause(
        audit_reopened(model, PeftModel.from_pretrained(vit(), tmp_path), images()), "saved_differs"
    )
    assert where == "base_model.model.classifier.weight"
    assert seen == "is frozen, and has other values in the model that was read back"
    assert "the base of the training" in remedy


def test_a_factor_that_the_configuration_lost_is_named(tmp_path: Path) -> None:
    model = trained(r=16, lora_alpha=8, use_rslora=True)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_rslora": False}))
    report = audit_reopened(model, PeftModel.from_pretrained(llama(), tmp_path), texts())
    where, seen, remedy = cause(report, "saved_differs")
    assert where == FIRST
    assert seen.startswith("multiplies its update with 0.5 in the model that was read back, and with 2 in the one in")
    assert seen.endswith("(2 in all: base_model.model.model.layers.{0-1}.self_attn.q_proj)")
    assert "use_rslora" in remedy


def test_another_adapter_than_the_active_one_is_named(tmp_path: Path) -> None:
    model = with_two_adapters()
    model.set_adapter("b")
    train(model, texts())
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    report = audit_reopened(model, PeftModel.from_pretrained(llama(), tmp_path), texts())
    where, seen, remedy = cause(report, "saved_differs")
    assert where == FIRST
    assert seen.startswith("has 'default' in the model that was read back, and 'b' in the one in memory (2 in all")
    assert "selected_adapters" in remedy
    # the same under another name is no fault
    model.save_pretrained(tmp_path, selected_adapters=["b"])
    assert audit_reopened(model, PeftModel.from_pretrained(llama(), tmp_path / "b"), texts()).findings == ()


def test_an_adapter_that_is_not_there_or_has_other_values_is_named() -> None:
    model = trained()
    _, seen, _ = cause(audit_reopened(model, llama(), texts()), "saved_differs")
    assert seen.startswith("has no adapter that acts in the model that was read back, and 'default' in the one in")
    model.requires_grad_(False)
    other = copy.deepcopy(model)
    other.get_submodule(SECOND).lora_B.default.weight.data.neg_()
    assert cause(audit_reopened(model, other, texts()), "saved_differs")[:2] == (
        SECOND,
        "has an adapter of other values in the model that was read back",
    )


def test_weights_that_are_the_same_are_said_to_be() -> None:
    model = trained()
    other = copy.deepcopy(model)
    other.base_model.model.model.norm.variance_epsilon = 10.0
    (finding,) = audit_reopened(model, other, texts()).findings
    assert "though the weights that both have are the same" in finding.seen


def merged(model: PeftModel, *names: str) -> nn.Module:
    return copy.deepcopy(model).merge_and_unload(adapter_names=list(names) or None)


def weights(model: nn.Module) -> list[Any]:
    return [layer.self_attn.q_proj.weight.data for layer in model.model.layers]


@pytest.mark.parametrize("dora", [False, True])
def test_a_layer_that_was_not_merged_is_named(dora: bool) -> None:
    model, base = trained(use_dora=dora), llama()
    wrong = merged(model)
    weights(wrong)[1].copy_(weights(base)[1])
    where, seen, _ = cause(audit_reopened(model, wrong, texts(), merged=True), "merged_differs")
    assert (where, seen) == (SECOND, "is not merged: its weight is that of the base")


def test_layers_that_were_merged_twice_are_named() -> None:
    model = trained(target_modules=["q_proj", "k_proj"])
    wrong, base = merged(model), llama().state_dict()
    for name, once in wrong.state_dict().items():
        once.add_(once - base[name])
    where, seen, remedy = cause(audit_reopened(model, wrong, texts(), merged=True), "merged_differs")
    assert where == FIRST
    layers = ", ".join(f"base_model.model.model.layers.{{0-1}}.self_attn.{name}_proj" for name in "qk")
    assert seen == f"holds its update 2 times in the merged model (4 in all: {layers})"
    assert remedy.startswith("merge once")


def test_one_of_two_adapters_that_was_left_out_is_named() -> None:
    model = with_two_adapters()
    model.base_model.set_adapter(["default", "b"])
    train(model, texts())
    assert audit_reopened(model, merged(model), texts(), merged=True).findings == ()
    _, seen, _ = cause(audit_reopened(model, merged(model, "default"), texts(), merged=True), "merged_differs")
    assert seen.startswith("lacks the update of adapter 'b' in the merged model (2 in all")


def test_what_was_changed_besides_is_named() -> None:
    model = trained()
    wrong = merged(model)
    wrong.lm_head.weight.data.mul_(1.5)
    where, seen, _ = cause(audit_reopened(model, wrong, texts(), merged=True), "merged_differs")
    assert (where, seen) == (
        "base_model.model.lm_head.weight",
        "has no adapter, and has other values in the merged model",
    )
    wrong = merged(model)
    weights(wrong)[0].add_(torch.randn(16, 16))
    where, seen, _ = cause(audit_reopened(model, wrong, texts(), merged=True), "merged_differs")
    assert (where, seen) == (FIRST, "is changed by something else than its update")


def test_layers_of_this_package_are_named_too() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    config = eomt.LoRAConfig(rank=2, target_modules=["0", "2"], freeze_base_model=True)
    model = eomt.apply_lora(copy.deepcopy(base), config)
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.lora_b)
    batch = torch.randn(4, 6)
    wrong = copy.deepcopy(base)
    wrong[0].weight.data.copy_(copy.deepcopy(model[0]).plain_layer(True).weight)
    where, seen, _ = cause(audit_reopened(model, wrong, batch, merged=True), "merged_differs")
    assert (where, seen) == ("2", "is not merged: its weight is that of the base")


def test_a_model_is_not_compared_with_itself() -> None:
    model = trained()
    message = r"^audit_reopened: reopened is the model itself, or a part of it, which proves nothing; read"
    with pytest.raises(UserError, match=message):
        audit_reopened(model, model, texts())
    with pytest.raises(UserError, match=message):
        audit_reopened(model, model.merge_and_unload(), texts(), merged=True)
    model, other = trained(), trained()
    other.get_submodule(FIRST).lora_A = model.get_submodule(FIRST).lora_A
    with pytest.raises(UserError, match=r"^audit_reopened: reopened shares '.*lora_A\.default\.weight' with the model"):
        audit_reopened(model, other, texts())


def test_a_model_that_cannot_take_the_batch_is_refused_in_its_own_words() -> None:
    model = adapted(vit())
    with pytest.raises(UserError, match=r"^outputs: PeftModel cannot answer the batch \(ValueError: .*input_ids"):
        audit_reopened(adapted(llama(), target_modules=TARGETS), llama(), images())
    with pytest.raises(
        UserError, match=r"^outputs: LlamaForCausalLM cannot answer the batch \(ValueError: .*input_ids"
    ):
        audit_reopened(model, llama(), images())
