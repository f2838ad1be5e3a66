"""Weights on disk: every way in which a file is not what it should be, and files in several parts."""

import json
import os
import random
from argparse import Namespace
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from eomt.errors import UserError
from eomt.models import ViT
from eomt.models.weights.files import read_weights
from tests.models.weights.eomt_pairs import make_network

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"


def one_line(caught: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pth"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"Access denied\n", "cannot be read"),
        (b"<html><body>404</body></html>", "cannot be read"),
        (POINTER, "is a git-LFS pointer to the weights, not the weights; fetch them with git lfs pull"),
    ],
)
def test_what_stands_in_place_of_weights_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {message}") as caught:
        read_weights(tmp_path / name)
    assert one_line(caught)


def test_what_authors_keep_beside_their_weights_is_passed_over(tmp_path: Path) -> None:
    """15.27: a half, a small integer or an array of NumPy, or a path among argparse's settings, and all was refused."""
    numbers = [
        np.dtype(kind).type(1) for kind in ("f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?")
    ]
    settings = Namespace(lr=1e-3, out=PosixPath("/runs/1"), words=np.array(["a", "bc"]))
    content = {"epoch": 3, "args": settings, "best": numbers, "curve": np.arange(6.0).reshape(2, 3)}
    for number, value in enumerate([*numbers, content]):
        file = tmp_path / f"{number}.PTH"
        torch.save({"model": {"a": torch.ones(2)}, "beside": value}, file)
        assert torch.equal(read_weights(file)["a"], torch.ones(2))


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("bomb",)


@pytest.mark.parametrize(
    ("beside", "found"),
    [
        (Bomb(), r", it holds a posix\.mkdir; save"),
        (Namespace(bomb=Bomb()), r", it holds a posix\.mkdir; save"),
        (np.array([Bomb()], dtype=object), "; save"),
    ],
)
def test_nobody_s_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: Any, found: str) -> None:
    """15.27: NumPy's arrays are read, but none that hold objects; what is in the way is named."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(2)}, "beside": beside}, "model.pth")
    with pytest.raises(UserError, match=rf"plain tensors \(weights_only\){found}") as caught:
        read_weights("model.pth")
    assert one_line(caught)
    assert not Path("bomb").exists()


@pytest.mark.parametrize(
    "prefix", ["module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("place", [None, "state_dict", "model", "teacher"])
def test_wrappers_of_pytorch_do_not_count(tmp_path: Path, prefix: str, place: str | None) -> None:
    """15.27: `module.` was taken away once, and `_orig_mod.` read as a part of the name."""
    state = {f"{prefix}a.weight": torch.ones(2), f"{prefix}module.weight": torch.zeros(1)}
    torch.save(state if place is None else {place: state, "epoch": 1}, tmp_path / "model.pth")
    assert set(read_weights(tmp_path / "model.pth")) == {"a.weight", "module.weight"}


def test_text_is_told_from_a_file_that_holds_objects(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"hello world")
    with pytest.raises(UserError, match="begins with b'hello wo', as no PyTorch file"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path, as_zip: bool) -> None:
    file = tmp_path / "model.pth"
    torch.save({"a": torch.ones(4), "b": torch.ones(2)}, file, _use_new_zipfile_serialization=as_zip)
    whole, generator = file.read_bytes(), random.Random(0)
    messages: list[str] = []
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if generator.random() < 0.3:
            del damaged[generator.randrange(len(damaged)) :]
        file.write_bytes(bytes(damaged))
        try:
            read_weights(file)  # the damage may be in a value
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({1: torch.ones(2)}, "holds 1, which is no name of a tensor"),
        ({}, "holds no tensors by name"),
        ([torch.ones(2)], "holds no tensors by name"),
        ({"epoch": 3}, "'epoch' is no tensor but int"),
    ],
)
def test_what_holds_no_tensors_by_name_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match=message) as caught:
        read_weights(tmp_path / "model.pth")
    assert one_line(caught)


# ---------------------------------------------------------------------------------------------- several files


def write_shards(state: dict[str, Tensor], folder: Path, kind: str = "safetensors") -> None:
    """Two files and their index, as transformers writes them."""
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = sorted(state)
    parts = [names[::2], names[1::2]]
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        tensors = {name: state[name].contiguous() for name in part}
        if kind == "safetensors":
            save_file(tensors, folder / file)
        else:
            torch.save(tensors, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("by_index", [False, True])
def test_weights_in_several_files_are_read_whole(tmp_path: Path, kind: str, by_index: bool) -> None:
    state = {name: torch.randn(3) for name in "abcde"}
    write_shards(state, tmp_path, kind)
    path = next(tmp_path.glob("*.index.json")) if by_index else tmp_path
    found = read_weights(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_a_file_that_an_index_names_must_be_there(tmp_path: Path) -> None:
    write_shards({name: torch.ones(1) for name in "abcde"}, tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00002.safetensors, which is not beside it"):
        read_weights(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "\x00"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="copy it again") as caught:
        read_weights(tmp_path)
    assert one_line(caught)


def test_no_code_in_a_part_is_run(tmp_path: Path) -> None:
    write_shards({name: torch.ones(1) for name in "abcde"}, tmp_path, "bin")
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        read_weights(tmp_path)


# ---------------------------------------------------------------------------------------------- encoders


def test_a_whole_eomt_is_no_encoder_and_the_message_says_where_it_goes(tmp_path: Path) -> None:
    network = make_network()
    network.write(tmp_path)
    torch.save({f"network.{name}": value for name, value in network.state_dict().items()}, tmp_path / "whole.bin")
    for path in (tmp_path, tmp_path / "whole.bin"):
        with pytest.raises(UserError, match=r"is a whole EoMT; give it as --model.network.pretrained"):
            ViT("vit_small_patch14_reg4_dinov2", (42, 42), pretrained=str(path))
