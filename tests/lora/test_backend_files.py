"""Copies, files and merging, over both backends: what one writes the other reads."""

import copy
import io
import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import fill, load_adapter, save_adapter, trained_state
from eomt.lora.layers import disable_adapters, merge_lora_weights, remove_adapters
from eomt.lora.trainable import check_trainable
from eomt.utils.loaded import mark_loaded
from eomt.verification.audit import loaded_names
from tests.lora.adapters import BACKENDS, adapted, answer, assert_same, base, both, configs, step

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# -- copies, files, merging ------------------------------------------------------------------------------------------


@both
def test_a_copy_and_a_pickle_answer_alike_and_are_apart(backend: str) -> None:
    model = adapted(target_modules=["attention"], backend=backend)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(answer(other), answer(model))
        with torch.no_grad():
            next(iter(lora_layers(other).values())).lora_b.add_(1)
        assert not torch.equal(answer(other), answer(model))


@both
@configs
def test_merging_gives_the_same_answers_from_plain_layers(backend: str, arguments: dict) -> None:
    model = adapted(backend=backend, **arguments)
    expected = answer(model)
    merged = merge_lora_weights(model)
    assert_same(answer(merged), expected)
    assert list(merged.state_dict()) == list(base().state_dict())
    assert {type(module) for module in merged.modules()} == {type(module) for module in base().modules()}
    with pytest.raises(UserError, match="nothing to merge"):
        merge_lora_weights(merged)


@both
def test_disabling_and_removing_give_the_base_back(backend: str) -> None:
    model = adapted(target_modules=["attention", "upscale"], backend=backend)
    with disable_adapters(model):
        # not bit for bit: torch may choose another kernel where a weight is frozen
        assert_same(answer(model), answer(base()))
        # PEFT's own switch would freeze the adapters
        check_trainable(model)
    assert not torch.allclose(answer(model), answer(base()), atol=1e-3)
    removed = remove_adapters(model)
    for name, value in base().state_dict().items():
        assert torch.equal(removed.state_dict()[name], value), name


@pytest.mark.parametrize(("writer", "reader"), itertools.product(BACKENDS, BACKENDS))
@configs
def test_an_adapter_of_either_backend_gives_the_same_answers_in_both(
    tmp_path: Path, arguments: dict, writer: str, reader: str
) -> None:
    model = adapted(backend=writer, **arguments)
    folder = save_adapter(model, tmp_path / "adapter")
    other = apply_lora(base(), LoRAConfig(freeze_base_model=True, backend=reader, **arguments)).eval()
    load_adapter(other, folder)
    assert_same(answer(other), answer(model))
    check_trainable(other)
    assert_same(answer(load_adapter(base(), folder)), answer(model))
    opened = peft.PeftModel.from_pretrained(base(), folder).eval() if "trainable_modules" in arguments else None
    if opened is not None:
        assert_same(answer(opened), answer(model))


@configs
def test_both_backends_write_the_same_file(tmp_path: Path, arguments: dict) -> None:
    folders = [save_adapter(adapted(backend=b, **arguments), tmp_path / b) for b in BACKENDS]
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name)
    first, second = (json.loads((folder / "adapter_config.json").read_text()) for folder in folders)
    assert first == second


@both
@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"rank": 2}, r"rank=8.*rank=2"),
        ({"target_modules": ["qkv"]}, "other modules"),
        ({"use_rslora": True}, "use_rslora"),
        ({"lora_alpha": 3}, "alpha"),
    ],
)
def test_an_adapter_of_another_config_is_refused(tmp_path: Path, backend: str, others: dict, message: str) -> None:
    folder = save_adapter(adapted(target_modules=["attention"]), tmp_path / "adapter")
    arguments = {"target_modules": ["attention"], "backend": backend, **others}
    with pytest.raises(UserError, match=message):
        load_adapter(apply_lora(base(), LoRAConfig(freeze_base_model=True, **arguments)), folder)


@both
@pytest.mark.parametrize("fault", ["missing", "unexpected", "another base"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, backend: str, fault: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = save_adapter(adapted(target_modules=["attention"]), tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    if fault == "missing":
        del tensors[next(name for name in tensors if "lora_B" in name)]
    elif fault == "unexpected":
        tensors["base_model.model.other.weight"] = torch.zeros(2)
    save_file(tensors, file, metadata)
    plain = base()
    if fault == "another base":
        nn.init.normal_(plain.encoder.blocks[0].attn.qkv.weight)
    model = apply_lora(plain, LoRAConfig(target_modules=["attention"], freeze_base_model=True, backend=backend))
    with pytest.raises(UserError, match=r"missing|not in this network|another base"):
        load_adapter(model, folder)


@both
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(backend: str) -> None:
    arguments = {"target_modules": ["attention"], "backend": backend, "trainable_modules": ["q", "class_head"]}
    whole = adapted(**arguments)
    step(whole, steps=4)
    first = adapted(**arguments)
    step(first, steps=2)
    resumed = apply_lora(base(), LoRAConfig(freeze_base_model=True, **arguments)).eval()
    fill(resumed, copy.deepcopy(trained_state(first)), "checkpoint")
    step(resumed, steps=2)
    assert torch.equal(answer(resumed), answer(whole))


@both
def test_what_was_loaded_before_adapting_counts_as_loaded(backend: str) -> None:
    model = base()
    mark_loaded(model.encoder, model.encoder.state_dict())
    apply_lora(model, LoRAConfig(target_modules=["attention"], freeze_base_model=True, backend=backend))
    frozen = [n for n, p in model.named_parameters() if n.startswith("encoder.") and not p.requires_grad]
    assert set(frozen) <= loaded_names(model)


@both
def test_batch_norm_under_a_frozen_base_is_refused_by_name(backend: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    config = {"target_modules": ["re:0"], "rank": 2, "backend": backend, "freeze_base_model": True}
    with pytest.raises(UserError, match="'1' would be frozen"):
        apply_lora(model, LoRAConfig(**config))
    assert not lora_layers(model)
    assert lora_layers(apply_lora(model, LoRAConfig(**config, trainable_modules=["1"])))
