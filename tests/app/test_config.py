"""What the command line makes of a configuration before anything is built."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from eomt.app.config import configure, use_recorded_split, with_absolute_paths
from eomt.app.renamed import with_new_names
from eomt.errors import UserError

POSTPONED = """
from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningDataModule
from datamodules import DataModule


class Folder(DataModule):
    def __init__(self, path: Path, name: str = "") -> None:
        super().__init__(1)


class Plain(LightningDataModule):
    def __init__(self, path: str = "") -> None:
        super().__init__()


def make_folder(path: Path) -> Folder:
    return Folder(path)
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "user_data_of_test_config.py").write_text(POSTPONED)
    monkeypatch.syspath_prepend(tmp_path)
    yield "user_data_of_test_config"
    sys.modules.pop("user_data_of_test_config", None)


def component(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def test_a_home_folder_is_saved_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    saved = with_absolute_paths({"data": component("datamodules.ImageMaskFolder", path="~/images")})
    assert saved["data"]["init_args"]["path"] == str(tmp_path / "images")


@pytest.mark.parametrize("given", ["~/images", "HOME/images"])
@pytest.mark.parametrize("saved", ["~/images", "HOME/images"])
def test_the_recorded_split_is_found_however_the_home_folder_is_written(
    given: str, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given, saved = (path.replace("HOME", str(tmp_path)) for path in (given, saved))
    (tmp_path / "splits.json").write_text(json.dumps({"train": []}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": component("x", path=saved)}))
    config = Namespace(data=Namespace(init_args=Namespace(path=given, splits=None)))
    assert use_recorded_split(config, tmp_path, trains=False)
    config.data.init_args = Namespace(path=str(tmp_path / "others"), splits=None)
    assert not use_recorded_split(config, tmp_path, trains=False)


def test_paths_are_known_where_annotations_are_postponed(user_module: str, tmp_path: Path) -> None:
    saved = with_absolute_paths({"data": component(f"{user_module}.Folder", path="tests", name="tests")})
    assert saved["data"]["init_args"] == {"path": str(Path("tests").absolute()), "name": "tests"}


def test_a_function_that_makes_a_component_is_left_alone(user_module: str) -> None:
    given = component(f"{user_module}.make_folder", path="tests")
    assert with_absolute_paths({"data": given})["data"]["init_args"] == {"path": "tests"}


def test_a_data_module_that_keeps_no_contract_is_refused_in_a_line(user_module: str) -> None:
    network = Namespace(class_path="eomt.models.EoMT", init_args=Namespace(num_classes=None, encoder=None))
    model = Namespace(class_path="eomt.tasks.SemanticSegmentation", init_args=Namespace(network=network))
    data = Namespace(class_path=f"{user_module}.Plain", init_args=Namespace(path=""))
    with pytest.raises(UserError, match=r"^data: user_data_of_test_config\.Plain .* derive it from datamodules\."):
        configure(Namespace(model=model, data=data), None, trains=True)


@pytest.mark.parametrize("class_path", ["SAM2", "eomt.models.SAM2", "eomt.models.sam2.SAM2"])
def test_old_names_of_fields_are_read_however_the_class_is_named(class_path: str) -> None:
    assert with_new_names(component(class_path, image_size=64)) == component(class_path, img_size=64)
    both = component(class_path, image_size=64, img_size=32)
    assert with_new_names(both) == both
