"""The audit of trainings that are none of this package's: what it finds, what it costs, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eomt
from eomt.verification import AuditError, AuditReport, audit

pytest.importorskip("peft")
from peft import LoraConfig, get_peft_model

from tests.verification.hugging_face import adapted, images, llama, optimizer_of, texts, vit


class Net(nn.Module):
    """A body, an activation and a head."""

    def __init__(self, activation: nn.Module | None = None, width: int = 8) -> None:
        super().__init__()
        self.body, self.activation = nn.Linear(6, width), activation or nn.Tanh()
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.body(x)))


def net(activation: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(Net(activation), LoraConfig(r=2, target_modules=["body"], modules_to_save=["head"]))


BATCH = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def square(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().mean()


def audited(model: nn.Module, **settings: Any) -> AuditReport:
    return audit(model, BATCH, **{"loss": square, "allow_random_base": True, **settings})


def kinds(report: AuditReport) -> list[str]:
    return [finding.kind for finding in report.findings]


# -- two lines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"bias": "lora_only"},
        {"target_modules": ["q_proj", "projection"]},
        {"target_modules": "all-linear"},
        {"rank_pattern": {"q_proj": 4}},
    ],
    ids=str,
)
def test_a_model_of_hugging_face_needs_no_loss(settings: dict[str, Any]) -> None:
    model = adapted(vit(), **settings)
    report = audit(model, images(), optimizers=[optimizer_of(model)], allow_random_base=True)
    assert report.findings == (), report.describe()
    assert "base_model.model.classifier.modules_to_save.default" in report.trained_in_full


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_tied_weights_are_audited(tied: bool) -> None:
    model = adapted(llama(tie_word_embeddings=tied), target_modules=["embed_tokens", "q_proj"])
    assert audit(model, texts(), allow_random_base=True).findings == ()


def test_a_part_that_was_unfrozen_is_audited() -> None:
    model = vit().requires_grad_(False)
    model.vit.layers[1].requires_grad_(True)
    report = audit(model, images(), optimizers=[optimizer_of(model)], allow_random_base=True, expect="vit.layers.1")
    assert report.findings == (), report.describe()
    assert all(path.startswith("vit.layers.1.") for path in report.trained_in_full)
    report = audit(model, images(), allow_random_base=True, expect=["vit.layers.*", "classifier"])
    assert set(kinds(report)) == {"frozen"}
    assert "'classifier.weight' is frozen, and expected" in " ".join(report.faults)


def test_a_pooling_layer_that_a_task_has_no_use_for_is_a_warning_in_full_fine_tuning() -> None:
    torch.manual_seed(0)
    model = Net()
    model.unused = nn.Linear(1, 1)
    report = audited(model)
    assert report.is_sound
    assert kinds(report) == ["no_gradient", "no_gradient"]
    model.unused = nn.Linear(30, 30)
    assert not audited(model).is_sound


# -- findings ----------------------------------------------------------------------------------------------------------


def test_what_is_expected_and_is_not_there_is_named() -> None:
    report = audited(Net(), expect=["adapters", "heads"])
    assert [finding.seen for finding in report.findings if finding.kind == "matches_nothing"] == [
        "the model holds no adapter, which should be trained",
        "the model has no parameter 'heads', which should be trained",
    ]


def test_a_base_that_trains_beside_its_adapter_is_named() -> None:
    model = net()
    model.base_model.model.body.base_layer.weight.requires_grad_(True)
    assert [(finding.kind, finding.where) for finding in audited(model).findings] == [
        ("not_meant_to_train", "base_model.model.body.base_layer.weight")
    ]


def test_a_frozen_adapter_and_a_frozen_head_are_named() -> None:
    model = net()
    model.base_model.model.body.lora_A.default.weight.requires_grad_(False)
    assert kinds(audited(model)) == ["frozen"]
    model = net()
    model.base_model.model.head.modules_to_save.default.requires_grad_(False)
    assert kinds(audited(model)) == ["frozen"]


def test_a_rate_of_zero_and_a_tiny_one_are_told_apart() -> None:
    model = net()
    assert set(kinds(audited(model, optimizers=[optimizer_of(model, lr=0.0)]))) == {"rate_zero"}
    assert set(kinds(audited(model, optimizers=[optimizer_of(model, lr=1e-12)]))) == {"hardly_moves"}


def test_b_that_is_not_zero_is_a_fault_at_the_start_and_zero_one_at_the_end() -> None:
    model = net()
    layer = model.base_model.model.body
    assert kinds(audited(model, stage="start")) == []
    assert kinds(audited(model, stage="end")) == ["still_zero"]
    layer.lora_B.default.weight.data.fill_(0.1)
    assert kinds(audited(model, stage="start")) == ["b_not_zero"]
    assert kinds(audited(model, stage="end")) == []
    # an adapter that was loaded may be trained on
    report = audited(model, optimizers=[optimizer_of(model)])
    assert report.is_sound
    assert kinds(report) == ["b_not_zero"]
    layer.lora_A.default.weight.data.zero_()
    layer.lora_B.default.weight.data.zero_()
    assert kinds(audited(model)) == ["both_zero"]


def test_a_relu_that_is_dead_for_every_sample_is_named() -> None:
    for activation in (nn.ReLU(), nn.ReLU(inplace=True)):
        model = net(activation)
        assert kinds(audited(model)) == []
        model.base_model.model.body.base_layer.bias.data.fill_(-50.0)
        report = audited(model)
        assert "dead_gate" in kinds(report)
        assert "base_model.model.activation" in {finding.where for finding in report.findings}


def test_classes_and_samples_that_are_answered_alike_are_faults_at_the_end() -> None:
    model = net()
    model.base_model.model.body.lora_B.default.weight.data.fill_(0.1)
    head = model.base_model.model.head.modules_to_save.default
    head.weight.data[:] = head.weight.data[:1]
    head.bias.data.zero_()
    assert kinds(audited(model, stage="end")) == ["classes_identical"]
    assert audited(model).is_sound
    model = net()
    model.base_model.model.body.base_layer.weight.data.mul_(1e-9)
    model.base_model.model.body.lora_A.default.weight.data.mul_(1e-9)
    model.base_model.model.body.lora_B.default.weight.data.fill_(0.1)
    assert "samples_identical" in kinds(audited(model, stage="end"))


def test_a_named_gate_that_is_shut_is_a_fault() -> None:
    model = net()
    model.base_model.model.body.lora_B.default.weight.data.fill_(0.1)
    gates = {"gate": torch.tensor([[-3.0], [0.5]])}
    assert audited(model, stage="end", answers=lambda model, batch: gates).is_sound
    gates["gate"] -= 1
    assert kinds(audited(model, stage="end", answers=lambda model, batch: gates)) == ["dead_gate"]


def test_a_new_head_of_zeros_is_no_fault() -> None:
    """Before the second step, no adapter behind it gets a gradient."""
    model = net()
    head = model.base_model.model.head.modules_to_save.default
    nn.init.zeros_(head.weight)
    assert audited(model, optimizers=[optimizer_of(model)]).is_sound
    assert not head.weight.any()


def test_statistics_of_a_layer_that_is_kept_in_evaluation_do_not_drift() -> None:
    model = net(nn.BatchNorm1d(8))
    assert kinds(audited(model)) == ["drifting_statistics"]
    model.train()
    model.base_model.model.activation.eval()
    before = model.base_model.model.activation.running_mean.clone()
    assert kinds(audited(model)) == []
    assert torch.equal(model.base_model.model.activation.running_mean, before)


def test_adapters_that_are_switched_off_or_merged_are_named() -> None:
    model = net()
    model.base_model.disable_adapter_layers()
    assert set(kinds(audited(model))) == {"nothing_trainable"}
    model = net()
    model.merge_adapter()
    assert set(kinds(audited(model))) == {"merged"}


# -- the report --------------------------------------------------------------------------------------------------------


def test_a_report_is_text_a_dict_an_error_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    report = audited(net(), stage="end")
    assert report.status == 1
    assert report.to_dict()["findings"][0]["kind"] == "still_zero"
    assert '"sound": false' in report.to_json()
    assert report.describe().startswith("fault: still_zero: lora_B of 'base_model.model.body' is still zero")
    with pytest.raises(AuditError, match=r"^audit: lora_B of 'base_model\.model\.body' is still zero"):
        report.require()
    with caplog.at_level("WARNING", logger="eomt"):
        report.require(warn=True)
    assert "still zero" in caplog.text
    sound = audited(net())
    sound.require()
    assert sound.status == 0
    assert sound.describe() == str(sound)


# -- this package, and cases of their own -----------------------------------------------------------------------------


def test_this_package_is_audited_as_before() -> None:
    model = eomt.apply_lora(Net(), eomt.LoRAConfig(rank=2, target_modules=["body"], freeze_base_model=True))
    with pytest.raises(AuditError, match=r"never loaded .*allow_random_base"):
        audited(model, allow_random_base=False).require()
    assert str(audited(model)) == "all 1 adapters act and learn"
    model.body.lora_a.requires_grad_(False)
    assert "'body.lora_a' is frozen, though lora_config trains it" in audited(model).faults[0]


class Norms(nn.Module):
    """Two norms around a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.second = nn.LayerNorm(6), nn.Linear(6, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.body(self.first(x))))


def test_a_base_whose_values_are_those_of_a_fresh_start_is_a_warning() -> None:
    def found(change: Any) -> list[tuple[str, str]]:
        torch.manual_seed(0)
        base = Norms()
        change(base)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["body"], modules_to_save=["head"]))
        report = audited(model, allow_random_base=False)
        assert report.is_sound
        return [(finding.kind, finding.where) for finding in report.findings]

    def trained(*norms: nn.LayerNorm) -> None:
        for norm in norms:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    assert found(lambda base: None) == [("base_looks_random", "")]
    partly = [("base_looks_random", "base_model.model.second")]
    assert found(lambda base: trained(base.first)) == partly
    assert found(lambda base: trained(base.first, base.second)) == []


def test_weights_that_are_not_finite_are_named() -> None:
    model = net()
    model.base_model.model.body.base_layer.weight.data[0, 0] = float("nan")
    assert [(finding.kind, finding.where) for finding in audited(model).findings] == [
        ("weights_not_finite", "base_model.model.body.base_layer.weight"),
        ("loss_not_finite", ""),
    ]


def test_a_sigmoid_that_is_shut_is_named() -> None:
    model = net(nn.Sigmoid())
    assert kinds(audited(model)) == []
    model.base_model.model.body.base_layer.bias.data.fill_(-30.0)
    assert "dead_gate" in kinds(audited(model))


class DropPath(nn.Module):
    """Leaves out its branch at random, as timm's does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.training else x


class LayerDrop(nn.Module):
    """Leaves out a whole layer at random, as wav2vec 2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.layerdrop, self.body, self.path = 0.999, nn.Linear(6, 6), DropPath()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or torch.rand(()) > self.layerdrop:
            x = x + self.path(self.body(x)).tanh()
        return self.head(x)


def test_what_leaves_layers_out_at_random_leaves_none_out() -> None:
    torch.manual_seed(0)
    model = get_peft_model(LayerDrop(), LoraConfig(r=2, target_modules=["body"], modules_to_save=["head"]))
    assert kinds(audited(model)) == []
    assert model.base_model.model.layerdrop == 0.999


def test_an_expert_that_no_token_chose_is_a_warning() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts, self.head = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.experts[0](x))

    model = get_peft_model(Mixture(), LoraConfig(r=2, target_modules=r"experts\.\d", modules_to_save=["head"]))
    report = audited(model)
    assert report.is_sound
    assert kinds(report) == ["not_called"] * 4


def test_an_adapter_that_starts_at_random_is_named() -> None:
    model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["body"], init_lora_weights=False))
    report = audited(model)
    assert report.is_sound
    assert kinds(report) == ["b_not_zero"]


def test_a_head_that_the_model_does_not_have_is_named() -> None:
    def found(*heads: str) -> list[str]:
        model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["body"], modules_to_save=[*heads, "head"]))
        return kinds(audited(model))

    assert found("score") == ["matches_nothing"]
    # PEFT itself adds both of these for classification
    assert found("score", "classifier") == []


@pytest.mark.parametrize("layer", [0, 1])
def test_an_adapter_whose_layer_answers_without_it_has_no_effect(layer: int) -> None:
    model = adapted(vit())
    query = model.base_model.model.vit.layers[layer].attention.q_proj
    query.forward = lambda x, *_, **__: query.base_layer(x)
    report = audit(model, images(), allow_random_base=True)
    assert kinds(report) == ["no_effect"]
    assert "does not depend on it" in report.faults[0]
