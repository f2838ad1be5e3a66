"""Faults of LoRA trainings that were reported in public, each rebuilt small, and found under its kind."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.verification import AuditReport, audit
from eomt.verification.reopened import audit_reopened

pytest.importorskip("peft")
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTForImageClassification

from tests.verification.hugging_face import (
    SIZES,
    adapted,
    images,
    llama,
    optimizer_of,
    saved_vit,
    texts,
    train,
    vit,
)


def kinds(report: AuditReport) -> set[str]:
    return {finding.kind for finding in report.findings if finding.severity == "fault"}


def audited(model: nn.Module, batch: Any, **settings: Any) -> AuditReport:
    return audit(model, batch, **{"allow_random_base": True, **settings})


def test_b_is_still_zero_after_the_training() -> None:
    """huggingface/peft#1402, unslothai/unsloth#3089, kohya-ss/sd-scripts#91: lora_B is zero in the saved adapter."""
    report = audited(adapted(vit()), images(), stage="end")
    assert kinds(report) == {"still_zero"}
    assert len(report.faults) == 4


def test_an_adapter_that_was_opened_is_frozen(tmp_path: Path) -> None:
    """huggingface/peft#282 and #1340, tloen/alpaca-lora#352: trainable params: 0, since is_trainable is left out."""
    adapted(llama()).save_pretrained(tmp_path)
    assert kinds(audited(PeftModel.from_pretrained(llama(), tmp_path), texts())) == {"nothing_trainable"}
    assert not kinds(audited(PeftModel.from_pretrained(llama(), tmp_path, is_trainable=True), texts()))


class Blocks(nn.Module):
    """Blocks behind a frozen embedding, checkpointed by the reentrant way, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True).tanh() if self.training else block(x).tanh()
        return self.head(x)


def square(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().mean()


def blocks(**settings: Any) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(Blocks(), LoraConfig(r=2, target_modules=r"blocks\.\d", **settings))


def test_checkpointing_cuts_the_graph() -> None:
    """huggingface/transformers#26221, huggingface/peft#1142, cloneofsimo/lora#26: nothing is learned."""
    assert kinds(audited(blocks(), torch.randn(4, 6), loss=square)) == {"no_graph"}


def test_checkpointing_leaves_the_head_to_learn_alone() -> None:
    """locuslab/open-unlearning#178: only what lies behind the blocks is trained."""
    report = audited(blocks(modules_to_save=["head"]), torch.randn(4, 6), loss=square)
    assert kinds(report) == {"no_gradient"}
    assert "blocks.0" in report.faults[0]


class VisionLanguage(nn.Module):
    """Image features that a frozen projector puts before a text."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.vision_tower = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8))
        self.projector, self.language_model = nn.Linear(8, 8), nn.Linear(8, 5)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        features = self.vision_tower(x)
        return self.language_model(self.projector(features.detach() if self.cut else features).tanh())


def vision_language(cut: bool = False) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(VisionLanguage(cut), LoraConfig(r=2, target_modules=["0", "2", "language_model"]))


def test_the_vision_tower_gets_no_gradient() -> None:
    """unslothai/unsloth#5039, 2U1/Qwen-VL-Series-Finetune#193: adapters of the vision tower do not learn."""
    report = audited(vision_language(cut=True), torch.randn(4, 6), loss=square)
    assert kinds(report) == {"unreached"}
    assert {finding.where for finding in report.findings if finding.severity == "fault"} == {
        "base_model.model.vision_tower.0",
        "base_model.model.vision_tower.2",
    }
    assert not kinds(audited(vision_language(), torch.randn(4, 6), loss=square))


def test_the_projector_is_not_trained() -> None:
    """hiyouga/LlamaFactory#6008, haotian-liu/LLaVA#832: the projector was thought to be trained with the adapters."""
    report = audited(vision_language(), torch.randn(4, 6), loss=square, expect=["adapters", "projector"])
    assert kinds(report) == {"frozen"}
    assert "projector.weight" in report.faults[0]


def test_the_vision_tower_is_trained_and_should_not_be() -> None:
    """Physical-Intelligence/openpi#744: what the filter does not name is trained in full."""
    model = vision_language()
    model.base_model.model.projector.requires_grad_(True)
    report = audited(model, torch.randn(4, 6), loss=square, expect="adapters")
    assert kinds(report) == {"not_meant_to_train"}


def test_the_last_layer_of_the_tower_is_behind_what_is_taken() -> None:
    """haotian-liu/LLaVA#948 shows the setting, mm_vision_select_layer -2: the last layer is adapted in vain."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=16, patch_size=8))

    def taken(model: nn.Module, batch: Any) -> Tensor:
        return model(pixel_values=batch, output_hidden_states=True).hidden_states[-2]

    report = audited(
        adapted(tower), images()["pixel_values"], loss=lambda model, x: taken(model, x).square().mean(), outputs=taken
    )
    assert kinds(report) == {"unreached"}
    assert all("layers.1." in fault for fault in report.faults)


def test_an_adapter_is_trained_that_is_not_active() -> None:
    """huggingface/peft#3580: the first adapter became trainable, and the one that should be is not."""
    model = adapted(llama())
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and ".other." in name)
    assert kinds(audited(model, texts())) == {"inactive", "frozen", "no_graph"}


def test_the_optimizer_was_made_before_the_adapters() -> None:
    """adapter-hub/adapters#260, huggingface/peft#1303: no tensor of the adapter is in the optimizer."""
    base = vit()
    optimizer = optimizer_of(base)
    report = audited(adapted(base), images(), optimizers=[optimizer])
    assert "not_in_optimizer" in kinds(report)
    assert any("lora_A" in fault for fault in report.faults)


class Convolutional(nn.Module):
    """A convolution, a batch norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def test_running_statistics_follow_the_training_and_are_not_saved() -> None:
    """huggingface/peft#1732: a model with batch norm answers otherwise after it was opened again."""
    torch.manual_seed(0)
    model = get_peft_model(Convolutional(), LoraConfig(r=2, target_modules=["conv"], modules_to_save=["head"]))
    fresh = copy.deepcopy(model)
    batch = images()["pixel_values"]
    assert kinds(audited(model, batch, loss=square)) == {"drifting_statistics"}
    model.train()(batch)
    assert kinds(audit_reopened(model, fresh, batch)) == {"buffer_lost", "saved_differs"}


def test_the_output_projection_of_attention_is_never_called() -> None:
    """helicalAI/helical#405, Baijiong-Lin/LoRA-Torch#3: torch's attention reads the weight of out_proj."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = get_peft_model(layer, LoraConfig(r=2, target_modules=["out_proj", "linear1"]))
    report = audited(model, torch.randn(2, 3, 8), loss=square, outputs=lambda model, batch: model(batch))
    # in evaluation without gradients, its fast path reads the weight of linear1, too
    assert kinds(report) == {"not_called", "bypassed"}
    assert "self_attn.out_proj" in report.faults[0]


def test_sixteen_bits_swallow_the_steps() -> None:
    """keras-team/keras-hub#2629: LoRA in bfloat16, and the loss is the same in each epoch."""
    model = adapted(llama()).to(torch.bfloat16)
    report = audited(model, texts(), optimizers=[optimizer_of(model, lr=1e-6)])
    assert kinds(report) == {"rounding"}
    model.float()
    assert not kinds(audited(model, texts(), optimizers=[optimizer_of(model, lr=1e-6)]))


def test_a_new_head_stays_random_and_frozen(tmp_path: Path) -> None:
    """huggingface/peft#577: modules_to_save was None, and the score is what the random numbers made of it."""
    base = ViTForImageClassification.from_pretrained(saved_vit(tmp_path), num_labels=3)
    report = audit(adapted(base, modules_to_save=None), images())
    assert kinds(report) == {"base_never_loaded"}
    assert "classifier.weight" in report.faults[0]
    base = ViTForImageClassification.from_pretrained(saved_vit(tmp_path), num_labels=3)
    assert not kinds(audit(adapted(base), images()))


def test_putting_adapters_in_makes_the_base_random_again(tmp_path: Path) -> None:
    """fishaudio/fish-speech#1163: layers were made anew for LoRA after the weights had been loaded."""
    base = ViTForImageClassification.from_pretrained(saved_vit(tmp_path), num_labels=3)
    for layer in base.vit.layers:
        layer.attention.q_proj = nn.Linear(16, 16)
    report = audit(adapted(base), images())
    assert kinds(report) == {"base_never_loaded"}
    assert "q_proj" in report.faults[0]


def test_a_head_does_not_come_back_with_the_adapter(tmp_path: Path) -> None:
    """huggingface/peft#876, MathieuNlp/Sam_LoRA#9: what was trained beside the adapter is not in its file."""
    model = adapted(vit(), modules_to_save=None)
    model.base_model.model.classifier.requires_grad_(True)
    train(model, images())
    model.save_pretrained(tmp_path)
    report = audit_reopened(model, PeftModel.from_pretrained(vit(), tmp_path), images())
    assert kinds(report) == {"trained_lost", "saved_differs"}
    assert "classifier" in report.faults[0]


def test_an_adapter_is_opened_on_top_of_a_new_one(tmp_path: Path) -> None:
    """huggingface/peft#2115: get_peft_model before PeftModel.from_pretrained, and the answers are the base's."""
    model = adapted(llama())
    train(model, texts())
    model.save_pretrained(tmp_path)
    opened = PeftModel.from_pretrained(llama(), tmp_path)
    assert not kinds(audit_reopened(model, opened, texts()))
    assert kinds(audit_reopened(model, adapted(llama()), texts())) == {"trained_lost", "saved_differs"}


def test_merging_merges_nothing() -> None:
    """huggingface/trl#386: the adapters were taken out, and not added before."""
    model = adapted(llama())
    train(model, texts())
    merged = copy.deepcopy(model).merge_and_unload()
    assert not kinds(audit_reopened(model, merged, texts(), merged=True))
    unloaded = copy.deepcopy(model).unload()
    assert kinds(audit_reopened(model, unloaded, texts(), merged=True)) == {"merged_differs"}


def test_a_merged_model_still_holds_its_adapters() -> None:
    """huggingface/peft#2647: base_layer and lora_A stand in the file of the merged model."""
    model = adapted(llama())
    train(model, texts())
    merged = copy.deepcopy(model)
    merged.merge_adapter()
    assert kinds(audit_reopened(model, merged, texts(), merged=True)) == {"adapters_left"}


def test_tied_embeddings_come_back_tied_after_merging(tmp_path: Path) -> None:
    """huggingface/transformers#45127: of a tied model only one of two weights that were merged apart is read back."""
    model = adapted(llama(tie_word_embeddings=True), target_modules=["q_proj"], modules_to_save=["lm_head"])
    train(model, texts())
    merged = copy.deepcopy(model).merge_and_unload()
    merged.save_pretrained(tmp_path)
    opened = type(merged).from_pretrained(tmp_path)
    opened.tie_weights()
    opened.lm_head.weight = opened.model.embed_tokens.weight
    assert kinds(audit_reopened(model, opened, texts(), merged=True)) == {"merged_differs"}


def test_the_gradient_overflows_though_the_loss_is_finite() -> None:
    """ostris/ai-toolkit#1046: rows that the answer leaves out are infinite, and their gradient is not a number."""
    model = vision_language()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        answer = model(batch)
        overflow = torch.where(torch.arange(4)[:, None] == 0, answer * float("inf"), answer)
        return overflow[1:].square().mean()

    assert kinds(audited(model, torch.randn(4, 6), loss=loss)) == {"non_finite_gradient"}


def test_adapters_sit_on_a_branch_of_zeros() -> None:
    """cactus-compute/needle#53: LoRA is on a block whose weights are all zero."""
    model = vision_language()
    model.base_model.model.projector.weight.data.zero_()
    report = audited(model, torch.randn(4, 6), loss=square)
    assert "zero_gradient" in kinds(report)
    assert all("vision_tower" in finding.where for finding in report.findings if finding.kind == "zero_gradient")


class Detector(nn.Module):
    """Masks that an object gate lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.masks, self.gate = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x).tanh()
        return torch.where(self.gate(features) > 0, self.masks(features), torch.tensor(-1024.0))


def test_no_object_is_seen_after_the_training() -> None:
    """facebookresearch/sam3#324, luca-medeiros/lightning-sam#37: a tuned model finds nothing in any image."""
    torch.manual_seed(0)
    model = get_peft_model(Detector(), LoraConfig(r=2, target_modules=["encoder"], modules_to_save=["masks"]))
    model.base_model.model.gate.bias.data.fill_(9.0)
    assert not kinds(audited(model, torch.randn(4, 6), loss=square))
    model.base_model.model.gate.bias.data.fill_(-9.0)
    assert "dead_gate" in kinds(audited(model, torch.randn(4, 6), loss=square))


def test_names_of_targets_that_the_model_does_not_have_are_named() -> None:
    """huggingface/peft#577 again: PEFT passes over a name in silence if another one fits."""
    report = audited(adapted(vit(), target_modules=["q_proj", "qkv_proj"]), images())
    assert report.is_sound
    assert any(finding.kind == "matches_nothing" and "qkv_proj" in finding.seen for finding in report.findings)
