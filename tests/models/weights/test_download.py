"""Weights of every network in the hub's cache, in one file or several; and when they cannot be had."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, BartForConditionalGeneration, Dinov2Config, Dinov2Model

from eomt.errors import UserError
from eomt.models import DeterministicVQA
from eomt.models.parts.text_tower import make_text_tower
from eomt.models.parts.vision_tower import make_vision_tower
from eomt.utils import hub
from eomt.utils.tokenizer import load_tokenizer
from tests.models.weights.eomt_pairs import DEPTH, NUM_HEADS, SIDE, WIDTH, make_encoder, make_network, make_transformers
from tests.models.weights.test_files import write_shards
from tests.tiny_morph import make_encoder as make_mae_encoder
from tests.tiny_morph import make_mae, tiny_model
from tests.tiny_sam2 import make_sam2, tiny_folder
from tests.tiny_vqa import BART, VISION, make_tokenizer


def backbone() -> Dinov2Model:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": NUM_HEADS}
    return Dinov2Model(Dinov2Config(**sizes, image_size=SIDE, patch_size=16))


def sam2() -> Path:
    return Path(tiny_folder())


# of each network: what makes a model to save, or a folder of one, and what opens it
KINDS: dict[str, tuple[Callable[[], Any], Callable[[str], nn.Module]]] = {
    "encoder": (backbone, lambda source: make_encoder("vit_small_patch14_dinov2", pretrained=source)),
    "eomt": (make_transformers, lambda source: make_network(pretrained=source)),
    "sam2": (sam2, lambda source: make_sam2(pretrained=source)),
    "mae": (tiny_model, lambda source: make_mae(pretrained=source)),
    "mae encoder": (tiny_model, lambda source: make_mae_encoder(pretrained=source)),
    "vision model": (
        lambda: AutoModel.from_config(AutoConfig.for_model(**VISION)),
        lambda source: make_vision_tower(source, True, (28, 28)),
    ),
    "text model": (
        lambda: BartForConditionalGeneration(AutoConfig.for_model(**BART)),
        lambda source: make_text_tower(source, True, "generative"),
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def write_whole(kind: str, folder: Path) -> Path:
    """A folder of a model with random weights, in one file."""
    model = KINDS[kind][0]()
    if isinstance(model, Path):
        shutil.copytree(model, folder)
    else:
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("files", ["one", "safetensors", "bin"])
@kinds
def test_a_repository_of_any_network_opens_in_one_file_or_several(
    snapshot: Path, repository: str, tmp_path: Path, kind: str, files: str
) -> None:
    whole = write_whole(kind, tmp_path / "whole")
    for file in whole.iterdir():
        if files == "one" or file.name != "model.safetensors":
            shutil.copy(file, snapshot)
    if files != "one":
        write_shards(load_file(whole / "model.safetensors"), snapshot, files)
        assert len(list(snapshot.glob("*-of-00002.*"))) == 2
    expected, found = KINDS[kind][1](str(whole)).state_dict(), KINDS[kind][1](repository).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@kinds
def test_a_repository_of_which_a_part_is_missing_is_refused(
    snapshot: Path, repository: str, tmp_path: Path, kind: str
) -> None:
    whole = write_whole(kind, tmp_path / "whole")
    write_shards(load_file(whole / "model.safetensors"), snapshot)
    shutil.copy(whole / "config.json", snapshot)
    sorted(snapshot.glob("model-*"))[-1].unlink()
    with pytest.raises(UserError, match=r"'somebody/some-model' is no local .* cannot be had from the hub") as caught:
        KINDS[kind][1](repository)
    assert "\n" not in str(caught.value)


@kinds
def test_weights_without_their_configuration_are_refused(
    snapshot: Path, repository: str, tmp_path: Path, kind: str
) -> None:
    shutil.copy(write_whole(kind, tmp_path / "whole") / "model.safetensors", snapshot)
    if kind == "encoder":
        # whose configuration is the backbone_name
        assert KINDS[kind][1](repository).state_dict().keys()
        return
    with pytest.raises(UserError, match=r"cache holds its weights but no config.json|configuration cannot be read"):
        KINDS[kind][1](repository)


@pytest.mark.parametrize("kind", [*KINDS, "tokenizer"])
def test_a_hub_that_cannot_be_reached_is_said_within_seconds(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    opened = load_tokenizer if kind == "tokenizer" else KINDS[kind][1]
    begin = time.monotonic()
    with pytest.raises(
        UserError, match=r"nobody/nothing is not in the cache and http://127.0.0.1:9 cannot be"
    ) as caught:
        opened("nobody/nothing")
    assert time.monotonic() - begin < 10
    assert "\n" not in str(caught.value)
    assert "--model.network." in str(caught.value)


def test_towers_of_two_repositories_become_one_network(
    snapshot: Path, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_whole("vision model", tmp_path / "whole")
    write_shards(load_file(whole / "model.safetensors"), snapshot)
    shutil.copy(whole / "config.json", snapshot)
    other = snapshot.parents[2] / "models--somebody--some-text"
    shutil.copytree(snapshot.parents[1], other)
    text = other / "snapshots" / snapshot.name
    for file in text.iterdir():
        file.unlink()
    source = write_whole("text model", tmp_path / "text")
    write_shards(load_file(source / "model.safetensors"), text)
    shutil.copy(source / "config.json", text)
    make_tokenizer(text)
    arguments: dict[str, Any] = {"img_size": (28, 28)}
    network = DeterministicVQA(repository, "somebody/some-text", **arguments)
    assert network.base == "somebody/some-model + somebody/some-text"
    assert network.tokenizer is not None
    make_tokenizer(source)
    expected = DeterministicVQA(str(whole), str(source), **arguments)
    for part in ("vision_encoder", "text_model"):
        states = [model.get_submodule(part).state_dict() for model in (network, expected)]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
