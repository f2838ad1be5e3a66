import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import StreetScenes
from datamodules.generated.streets.drawing import CLASS_NAMES
from eomt.errors import UserError


def scenes(path: Path, **arguments: Any) -> StreetScenes:
    sizes = {"num_train": 3, "num_val": 2, "num_test": 1}
    data = StreetScenes(path=str(path), **(sizes | {"batch_size": 2, "crop_size": (96, 160)} | arguments))
    data.prepare_data()
    return data


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.png")}


def test_batches(tmp_path: Path) -> None:
    data = scenes(tmp_path / "streets")
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["image"].shape == (2, 3, 96, 160)
    assert batch["mask"].shape == (2, 96, 160)
    assert data.class_names == CLASS_NAMES
    assert {split: len(names) for split, names in data.split_record.items()} == {"train": 3, "val": 2, "test": 1}


def test_the_same_seed_draws_the_same_files(tmp_path: Path) -> None:
    scenes(tmp_path / "a", seed=3)
    scenes(tmp_path / "b", seed=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_other_seeds_and_other_splits_draw_other_streets(tmp_path: Path) -> None:
    scenes(tmp_path / "a", seed=3)
    scenes(tmp_path / "b", seed=4)
    files = [*contents(tmp_path / "a").values(), *contents(tmp_path / "b").values()]
    assert len(set(files)) == len(files)


def test_domains_differ_in_light_alone(tmp_path: Path) -> None:
    scenes(tmp_path / "day", domain="day")
    scenes(tmp_path / "night", domain="night")
    day, night = contents(tmp_path / "day"), contents(tmp_path / "night")
    for name in day:
        assert (day[name] == night[name]) == ("masks" in name)


def test_night_turns_the_sky_from_brightest_to_darkest(tmp_path: Path) -> None:
    def brightness(domain: str) -> dict[str, float]:
        data = scenes(tmp_path / domain, domain=domain, num_val=12)
        batches = list(data.val_dataloader())
        images = torch.cat([batch["image"] for batch in batches]).float().mean(1)
        masks = torch.cat([batch["mask"] for batch in batches])
        return {name: images[masks == class_id].mean().item() for class_id, name in enumerate(CLASS_NAMES)}

    day, night = brightness("day"), brightness("night")
    assert max(day, key=day.get) == "sky"
    assert min(night, key=night.get) == "sky"


def test_every_class_occurs_and_masks_are_palette_files(tmp_path: Path) -> None:
    data = scenes(tmp_path / "streets", num_val=12)
    data.setup("validate")
    assert all(data.counts["val"][name] > 0 for name in CLASS_NAMES)
    with Image.open(tmp_path / "streets" / "val" / "masks" / "street_00000.png") as mask:
        assert mask.mode == "P"
        assert set(np.unique(np.asarray(mask))) <= {*range(7), 255}


def test_finished_scenes_are_not_drawn_again(tmp_path: Path) -> None:
    scenes(tmp_path / "streets")
    file = tmp_path / "streets" / "val" / "images" / "street_00000.png"
    file.write_bytes(b"untouched")
    scenes(tmp_path / "streets")
    assert file.read_bytes() == b"untouched"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "day"}, "domain night instead of day"),
        ({"seed": 1, "num_val": 3}, "val 2 instead of 3, seed 0 inst"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    scenes(tmp_path / "streets")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        scenes(tmp_path / "streets", **arguments)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["thesis.txt", "street_scenes.json"])
def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps([1]))
    with pytest.raises(UserError, match="holds no generated street scenes"):
        scenes(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.generated.streets.street_scenes.light_by_night", fail)
    with pytest.raises(KeyboardInterrupt):
        scenes(tmp_path / "streets")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_stand_there_already(tmp_path: Path) -> None:
    (tmp_path / "streets").mkdir()
    scenes(tmp_path / "streets")
    assert len(contents(tmp_path / "streets")) == 2 * (3 + 2 + 1)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="num_val: 0; must be at least 1"):
        StreetScenes(num_val=0)


def test_two_runs_may_draw_the_same_data_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """15.32: the run that ended second takes what the first one drew, and does not replace it under its hands."""
    arguments = {"num_train": 2, "num_val": 1, "num_test": 1, "batch_size": 2}
    first, second = (StreetScenes(str(tmp_path / "streets"), **arguments) for _ in range(2))
    draw = second.write

    def draw_late(folder: Path) -> None:
        draw(folder)
        first.prepare_data()
        drawn.append((tmp_path / "streets").stat().st_ino)

    drawn: list[int] = []
    monkeypatch.setattr(second, "write", draw_late)
    second.prepare_data()
    second.setup("fit")
    assert second.counts["train"]["images"] == 2
    assert (tmp_path / "streets").stat().st_ino == drawn[0]
    assert [path.name for path in tmp_path.iterdir()] == ["streets"]
