"""Targets of images, the order in which they are evaluated, and what folders, tables and other pixels give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from datamodules import ImageFolder
from datamodules.classification.dataset import Targets
from datamodules.classification.labels import LabeledImage, interleaved
from datamodules.common.sampling import PADDING_INDEX
from eomt.errors import UserError
from tests.tiny_classification import write_classes, write_photo

NAMES = ["a", "b", "c"]


def labeled(name: str, *labels: str) -> LabeledImage:
    return LabeledImage(name, Path(name), labels)


def test_a_target_marks_every_label_of_an_image() -> None:
    several, one = Targets(NAMES, multi_label=True), Targets(NAMES, multi_label=False)
    assert several(labeled("x", "c", "a")).tolist() == [1.0, 0.0, 1.0]
    assert several(labeled("x")).tolist() == several.blank().tolist() == [0.0, 0.0, 0.0]
    assert int(one(labeled("x", "c"))) == 2
    assert int(one.blank()) == 0


def test_every_part_of_an_evaluation_has_the_classes_as_the_whole_has_them() -> None:
    images = [labeled(f"a{n}", "a") for n in range(40)] + [labeled(f"b{n}", "b") for n in range(10)]
    ordered = interleaved(images)
    assert sorted(image.name for image in ordered) == sorted(image.name for image in images)
    for start in range(0, 50, 10):
        assert sum(image.labels == ("b",) for image in ordered[start : start + 10]) == 2


def test_padding_shows_nothing_and_has_no_name(tmp_path: Path) -> None:
    data = ImageFolder(write_classes(tmp_path), batch_size=2, img_size=16, num_workers=0)
    data.setup()
    dataset = data.val_dataloader().dataset
    padding = dataset[PADDING_INDEX]
    assert (padding["name"], int(padding["label"])) == ("", 0)
    assert int(dataset[1]["label"]) == 1


def test_marks_may_be_written_as_fractions_and_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    rows = ["path,warm,dark"]
    for number in range(12):
        write_photo(tmp_path / f"{number}.png", "red", number)
        rows.append(f"{number}.png,{['0', '1', '0.0', '1.0'][number % 4]},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = ImageFolder(tmp_path / "labels.csv", batch_size=2, img_size=16, num_workers=0)
    data.setup()
    labels = {name: label.tolist() for loader in (data.val_dataloader(), data.test_dataloader())
              for batch in loader for name, label in zip(batch["name"], batch["label"], strict=True)}  # fmt: skip
    assert labels == {name: [float(int(name[:-4]) % 2), float(int(name[:-4]) % 2)] for name in labels}
    folder = write_classes(tmp_path / "classes")
    write_photo(folder / ".cache" / "a.png", "red", 99)
    assert ".cache" not in ImageFolder(folder).class_names


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("dark", "bright"):
        (tmp_path / name).mkdir()
        for number in range(5):
            values = random.integers(0, 2000, (16, 16, 4), dtype=np.uint16) + (2000 if name == "bright" else 0)
            options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(tmp_path / name / f"{number}.tif", values, **options)
    return tmp_path


def test_other_pixels_are_read_as_the_fields_say_in_every_split_and_to_predict(bands: Path) -> None:
    fields: dict[str, Any] = {"batch_size": 2, "img_size": 16, "num_workers": 0, "augment": False}
    with pytest.raises(UserError, match="band"):
        ImageFolder(bands, **fields).setup()
    data = ImageFolder(bands, **fields, intensity=(0, 4095), channels=[3, 0, 1, 2], predict_path=bands / "dark")
    data.setup()
    assert data.num_channels == 4
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
    seen = 0
    for loader in loaders:
        for batch in loader:
            for path, image in zip(batch["path"], batch["image"], strict=True):
                values = tifffile.imread(path)[..., [3, 0, 1, 2]].astype(np.float32)
                assert torch.equal(image, torch.from_numpy(np.round(values / 4095 * 255)).permute(2, 0, 1).byte())
                seen += 1
    assert seen >= 13


def test_a_file_that_cannot_be_read_has_as_many_channels_in_predict(bands: Path) -> None:
    (bands / "dark" / "z.tif").write_bytes(b"II*\0damaged")
    data = ImageFolder(
        bands, img_size=16, num_workers=0, eval_batch_size=8, intensity=(0, 4095), channels=[3, 0, 1, 2],
        predict_path=bands / "dark",
    )  # fmt: skip
    (batch,) = data.predict_dataloader()
    assert batch["image"].shape[1] == 4


def test_training_images_change_by_all_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_classes(tmp_path)

    def training(**arguments: Any) -> torch.Tensor:
        common: dict[str, Any] = {"least_crop": 1.0, "flip": False, "color": 0.0}
        data = ImageFolder(folder, batch_size=2, img_size=(20, 24), num_workers=0, **(common | arguments))
        data.setup()
        dataset = data.train_dataloader().dataset
        return torch.stack([dataset[(0, seed)]["image"] for seed in range(12)]).float()

    still = training()
    # the whole image, at its own size, is hardly changed by its crops' proportions
    mirrored = training(flip=True)
    assert any(torch.equal(one, other.flip(-1)) for one, other in zip(mirrored, still, strict=True))
    assert any(torch.equal(one, other) for one, other in zip(mirrored, still, strict=True))
    colored = training(color=0.4)
    assert (colored.mean((1, 2, 3)) - still.mean((1, 2, 3))).abs().max() > 5
    assert not torch.equal(training(least_crop=0.2), still)
