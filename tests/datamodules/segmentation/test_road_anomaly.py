import os
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from datamodules.segmentation.road_anomaly import RoadAnomaly
from eomt.errors import UserError

COURSE = {
    "RoadAnomaly21": ".png",
    "RoadObsticle21": ".webp",
    "FS_LostFound_full": ".png",
    "fs_static": ".jpg",
    "RoadAnomaly": ".jpg",
}
MASK = np.array([[0, 0, 0, 1], [255, 0, 1, 1]], dtype=np.uint8)


def write_image(file: Path, shape: tuple[int, ...] = MASK.shape) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), 90, dtype=np.uint8)).save(file)


def write_mask(file: Path, mask: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(file)


def write_course_set(path: Path, name: str, masks: list[np.ndarray], extension: str = ".png") -> None:
    for number, mask in enumerate(masks):
        write_image(path / name / "images" / f"{number}{extension}", mask.shape)
        write_mask(path / name / "labels_masks" / f"{number}.png", mask)


def write_course(path: Path) -> Path:
    for name, extension in COURSE.items():
        # as it is published, 2 is an anomaly there
        mask = np.where(MASK == 1, 2, MASK).astype(np.uint8) if name == "RoadAnomaly" else MASK
        write_course_set(path, name, [mask, mask], extension)
    return path


def anomalies(path: Path, **arguments: Any) -> RoadAnomaly:
    return RoadAnomaly(str(path), num_workers=0, **arguments)


def names(loader: Any) -> list[str]:
    return [name for batch in loader for name in batch["name"]]


def test_the_five_sets_of_the_course_come_with_the_same_labels(tmp_path: Path) -> None:
    data = anomalies(write_course(tmp_path))
    data.setup("test")
    batches = list(data.test_dataloader())
    assert data.counts == {
        "val": {"images": 0} | dict.fromkeys(COURSE, 0),
        "test": {"images": 10, **dict.fromkeys(COURSE, 2)},
    }
    assert {name for batch in batches for name in batch["dataset"]} == set(COURSE)
    for batch in batches:
        assert (batch["image"].shape, batch["image"].dtype) == ((1, 3, 2, 4), torch.uint8)
        assert torch.equal(batch["anomaly"], torch.from_numpy(MASK).long()[None])
        assert batch["name"][0].startswith(batch["dataset"][0] + "/")
    assert len(set(names(batches))) == 10


def test_raw_lost_and_found_is_mapped_and_its_void_is_no_anomaly(tmp_path: Path) -> None:
    raw = np.array([[0, 1, 2, 200, 42, 255]], dtype=np.uint8)
    write_course_set(tmp_path, "LostAndFound", [raw])
    (batch,) = anomalies(tmp_path).test_dataloader()
    assert batch["anomaly"].tolist() == [[[255, 0, 1, 1, 1, 255]]]


def test_the_official_tracks_leave_out_images_without_public_masks(tmp_path: Path) -> None:
    for track, extension in (("dataset_AnomalyTrack", ".jpg"), ("dataset_ObstacleTrack", ".webp")):
        for name in ("validation_1", "snow_00.16", "secret_2"):
            write_image(tmp_path / track / "images" / f"{name}{extension}")
            if name != "secret_2":
                write_mask(tmp_path / track / "labels_masks" / f"{name}_labels_semantic.png", MASK)
        write_mask(tmp_path / track / "labels_masks" / "validation_1_labels_semantic_color.png", MASK + 100)
    data = anomalies(tmp_path)
    data.setup("test")
    assert data.left_out == {"dataset_AnomalyTrack": 1, "dataset_ObstacleTrack": 1}
    assert names(data.test_dataloader()) == [
        "dataset_AnomalyTrack/snow_00.16.jpg",
        "dataset_AnomalyTrack/validation_1.jpg",
        "dataset_ObstacleTrack/snow_00.16.webp",
        "dataset_ObstacleTrack/validation_1.webp",
    ]
    # they can be predicted all the same
    assert len(names(data.predict_dataloader())) == 6


def test_the_original_road_anomaly_is_read_from_its_frames(tmp_path: Path) -> None:
    frames = tmp_path / "RoadAnomaly_jpg" / "frames"
    write_image(frames / "animals01.jpg")
    write_mask(frames / "animals01.labels" / "labels_semantic.png", np.where(MASK == 1, 2, MASK).astype(np.uint8))
    for path in (tmp_path, tmp_path / "RoadAnomaly_jpg"):
        (batch,) = anomalies(path).test_dataloader()
        assert (batch["name"], batch["dataset"]) == (["RoadAnomaly_jpg/animals01.jpg"], ["RoadAnomaly_jpg"])
        assert torch.equal(batch["anomaly"][0], torch.from_numpy(MASK).long())


def test_the_original_lost_and_found_is_read_without_what_the_benchmark_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """15 H: raw labels 0 void, 1 free space, 2 and more obstacles; children and bicycles are known classes."""
    folder = tmp_path / "LostAndFound"
    kept = ["02_Hanns_Klemm_Str_44_000000_000020", "04_Maurener_Weg_8_000001_000100"]
    known = ["15_Rechbergstr_Deckenpfronn_000000_000050", "01_Hanns_Klemm_Str_45_000006_000010"]
    raw = np.kron([[0, 1], [2, 40]], np.ones((6, 8))).astype(np.uint8)
    for split, stems in (("test", kept + known), ("train", ["03_Hanns_Klemm_Str_19_000000_000010"])):
        for stem in stems:
            scene = stem[: -len("_000000_000020")]
            write_image(folder / "leftImg8bit" / split / scene / f"{stem}_leftImg8bit.png", raw.shape)
            write_mask(folder / "gtCoarse" / split / scene / f"{stem}_gtCoarse_labelIds.png", raw)
            write_mask(folder / "gtCoarse" / split / scene / f"{stem}_gtCoarse_instanceIds.png", raw)
    data = anomalies(tmp_path)
    with caplog.at_level("INFO", "eomt"):
        data.setup("test")
    assert names(data.test_dataloader()) == [f"LostAndFound/{stem}_leftImg8bit.png" for stem in kept]
    assert "LostAndFound: 2 images are left out, as by the benchmark" in caplog.text
    (anomaly,) = next(iter(data.test_dataloader()))["anomaly"]
    assert torch.equal(anomaly, torch.from_numpy(np.select([raw == 0, raw == 1], [255, 0], 1)).long())


def write_lost_and_found(path: Path, frames: dict[str, np.ndarray], ending: str = "_gtCoarse_labelIds.png") -> None:
    for stem, raw in frames.items():
        scene = stem[: -len("_000000_000020")]
        write_image(path / "LostAndFound/leftImg8bit/test" / scene / f"{stem}_leftImg8bit.png", raw.shape)
        write_mask(path / "LostAndFound/gtCoarse/test" / scene / f"{stem}{ending}", raw)


def test_frames_of_lost_and_found_without_a_label_are_predicted_and_not_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """15 H: the benchmark has 1,043 images; those of which nothing is labeled were among ours."""
    raw = np.array([[0, 1], [2, 40]], dtype=np.uint8)
    frames = {f"02_Hanns_Klemm_Str_44_000000_{time}": raw * (time != "000020") for time in ("000010", "000020")}
    # sequence 60 is not sequence 6
    frames["01_Hanns_Klemm_Str_45_000060_000010"] = frames["01_Hanns_Klemm_Str_45_000006_000010"] = raw
    write_lost_and_found(tmp_path, frames)
    data = anomalies(tmp_path)
    with caplog.at_level("INFO", "eomt"):
        data.setup("test")
    assert [name.removeprefix("LostAndFound/") for name in names(data.test_dataloader())] == [
        "01_Hanns_Klemm_Str_45_000060_000010_leftImg8bit.png",
        "02_Hanns_Klemm_Str_44_000000_000010_leftImg8bit.png",
    ]
    assert "LostAndFound: 2 images are left out, as by the benchmark" in caplog.text
    assert len(names(data.predict_dataloader())) == 4


@pytest.mark.parametrize("folder", ["RoadObsticle21", "dataset_ObstacleTrack", "MySet"])
def test_only_the_obstacle_track_leaves_out_frames_and_just_those(tmp_path: Path, folder: str) -> None:
    """15 H: validation_19, _190, _21 of a user's own set were left out, and of predict too."""
    stems = ("validation_1", "validation_19", "validation_190", "validation_2", "validation_21", "validation_29")
    for stem in stems:
        write_image(tmp_path / folder / "images" / f"{stem}.webp")
        write_mask(tmp_path / folder / "labels_masks" / f"{stem}.png", MASK)
    data = anomalies(tmp_path)
    data.setup("test")
    left_out = () if folder == "MySet" else ("validation_19", "validation_21", "validation_29")
    kept = [f"{folder}/{stem}.webp" for stem in stems if stem not in left_out]
    assert names(data.test_dataloader()) == kept
    assert data.not_measured == {folder: len(left_out)}
    assert len(names(data.predict_dataloader())) == len(stems)


def test_masks_follow_the_orientation_of_their_images(tmp_path: Path) -> None:
    """15.7: the image is turned by its EXIF orientation, and a mask drawn on its stored pixels with it."""
    for layout in ("images", "frames"):
        folder = tmp_path / f"set of {layout}" / layout
        image = folder / "0.png"
        write_image(image, MASK.shape)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 3
        with Image.open(image) as stored:
            stored.copy().save(image, exif=exif)
        masks = folder.parent / "labels_masks" if layout == "images" else folder / "0.labels"
        write_mask(masks / ("0.png" if layout == "images" else "labels_semantic.png"), MASK)
    batches = list(anomalies(tmp_path).test_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert torch.equal(batch["anomaly"][0], torch.from_numpy(MASK[::-1, ::-1].copy()).long())


DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "ảnh") for form in ("NFD", "NFC"))


@pytest.mark.parametrize(("image", "mask"), [(DECOMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("1", "1")])
def test_frames_and_their_masks_are_found_by_any_spelling(tmp_path: Path, image: str, mask: str) -> None:
    """15.28: `no mask for` images whose mask stood there, as macOS writes names, or in upper case."""
    frames = tmp_path / "RoadAnomaly_jpg" / "frames"
    write_image(frames / f"{image}.JPG")
    (frames / f"._{image}.JPG").write_bytes(b"what macOS keeps beside a file")
    ending = ".PNG" if image == "1" else ".png"
    write_mask(frames / f"{mask}.labels" / f"labels_semantic{ending}", np.where(MASK == 1, 2, MASK).astype(np.uint8))
    assert names(anomalies(tmp_path).test_dataloader()) == [f"RoadAnomaly_jpg/{image}.JPG"]


def test_masks_of_lost_and_found_are_found_by_any_spelling(tmp_path: Path) -> None:
    """15.28"""
    raw = np.array([[0, 1], [2, 40]], dtype=np.uint8)
    stem = "02_Hanns_Klemm_Str_44_000000_000010"
    write_lost_and_found(tmp_path, {stem: raw}, "_gtCoarse_labelIds.PNG")
    assert names(anomalies(tmp_path).test_dataloader()) == [f"LostAndFound/{stem}_leftImg8bit.png"]
    write_lost_and_found(tmp_path, {stem: raw})
    with pytest.raises(UserError, match=r"labelIds\.png: is .*labelIds\.PNG in another spelling; keep one of the two"):
        anomalies(tmp_path).setup("test")


def test_a_set_may_be_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_course_set(tmp_path, "fs_static", [MASK])
    monkeypatch.chdir(tmp_path / "fs_static")
    assert names(anomalies(Path(os.curdir)).test_dataloader()) == ["fs_static/0.png"]


def test_what_is_validated_on_is_never_tested(tmp_path: Path) -> None:
    write_course(tmp_path)
    by_set = anomalies(tmp_path, sets=["RoadAnomaly"], val_set="fs_static")
    assert names(by_set.val_dataloader()) == ["fs_static/0.jpg", "fs_static/1.jpg"]
    assert names(by_set.test_dataloader()) == ["RoadAnomaly/0.jpg", "RoadAnomaly/1.jpg"]
    others = anomalies(tmp_path, val_set="fs_static")
    assert len(names(others.test_dataloader())) == 8
    by_share = anomalies(tmp_path, val_fraction=0.5)
    val, test = names(by_share.val_dataloader()), names(by_share.test_dataloader())
    assert len(val) == len(test) == 5
    assert not set(val) & set(test)
    assert val == names(anomalies(tmp_path, val_fraction=0.5).val_dataloader())


def test_images_without_anomalies_stay_unless_they_are_to_be_skipped(tmp_path: Path) -> None:
    # an ignored pixel is none
    clean = np.where(MASK == 1, 255, MASK).astype(np.uint8)
    write_course_set(tmp_path, "fs_static", [clean, MASK])
    assert names(anomalies(tmp_path).test_dataloader()) == ["fs_static/0.png", "fs_static/1.png"]
    assert names(anomalies(tmp_path, skip_without_anomaly=True).test_dataloader()) == ["fs_static/1.png"]


def test_two_ranks_take_equal_steps_and_padding_is_ignored(tmp_path: Path) -> None:
    write_course_set(tmp_path, "fs_static", [MASK] * 3)
    batches = []
    for rank in range(2):
        data = anomalies(tmp_path)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        batches.append(list(data.test_dataloader()))
    assert [len(of_rank) for of_rank in batches] == [2, 2]
    assert batches[1][1]["name"] == [""]
    assert (batches[1][1]["anomaly"] == 255).all()


def road_anomaly_21_with_2(path: Path) -> None:
    write_mask(path / "RoadAnomaly21" / "labels_masks" / "0.png", np.where(MASK == 1, 2, MASK).astype(np.uint8))


def instance_labels(path: Path) -> None:
    write_mask(path / "RoadAnomaly" / "labels_masks" / "1.png", np.where(MASK == 1, 7, MASK).astype(np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (road_anomaly_21_with_2, r"RoadAnomaly21.labels_masks.0\.png: label 2 \(3 pixels\); must be 0, 1 or 255"),
        (instance_labels, r"RoadAnomaly.labels_masks.1\.png: label 7 \(3 pixels\); must be 0 to 2 or 255"),
        (lambda path: (path / "fs_static/labels_masks/1.png").unlink(), r"no mask for .*1\.jpg \(1 of 2 images"),
        (lambda path: (path / "fs_static/images/1.jpg").unlink(), r"labels_masks.1\.png: no image 1 in"),
        (lambda path: write_image(path / "fs_static/images/1.jpg", (3, 3)), "mask of 2 x 4 .* an image of 3 x 3"),
        (lambda path: write_image(path / "fs_static/images/1.png"), "shares its mask with 1.jpg"),
    ],
)
def test_errors_in_files_are_found_before_anything_is_measured(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(write_course(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        anomalies(tmp_path).setup("test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        # its folder's name says that 1 is road
        (
            "LostAndFound",
            MASK,
            r"no pixel of its 2 masks is anomalous \(1\), they hold \[0, 255\], read as .* 0 to 200",
        ),
        ("Cones", np.where(MASK == 1, 255, 0), r"Cones: no pixel of its 2 masks is anomalous .*they hold \[0, 255\];"),
        ("Cones", np.full_like(MASK, 255), "is anomalous"),
        ("Cones", np.full_like(MASK, 1), r"is usual \(0\), they hold \[1\]"),
    ],
)
def test_sets_whose_labels_mean_something_else_are_refused(
    tmp_path: Path, name: str, mask: np.ndarray, message: str
) -> None:
    write_course_set(tmp_path, name, [mask.astype(np.uint8)] * 2)
    with pytest.raises(UserError, match=message):
        anomalies(tmp_path).setup("test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": ["RoadObstacle21"]}, "sets: 'RoadObstacle21' is not in .*which holds FS_LostFound_full, RoadAnomaly"),
        ({"val_set": "cracks"}, "val_set: 'cracks' is not in"),
        ({"sets": ["fs_static"], "val_set": "fs_static"}, "val_set: fs_static is also in sets"),
        ({"val_set": "fs_static", "val_fraction": 0.5}, "give one of the two"),
        ({"val_fraction": 1.0}, "must be at least 0 and below 1"),
    ],
)
def test_impossible_fields_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    write_course(tmp_path)
    with pytest.raises(UserError, match=message):
        anomalies(tmp_path, **arguments).setup("test")


def test_there_is_nothing_to_train_on_and_no_validation_unless_it_is_named(tmp_path: Path) -> None:
    write_course(tmp_path)
    with pytest.raises(UserError, match="no training images; use test"):
        anomalies(tmp_path).setup("fit")
    with pytest.raises(UserError, match="give val_set or val_fraction"):
        anomalies(tmp_path).val_dataloader()
    with pytest.raises(UserError, match="holds no folder with 'images'"):
        anomalies(tmp_path / "fs_static" / "images").setup("test")
