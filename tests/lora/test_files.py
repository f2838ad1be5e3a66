"""Adapters on disk: PEFT's format out, strictness in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import fill, load_adapter, save_adapter, trained_state
from eomt.lora.layers import lora_layers, merge_lora_weights, remove_adapters
from eomt.models import EoMT
from eomt.utils.files import write_folder
from tests.lora.adapters import answer, assert_same, base
from tests.tiny import make_eomt

CONFIGS = {
    "heads": {"rank": 4},
    "encoder": {"target_modules": ["attention", "mlp"], "trainable_modules": ["q", "class_head", "mask_head"]},
    "slices": {"target_modules": ["query", "value"], "rank": 4},
    "rslora and patterns": {
        "target_modules": ["qkv", "mlp"],
        "use_rslora": True,
        "rank_pattern": {"fc1": 2},
        "alpha_pattern": {"fc2": 5},
    },
    "rslora slices": {"target_modules": ["key"], "use_rslora": True},
    "convolution": {"target_modules": ["upscale"]},
}


def adapted(**arguments: Any) -> EoMT:
    model = base()
    apply_lora(model, LoRAConfig(freeze_base_model=True, **arguments))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3 if "lora_" in name else 0.1)
    return model.eval()


@pytest.mark.parametrize("arguments", CONFIGS.values(), ids=CONFIGS.keys())
def test_round_trip_onto_the_plain_network(tmp_path: Path, arguments: dict) -> None:
    model = adapted(**arguments)
    assert not torch.allclose(answer(model), answer(base()))
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(), tmp_path / "adapter").eval()
    assert torch.equal(answer(loaded), answer(model))


@pytest.mark.parametrize("arguments", CONFIGS.values(), ids=CONFIGS.keys())
def test_round_trip_into_an_adapted_network(tmp_path: Path, arguments: dict) -> None:
    model = adapted(**arguments)
    save_adapter(model, tmp_path / "adapter")
    other = apply_lora(base(), LoRAConfig(freeze_base_model=True, **arguments)).eval()
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(answer(other), answer(model))


@pytest.mark.parametrize("arguments", CONFIGS.values(), ids=CONFIGS.keys())
def test_peft_opens_it_with_the_same_answers(tmp_path: Path, arguments: dict) -> None:
    peft = pytest.importorskip("peft")
    model = adapted(**arguments)
    save_adapter(model, tmp_path / "adapter")
    opened = peft.PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
    assert_same(answer(opened), answer(model))


def test_an_adapter_made_by_peft_loads(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv", "fc1"], use_rslora=True, rank_pattern={"fc1": 2})
    model = peft.get_peft_model(base(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(base(), tmp_path / "adapter").eval()
    assert_same(answer(loaded), answer(model))


def test_files_and_keys_are_peft_s(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4, trainable_modules=["q"]), tmp_path / "adapter", base="some/base")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert tensors["base_model.model.mask_head.0.lora_A.weight"].shape == (4, 64)
    assert "base_model.model.q.weight" in tensors
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["task_type"]) == ("LORA", 4, 16, None)
    assert config["modules_to_save"] == ["q"]
    assert config["base_model_name_or_path"] == "some/base"


def test_another_base_is_refused_unless_told(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4), tmp_path / "adapter")
    torch.manual_seed(5)
    with pytest.raises(UserError, match="another base"):
        load_adapter(make_eomt(), folder)
    load_adapter(make_eomt(), folder, check_base=False)


def test_a_bf16_copy_of_the_base_is_accepted(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4), tmp_path / "adapter")
    load_adapter(base().bfloat16(), folder)


def test_nothing_is_changed_when_the_base_is_refused(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4), tmp_path / "adapter")
    torch.manual_seed(5)
    other = make_eomt()
    with pytest.raises(UserError):
        load_adapter(other, folder)
    assert not lora_layers(other)


def damage(folder: Path, metadata: bool = False, **changes: Any) -> None:
    """Rewrites the tensors: a name with None takes one out."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        kept = file.metadata() if metadata else None
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, kept)


FIRST = "base_model.model.mask_head.0.lora_A.weight"
QUERY = "base_model.model.encoder.backbone.blocks.0.attn.qkv.lora_A.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({FIRST: None}, r"mask_head.0.lora_A.weight is missing"),
        ({FIRST: None, FIRST.replace("_A", "_B"): None}, r"mask_head.0.lora_A.weight is missing, though"),
        ({FIRST.replace("_A", "_B"): None}, r"lora_B.weight is missing"),
        ({"base_model.model.q.weight": None}, r"'q' in modules_to_save, but none of its tensors"),
        ({"base_model.model.other.weight": torch.ones(1)}, r"not in this network \(other.weight"),
        ({"mask_head.0.lora_A.weight": torch.ones(1)}, "does not start with"),
        ({"base_model.model._orig_mod.q.weight": torch.ones(1)}, "compiled wrapper"),
        ({FIRST: torch.ones(3, 64)}, r"has rank 3, but 4 in adapter_config.json"),
        ({FIRST: torch.ones(4, 65)}, r"has shape \[4, 65\]"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    arguments = {"rank": 4, "trainable_modules": ["q"]}
    folder = save_adapter(adapted(**arguments), tmp_path / "adapter")
    damage(folder, **changes)
    with pytest.raises(UserError, match=message):
        load_adapter(adapted(**arguments), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_features_that_are_not_implemented_are_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    folder = save_adapter(adapted(rank=4), tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        load_adapter(base(), folder)


def test_another_rank_is_refused(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"rank=4.*rank=2"):
        load_adapter(adapted(rank=2), folder)


@pytest.mark.parametrize("content", ["empty folder", "no json", "no safetensors"])
def test_what_is_no_adapter_is_refused(tmp_path: Path, content: str) -> None:
    if content != "empty folder":
        (tmp_path / "adapter_config.json").write_text("{" if content == "no json" else "{}")
        (tmp_path / "adapter_model.safetensors").write_bytes(b"xx")
    with pytest.raises(UserError, match=r"adapter_config|adapter_model"):
        load_adapter(base(), tmp_path)


def test_more_than_adapters_and_named_modules_is_no_adapter(tmp_path: Path) -> None:
    model = apply_lora(base(), LoRAConfig(rank=4, freeze_base_model=False))
    with pytest.raises(UserError, match="freeze_base_model"):
        save_adapter(model, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_buffers_travel_with_the_adapter(tmp_path: Path) -> None:
    model = adapted(rank=4)
    model.attn_mask_probs.fill_(0.25)
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(), tmp_path / "adapter")
    assert loaded.attn_mask_probs.tolist() == [0.25, 0.25]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4), tmp_path / "adapter")
    before = (folder / "adapter_model.safetensors").read_bytes()

    def fail(beside: Path) -> None:
        (beside / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(folder, fail, lambda path: True)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="exists"):
        save_adapter(adapted(rank=4), tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("alpha", [12, 24, 48])
def test_rslora_slices_load_into_the_same_config_whatever_alpha_rounds_to(tmp_path: Path, alpha: int) -> None:
    arguments = {"target_modules": ["query", "key", "value"], "use_rslora": True, "lora_alpha": alpha, "rank": 4}
    model = adapted(**arguments)
    other = apply_lora(base(), LoRAConfig(freeze_base_model=True, **arguments)).eval()
    load_adapter(other, save_adapter(model, tmp_path / "adapter"))
    assert torch.equal(answer(other), answer(model))


def test_a_rank_above_the_layer_is_read_from_a_file(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(base(), peft.LoraConfig(r=9, target_modules=["class_head"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(base(), tmp_path / "adapter").eval()
    assert lora_layers(loaded)["class_head"].rank == 9
    assert_same(answer(loaded), answer(model))


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ({}, {"base_model.model.other.weight": torch.ones(1)}),
        ({}, {FIRST: torch.ones(4, 65)}),
        ({"target_modules": ["query"]}, {QUERY: torch.ones(4, 65)}),
        ({"target_modules": ["query"]}, {QUERY.replace("_A", "_B"): torch.ones(64, 4)}),
        ({"trainable_modules": ["q"]}, {"base_model.model.q.weight": torch.ones(3)}),
    ],
)
def test_a_refused_file_leaves_the_plain_network_plain(tmp_path: Path, arguments: dict, changes: dict) -> None:
    folder = save_adapter(adapted(rank=4, **arguments), tmp_path / "adapter")
    damage(folder, metadata=True, **changes)
    model = base()
    modules = dict(model.named_modules())
    with pytest.raises(UserError):
        load_adapter(model, folder)
    assert dict(model.named_modules()) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(answer(model), answer(base()))
    apply_lora(model, LoRAConfig(rank=2))


def test_what_was_trained_there_and_is_frozen_here_is_refused(tmp_path: Path) -> None:
    folder = save_adapter(adapted(rank=4, trainable_modules=["q"]), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"trained there .*q\.weight.* trainable_modules"):
        load_adapter(adapted(rank=4), folder)
    with pytest.raises(UserError, match="trained there"):
        fill(adapted(rank=4), trained_state(adapted(rank=4, trainable_modules=["q"])), "file")
    plain = base()
    fill(plain, adapted_as_plain := base().state_dict(), "file")
    assert all(torch.equal(value, adapted_as_plain[name]) for name, value in plain.state_dict().items())


def test_nothing_is_saved_when_other_tensors_are_trained_than_the_config_says(tmp_path: Path) -> None:
    model = adapted(rank=4)
    model.q.requires_grad_(True)
    with pytest.raises(UserError, match=r"'q\.weight' is trained, not by lora_config"):
        save_adapter(model, tmp_path / "adapter")


@pytest.mark.parametrize("make_plain", [merge_lora_weights, remove_adapters])
def test_a_network_made_plain_again_can_be_adapted_and_loaded(tmp_path: Path, make_plain: Any) -> None:
    model = adapted(rank=4)
    folder = save_adapter(model, tmp_path / "adapter")
    plain = make_plain(model)
    with pytest.raises(UserError, match="holds no adapters"):
        save_adapter(plain, tmp_path / "other")
    assert len(lora_layers(load_adapter(plain, folder, check_base=False))) == 4
    assert len(lora_layers(apply_lora(make_plain(plain), LoRAConfig(rank=2)))) == 4


class Tied(nn.Module):
    """A frozen table under two names, as in language models, and a layer to adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(5, 4)
        self.table = nn.Linear(4, 5, bias=False)
        self.table.weight = self.shared.weight
        self.layer = nn.Linear(4, 4)


def test_frozen_shared_tensors_are_not_saved_under_their_second_name(tmp_path: Path) -> None:
    model = apply_lora(Tied(), LoRAConfig(rank=2, target_modules=["layer"], freeze_base_model=True))
    assert set(trained_state(model)) == {"layer.lora_a", "layer.lora_b"}
    torch.manual_seed(0)
    folder = save_adapter(model, tmp_path / "adapter")
    assert len(load_file(folder / "adapter_model.safetensors")) == 2


def test_trained_shared_tensors_are_saved_once_and_filled(tmp_path: Path) -> None:
    config = LoRAConfig(rank=2, target_modules=["layer"], trainable_modules=["shared", "table"], freeze_base_model=True)
    model = apply_lora(Tied(), config)
    state = trained_state(model)
    assert set(state) == {"layer.lora_a", "layer.lora_b", "shared.weight"}
    other = apply_lora(Tied(), config)
    fill(other, state, "file")
    assert torch.equal(other.table.weight, model.table.weight)
