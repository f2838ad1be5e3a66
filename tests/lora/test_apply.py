"""LoRAConfig refuses what cannot be; apply_lora trains exactly what it says."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers
from eomt.lora.apply import apply_lora, apply_lora_to_vit
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import LoRALinear, merge_lora_weights
from eomt.lora.summary import get_lora_stats, print_lora_summary
from eomt.models.eomt import EoMT
from tests.lora.adapters import assert_same
from tests.tiny import make_eomt, make_image


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("rank", 2.5),
        ("rank", True),
        ("lora_alpha", 0),
        ("lora_alpha", "16"),
        ("lora_dropout", 1.0),
        ("lora_dropout", -0.1),
        ("target_modules", []),
        ("target_modules", "qkv"),
        ("target_modules", [""]),
        ("trainable_modules", "q"),
        ("layers", "first:2"),
        ("layers", "last:0"),
        ("layers", [-1]),
        ("layers", []),
        ("layers", ["a"]),
        ("layers", [True]),
        ("layers", 3),
        ("lora_dropout", 0.999995),
        ("rank_pattern", {"qkv": 0}),
        ("alpha_pattern", {"qkv": -1}),
        ("backend", "torch"),
        ("use_dora", True),
    ],
)
def test_bad_values_are_refused_by_field_and_value(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        LoRAConfig(**{field: value})  # type: ignore[arg-type]


def test_defaults_are_the_guides() -> None:
    config = LoRAConfig()
    assert (config.enabled, config.rank, config.lora_alpha, config.lora_dropout) == (True, 8, 16, 0.1)
    assert config.target_modules == ["class_head", "mask_head"]
    assert config.freeze_base_model is False


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_frozen_base_trains_adapters_and_named_modules_only() -> None:
    model = apply_lora(make_eomt(), LoRAConfig(freeze_base_model=True, rank=4, trainable_modules=["q"]))
    adapters = {f"{path}.{part}" for path in lora_layers(model) for part in ("lora_a", "lora_b")}
    assert trainable(model) == adapters | {"q.weight"}
    assert len(lora_layers(model)) == 4


def test_adapted_weights_are_frozen_even_where_the_base_is_trained() -> None:
    model = apply_lora(make_eomt(), LoRAConfig(freeze_base_model=False, rank=4))
    every = {name for name, _ in model.named_parameters()}
    assert every - trainable(model) == {f"{path}.weight" for path in lora_layers(model)}


def test_linear_probe_trains_the_named_modules() -> None:
    config = LoRAConfig(enabled=False, freeze_base_model=True, trainable_modules=["class_head"])
    assert trainable(apply_lora(make_eomt(), config)) == {"class_head.weight", "class_head.bias"}


def test_none_leaves_everything_trainable() -> None:
    model = make_eomt()
    assert apply_lora(model, None) is model
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_adapting_twice_is_refused() -> None:
    model = apply_lora(make_eomt(), LoRAConfig(rank=2))
    with pytest.raises(UserError, match="adapted already"):
        apply_lora(model, LoRAConfig(rank=2))


def test_rank_above_the_layer_is_refused_with_what_would_do() -> None:
    with pytest.raises(UserError, match=r"rank: 8 .*'class_head' .*rank_pattern: \{class_head: 6\}"):
        apply_lora(make_eomt(num_classes=5), LoRAConfig(rank=8))


def test_patterns_set_rank_and_alpha_and_must_match() -> None:
    config = LoRAConfig(rank=4, rank_pattern={"class_head": 2}, alpha_pattern={"re:mask_head.[02]": 1})
    layers = lora_layers(apply_lora(make_eomt(), config))
    assert {path: layer.rank for path, layer in layers.items()} == {
        "class_head": 2,
        "mask_head.0": 4,
        "mask_head.2": 4,
        "mask_head.4": 4,
    }
    assert [layer.lora_alpha for layer in layers.values()] == [16, 1, 1, 16]
    with pytest.raises(UserError, match="rank_pattern: 'class_haed' matches none"):
        apply_lora(make_eomt(), LoRAConfig(rank=2, rank_pattern={"class_haed": 2}))


def test_statistics_count_what_is_there() -> None:
    plain = make_eomt()
    total = sum(parameter.numel() for parameter in plain.parameters())
    model = apply_lora(plain, LoRAConfig(rank=2, freeze_base_model=True))
    stats = get_lora_stats(model)
    # class_head 64 -> 6, three layers 64 -> 64
    assert stats["lora_parameters"] == 2 * (64 + 6) + 3 * 2 * (64 + 64)
    assert stats["total_parameters"] == total + stats["lora_parameters"]
    assert stats["trainable_parameters"] == stats["lora_parameters"]
    assert stats["trainable_percent"] == pytest.approx(100 * stats["lora_parameters"] / stats["total_parameters"])
    assert stats["adapted_modules"] == ["class_head", "mask_head.0", "mask_head.2", "mask_head.4"]


def test_the_guides_table_is_a_place_to_start() -> None:
    settings = [(n, LoRAConfig.recommended(n)) for n in (1, 999, 1000, 5000, 5001)]
    assert [(n, config.rank, config.lora_alpha) for n, config in settings] == [
        (1, 4, 32),
        (999, 4, 32),
        (1000, 8, 32),
        (5000, 8, 32),
        (5001, 16, 32),
    ]
    assert LoRAConfig.recommended(300, target_modules=["attention"]).target_modules == ["attention"]
    with pytest.raises(UserError, match="num_images"):
        LoRAConfig.recommended(0)


# -- the snippets of the Italian guide, nested as here --------------------------------------------------------------


def guide_config() -> LoRAConfig:
    return LoRAConfig(
        enabled=True,
        rank=4,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["class_head", "mask_head"],
        freeze_base_model=True,
    )


def guide_model(lora_config: LoRAConfig | None) -> EoMT:
    torch.manual_seed(0)
    encoder = make_eomt().encoder
    return EoMT(encoder=encoder, num_classes=19, num_q=10, lora_config=lora_config)


def test_guide_basic_configuration() -> None:
    model = guide_model(guide_config())
    assert len(lora_layers(model)) == 4
    assert model(make_image())[-1].class_logits.shape == (2, 10, 20)


def test_guide_lightning_module(capsys: pytest.CaptureFixture[str]) -> None:
    class YourLightningModule(LightningModule):
        def __init__(self, lora_config: LoRAConfig | None = None) -> None:
            super().__init__()
            lora_config = lora_config or LoRAConfig(enabled=False)
            self.network = guide_model(lora_config)
            print_lora_summary(self.network, lora_config)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW([p for p in self.network.parameters() if p.requires_grad], lr=1e-3)

    task = YourLightningModule(guide_config())
    printed = capsys.readouterr().out
    count = get_lora_stats(task.network)["trainable_parameters"]
    assert f"[LoRA] Trainable: {count:,}" in printed
    assert sum(p.numel() for p in task.configure_optimizers().param_groups[0]["params"]) == count
    YourLightningModule()
    assert "Disabled" in capsys.readouterr().out


def test_guide_saving_and_loading_adapters_only(tmp_path) -> None:
    model = guide_model(guide_config())
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_b)
    lora_state = {name: param for name, param in model.named_parameters() if "lora_" in name}
    assert len(lora_state) == 8
    torch.save(lora_state, tmp_path / "lora_weights.pt")

    other = guide_model(guide_config())
    other.load_state_dict(torch.load(tmp_path / "lora_weights.pt", weights_only=True), strict=False)
    image = make_image()
    model.eval()
    other.eval()
    assert torch.equal(model(image)[-1].mask_logits, other(image)[-1].mask_logits)


def test_guide_merging() -> None:
    model = guide_model(guide_config()).double().eval()
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    image = make_image()
    expected = model(image)[-1]
    merged = merge_lora_weights(model)
    assert not any(isinstance(module, LoRALinear) for module in merged.modules())
    assert type(merged.class_head) is nn.Linear
    assert_same(merged(image)[-1].mask_logits, expected.mask_logits)
    assert_same(merged(image)[-1].class_logits, expected.class_logits)


def test_guide_name_for_a_vit() -> None:
    encoder = apply_lora_to_vit(make_eomt().encoder, LoRAConfig(target_modules=["qkv"], freeze_base_model=True))
    assert len(lora_layers(encoder)) == 6
