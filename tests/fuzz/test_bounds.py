"""16.2: files of a few bytes that took all time or memory are read in a moment, or refused in one line."""

import base64
import contextlib
import copy
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datamodules.common.bitmaps import decode_bitmap
from datamodules.common.pairs import find_image_files
from datamodules.common.reading import check_image, read_image
from datamodules.common.tables import read_table
from datamodules.common.zip_members import ZipMember
from datamodules.defects.run_length import decode_runs
from datamodules.faces.folders import identities_in
from eomt.app.checkpoint_files import step_of
from eomt.app.names import load as load_yaml
from eomt.app.reading import read_yaml
from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import load_adapter, save_adapter
from eomt.models.weights.files import read_weights
from tests.fuzz.mutations import DEEP
from tests.fuzz.readers import READERS

# the last one's file is the test's own
# the others are no files of their own, but values that a test puts into one
FILES = [name for name in READERS if name not in ("adapter metadata", "audited record")]
EVIL = "(([a-z._0-9]+)+)+X"
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.fixture(autouse=True)
def _takes_no_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 20


class Named(nn.Module):
    """A layer whose path is long enough for the pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_backbone_blocks_attention_projection = nn.Linear(3, 3)


# ------------------------------------------------------------------------------------------------------ patterns


@pytest.mark.parametrize("field", ["alpha_pattern", "rank_pattern"])
@pytest.mark.parametrize("pattern", [EVIL, "(.*)*(.*)*(.*)*(.*)*X", "a?" * 60 + "a" * 60])
def test_a_pattern_in_an_adapter_is_matched_in_time(tmp_path: Path, field: str, pattern: str) -> None:
    config = LoRAConfig(target_modules=["all-linear"], rank=2, freeze_base_model=True)
    folder = save_adapter(apply_lora(Named(), config), tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: {pattern: 1}}))
    load_adapter(Named(), folder, check_base=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": [f"re:{EVIL}"]},
        {"target_modules": ["all-linear"], "exclude_modules": [f"re:{EVIL}"]},
        {"target_modules": ["all-linear"], "rank_pattern": {f"re:{EVIL}": 2}},
    ],
)
def test_a_pattern_in_a_config_is_matched_in_time(fields: dict) -> None:
    with pytest.raises(UserError, match="matches no"):
        apply_lora(Named(), LoRAConfig(rank=2, **fields))


def test_a_pattern_of_people_is_matched_in_time() -> None:
    assert identities_in("a" * 200, EVIL) == frozenset()
    assert identities_in("x_id001_id2", r"id(\d+)") == {"1", "2"}


@pytest.mark.parametrize("pattern", ["((a{999}){999}){999}", "(?=a)b", r"(a)\1", "(", "(" * 500, "a" * 2000, "\ud800*"])
def test_other_patterns_are_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(UserError, match=r"target_modules: '.*") as caught:
        apply_lora(Named(), LoRAConfig(target_modules=[f"re:{pattern}"], rank=2))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- memory


def test_runs_that_overlap_take_no_more_than_the_image() -> None:
    height, width = 256, 1600
    runs = " ".join([f"1 {height * width}"] * 4000)
    assert decode_runs(runs, (height, width), "x").all()


def test_a_bitmap_that_unpacks_to_more_than_any_image_is_refused() -> None:
    packed = zlib.compressobj(9)
    content = b"".join(packed.compress(bytes(2**22)) for _ in range(100)) + packed.flush()
    with pytest.raises(UserError, match=r"bitmap\.data holds no PNG"):
        decode_bitmap(base64.b64encode(content).decode(), "x")


def test_a_member_that_unpacks_to_more_than_any_image_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as written, written.open("a.png", "w") as file:
        for _ in range(80):
            file.write(bytes(2**22))
    with pytest.raises(UserError, match=r"a\.png: unpacks to 335544320 bytes"):
        read_image(ZipMember(tmp_path / "a.zip", "a.png"))


def packed(file: Path, content: Any, again: int = 0) -> Path:
    """Save with torch; `again` lists the largest member so often more, else all are deflated."""
    torch.save(content, file)
    with zipfile.ZipFile(file) as saved:
        parts = {part.filename: saved.read(part) for part in saved.infolist()}
        largest = max(saved.infolist(), key=lambda part: part.file_size)
    if again:
        with zipfile.ZipFile(file, "a") as archive:
            for number in range(again):
                twin = copy.copy(largest)
                twin.filename = f"{largest.filename}{number}"
                archive.filelist.append(twin)
                archive._didModify = True  # type: ignore[attr-defined]
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
    return file


@pytest.mark.parametrize("again", [0, 50])
def test_packed_weights_and_checkpoints_are_refused(tmp_path: Path, again: int) -> None:
    """15 MB unpacked to 3 GB; PyTorch itself packs nothing, and lists each member once."""
    content = {"state_dict": {"weight": torch.zeros(2**20)}, "global_step": 1}
    for read, suffix in ((read_weights, "pt"), (step_of, "ckpt")):
        file = packed(tmp_path / f"a.{suffix}", content, again)
        with pytest.raises(UserError, match=rf"a\.{suffix}: is packed, and may unpack to any size; save it with"):
            read(file)
        torch.save(content, file)
        read(file)


def test_a_number_that_stands_for_a_billion_is_refused(tmp_path: Path) -> None:
    for tensor in (torch.zeros(1).expand(10**5, 10**4), torch.sparse_coo_tensor(size=(10**5, 10**4))):
        torch.save({"weight": tensor}, tmp_path / "a.pt")
        with pytest.raises(UserError, match=r"'weight' of shape \[100000, 10000\] is larger than the file") as caught:
            read_weights(tmp_path / "a.pt")
        assert "\n" not in str(caught.value)
    # as a buffer of positions is, in many models
    torch.save({"positions": torch.arange(9).expand(3, -1)}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt")["positions"].shape == (3, 9)


# ----------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize("text", [BOMB, "a: &a\n  b: *a\n", "a: " + "[" * 5000, "a: " + "{b: " * 5000, "- " * 900])
def test_yaml_that_grows_or_is_deep_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    for read in (lambda: read_yaml(tmp_path / "a.yaml"), lambda: load_yaml(text)):
        with pytest.raises(UserError, match=r"levels|contains itself|is no YAML") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_yaml_with_a_few_aliases_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


# ---------------------------------------------------------------------------------------------------------- files


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def make_loop(file: Path) -> None:
    file.symlink_to(file)


def make_folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("make", [make_pipe, make_loop, make_folder])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    reader = READERS[name]
    file = reader.write(tmp_path)
    file.unlink()
    make(file)
    # some are passed over as if there were none, such as a preprocessor_config.json
    with contextlib.suppress(UserError, OSError):
        reader.read(file)


def test_folders_that_contain_themselves_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a" / "x.png")
    make_pipe(tmp_path / "pipe.png")
    make_pipe(tmp_path / "pipe")
    assert find_image_files(tmp_path) == ["a/x.png", "pipe.png"]
    with pytest.raises(UserError, match=r"pipe\.png: cannot be read: it is no regular file; replace or remove it"):
        check_image(tmp_path / "pipe.png")


def test_a_name_of_300_letters_is_refused_by_its_readers(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 300)
    for read in (read_image, read_table, read_yaml, read_weights, step_of):
        with pytest.raises(UserError, match=r"File name too long|there is no such file") as caught:
            read(file)
        assert "\n" not in str(caught.value)


JSON_READERS = [name for name in FILES if READERS[name].mutated.__name__ == "json_of"]


@pytest.mark.parametrize("name", JSON_READERS)
@pytest.mark.parametrize("text", [DEEP, '{"a":' * 20_000])
def test_deep_json_is_refused(tmp_path: Path, name: str, text: str) -> None:
    file = READERS[name].write(tmp_path)
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        READERS[name].read(file)
    assert "\n" not in str(caught.value)
