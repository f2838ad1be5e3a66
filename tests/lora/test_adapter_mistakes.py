"""What would be saved or read wrongly is refused by name, before anything is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import load_adapter, save_adapter
from eomt.lora.layers import freeze_lora_params, replace_linear_with_lora
from eomt.lora.summary import count_layers, print_lora_summary
from tests.lora.adapters import adapted, answer, base

peft = pytest.importorskip("peft")

PLAIN = {"target_modules": ["attention"], "rank": 2}


@pytest.mark.parametrize("settings", [{"dilation": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_a_convolution_that_peft_computes_otherwise_has_no_adapter_folder(tmp_path: Path, settings: dict) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, **settings))

    model = apply_lora(network(), LoRAConfig(target_modules=["0"], rank=2, freeze_base_model=True))
    with pytest.raises(UserError, match="no adapter folder: PEFT's convolution"):
        save_adapter(model, tmp_path / "adapter")
    theirs = peft.get_peft_model(network(), peft.LoraConfig(r=2, target_modules=["0"]))
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="PEFT's convolution"):
        load_adapter(network(), tmp_path / "theirs")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embedding(ids)))


@pytest.mark.parametrize("name", ["head", "embedding"])
def test_half_of_a_tie_is_not_trained(name: str) -> None:
    config = LoRAConfig(target_modules=["layer"], rank=2, trainable_modules=[name], freeze_base_model=True)
    with pytest.raises(UserError, match=r"trainable_modules: '.*weight' shares its values with"):
        apply_lora(Tied(), config)


def test_both_ends_of_a_tie_are_saved_and_open_here_and_in_peft(tmp_path: Path) -> None:
    def network() -> Tied:
        torch.manual_seed(0)
        return Tied().double()

    both = ["head", "embedding"]
    config = LoRAConfig(target_modules=["layer"], rank=2, trainable_modules=both, freeze_base_model=True)
    model = apply_lora(network(), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    folder = save_adapter(model, tmp_path / "adapter")
    ids = torch.arange(6)
    assert torch.equal(load_adapter(network(), folder).eval()(ids), model(ids))
    torch.testing.assert_close(peft.PeftModel.from_pretrained(network(), folder).eval()(ids), model(ids))


def test_a_name_that_modules_without_parameters_share_can_be_trained(tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=2).eval()

    config = LoRAConfig(**PLAIN, trainable_modules=["norm"], freeze_base_model=True)  # type: ignore[arg-type]
    model = apply_lora(network(), config)
    nn.init.normal_(model.norm.weight)
    folder = save_adapter(model, tmp_path / "adapter")
    image = torch.rand(1, 3, 160, 160)
    assert torch.equal(load_adapter(network(), folder).eval()(image), model.eval()(image))


def test_other_files_in_an_adapter_folder_are_not_lost(tmp_path: Path) -> None:
    model = adapted(**PLAIN)
    folder = save_adapter(model, tmp_path / "adapter")
    save_adapter(model, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not"):
        save_adapter(model, folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_link_to_an_adapter_folder_is_followed(tmp_path: Path) -> None:
    model = adapted(**PLAIN)
    save_adapter(model, tmp_path / "adapter")
    (tmp_path / "link").symlink_to(tmp_path / "adapter")
    save_adapter(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert torch.equal(answer(load_adapter(base(), tmp_path / "link")), answer(model))


def test_a_compiled_wrapper_is_refused(tmp_path: Path) -> None:
    config = LoRAConfig(**PLAIN, freeze_base_model=True)  # type: ignore[arg-type]
    for call in (
        lambda: apply_lora(torch.compile(base()), config),
        lambda: save_adapter(torch.compile(adapted(**PLAIN)), tmp_path / "adapter"),
        lambda: load_adapter(torch.compile(base()), save_adapter(adapted(**PLAIN), tmp_path / "saved")),
    ):
        with pytest.raises(UserError, match="compiled wrapper"):
            call()
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "must be an object"),
        ({"lora_alpha": "16"}, "lora_alpha is '16', but must be"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"use_bdlora": {"a": 1}}, "use_bdlora"),
        ({"kasa_config": {"a": 1}}, "kasa_config"),
        ({"use_magic_variant": True}, "use_magic_variant: True is not known"),
        (b"\xff\xfe{", "cannot be read as text in UTF-8"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, changes: Any, message: str) -> None:
    folder = save_adapter(adapted(**PLAIN), tmp_path / "adapter")
    file = folder / "adapter_config.json"
    if isinstance(changes, bytes):
        file.write_bytes(changes)
    else:
        file.write_text(json.dumps(changes if isinstance(changes, list) else json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        load_adapter(base(), folder)


@pytest.mark.parametrize("field", ["fingerprint", "slices"])
def test_damaged_metadata_is_refused(tmp_path: Path, field: str) -> None:
    folder = save_adapter(adapted(**PLAIN), tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file), file, {"format": "pt", field: "{"})
    with pytest.raises(UserError, match=f"{field} in its metadata"):
        load_adapter(base(), folder)


def test_buffers_that_share_memory_are_saved(tmp_path: Path) -> None:
    model = adapted(**PLAIN)
    model.register_buffer("first", torch.ones(4))
    model.register_buffer("second", model.first[:2])
    assert (save_adapter(model, tmp_path / "adapter") / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enabled", "no"),
        ("freeze_base_model", "false"),
        ("use_rslora", "false"),
        ("use_dora", None),
        ("lora_alpha", float("inf")),
        ("alpha_pattern", {"a": float("inf")}),
        ("rank_pattern", {1: 4}),
        ("rank_pattern", None),
    ],
)
def test_values_that_only_look_like_some_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field}: "):
        LoRAConfig(**{field: value})


def test_a_network_adapted_by_hand_is_described_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    replace_linear_with_lora(model, rank=2)
    freeze_lora_params(model)
    print_lora_summary(model)
    printed = capsys.readouterr().out
    assert "full fine-tuning" not in printed
    assert "32 trainable params across 2 layers" in printed
    with pytest.raises(UserError, match="not made by apply_lora"):
        save_adapter(model, tmp_path / "adapter")


def test_layers_that_leave_nothing_of_a_list_of_blocks_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(4)])
            self.short = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(2)])

    config = {"target_modules": ["long", "short"], "rank": 2}
    with pytest.raises(UserError, match=r"leaves nothing of the 2 blocks of 'short'"):
        apply_lora(Two(), LoRAConfig(**config, layers=[2, 3]))  # type: ignore[arg-type]
    assert apply_lora(Two(), LoRAConfig(**config, layers="last:2"))  # type: ignore[arg-type]


def test_doubles_under_autocast_stay_doubles() -> None:
    model = apply_lora(nn.Sequential(nn.Linear(4, 4)).double(), LoRAConfig(target_modules=["0"], rank=2))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.rand(2, 4, dtype=torch.double)).dtype == torch.double


@pytest.mark.parametrize(
    ("paths", "number"),
    [
        ([f"vision.encoder.layer.{block}.attention.{part}" for block in range(12) for part in "qkv"], 12),
        ([f"blocks.{block}.{part}" for block in range(3) for part in ("attn.qkv", "mlp.0", "mlp.2")], 3),
        ([f"stages.{stage}.blocks.{block}.attn.qkv" for stage in range(2) for block in range(3)], 6),
        (["class_head", "mask_head.0", "mask_head.2", "encoder.blocks.0.attn.qkv"], 4),
    ],
)
def test_layers_are_the_blocks_that_hold_adapters(paths: list[str], number: int) -> None:
    """15.29: query, key and value of twelve layers were "36 layers"."""
    assert count_layers(paths) == number


def test_an_empty_folder_is_filled_and_no_other(tmp_path: Path) -> None:
    """15.28: a folder that `mkdir` or `tempfile` had made was refused."""
    model = adapted(base(), target_modules=["attention"])
    folder = tmp_path / "adapter"
    folder.mkdir()
    assert save_adapter(model, folder) == folder
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match="exists and is not what would be written there"):
        save_adapter(model, folder)
