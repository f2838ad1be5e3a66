"""Faces and morphs: layouts, batches, test sets, and errors in them."""

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from PIL import Image

from datamodules.faces.folders import find_labeled_faces
from datamodules.faces.morph_faces import MorphFaces
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_face, write_people, write_splits


def batches_of(loader: Any) -> dict[str, Any]:
    """Return all batches as one."""
    batches = list(loader)
    joined: dict[str, Any] = {key: torch.cat([b[key] for b in batches]) for key in ("image", "label")}
    return joined | {k: [v for b in batches for v in b[k]] for k in ("path", "attack", "dataset", "name")}


def test_batches_hold_what_a_task_needs(tmp_path: Path) -> None:
    data = morph_faces(write_splits(tmp_path / "frll"))
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batch = batches_of(loader)
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape == (16, 3, 16, 16)
        assert batch["label"].dtype == torch.int64
        assert set(batch["dataset"]) == {"frll"}
        for label, attack, path, name in zip(
            batch["label"], batch["attack"], batch["path"], batch["name"], strict=True
        ):
            assert path == str(tmp_path / "frll" / name)
            assert (label, attack) == ((0, "") if "/bonafide/" in name else (1, name.split("/")[2]))
    assert (data.num_classes, data.class_names) == (2, ["bonafide", "morph"])
    counts = {"images": 16, "bonafide": 8, "morph": 8, "identities": 4, "unknown identity": 0}
    assert data.counts == dict.fromkeys(("train", "val", "test"), counts)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"bonafide/id1_0.png", "morph/id1_id2.png", "morph/opencv/id3_id4.png"},
            {
                ("bonafide/id1_0.png", 0, "", ("id1",)),
                ("morph/id1_id2.png", 1, "morph", ("id1", "id2")),
                ("morph/opencv/id3_id4.png", 1, "opencv", ("id3", "id4")),
            },
        ),
        (
            {"o25k_bf_t/img000184.png", "m15k_t/morphed_img000184_img282038.png"},
            {
                ("o25k_bf_t/img000184.png", 0, "", ("img000184",)),
                ("m15k_t/morphed_img000184_img282038.png", 1, "smdd", ("img000184", "img282038")),
            },
        ),
        (
            {
                "raw/001_03.jpg", "raw/04927d04.png", "raw/00001_930831_fa.png", "morph_amsl/001_002.jpg",
                "morph_opencv/02463d252.png_vs_04494d50.png", "morph_stylegan/00001_930831_fa_00002_940928_fb.png",
            },
            {
                ("raw/001_03.jpg", 0, "", ("001",)),
                ("raw/04927d04.png", 0, "", ("04927",)),
                ("raw/00001_930831_fa.png", 0, "", ("00001",)),
                ("morph_amsl/001_002.jpg", 1, "amsl", ("001", "002")),
                ("morph_opencv/02463d252.png_vs_04494d50.png", 1, "opencv", ("02463", "04494")),
                ("morph_stylegan/00001_930831_fa_00002_940928_fb.png", 1, "stylegan", ("00001", "00002")),
            },
        ),
    ],
)  # fmt: skip
def test_layouts_give_label_attack_and_people(tmp_path: Path, files: set[str], expected: set[Any]) -> None:
    for number, name in enumerate(sorted(files)):
        write_face(tmp_path / name, number)
    pattern = r"id\d+" if (tmp_path / "bonafide").exists() else None
    faces = find_labeled_faces(tmp_path, pattern)
    assert {(face.name, face.label, face.attack, tuple(sorted(face.identities))) for face in faces} == expected
    assert all(face.is_identified for face in faces)


def write_table(folder: Path, rows: str) -> Path:
    for number in range(8):
        write_face(folder / f"{number}.png", number)
    (folder / "faces.csv").write_text(rows)
    return folder / "faces.csv"


def test_a_table_gives_label_attack_people_and_split(tmp_path: Path) -> None:
    rows = "image_path, label, attack, subject_a, subject_b, split\n0.png, bonafide, , anna, , train\n"
    rows += f"1.png, attack, opencv, anna, berta, train\n{tmp_path / '2.png'}, Morph, , , , train\n"
    rows += "3.png,0,,carl,,val\n4.png,1,,carl,dora,val\n"
    data = morph_faces(write_table(tmp_path, rows), identity_pattern=None)
    assert not data.is_split_by_seed
    found = [(f.name, f.label, f.attack, sorted(f.identities)) for s in ("train", "val") for f in data.faces(s)]
    assert found == [
        ("0.png", 0, "", ["anna"]),
        ("1.png", 1, "opencv", ["anna", "berta"]),
        (str(tmp_path / "2.png"), 1, "morph", []),
        ("3.png", 0, "", ["carl"]),
        ("4.png", 1, "morph", ["carl", "dora"]),
    ]
    data.setup("fit")
    assert data.counts["train"]["unknown identity"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path,label\n0.png,bonafide\n1.png,fake\n", r"row 3: label 'fake'; must be bonafide or morph"),
        ("path,label\n0.png,\n", r"row 2: label ''; must be"),
        ("path,label\n9.png,morph\n", r"row 2: no image .*9\.png"),
        ("path,kind\n0.png,morph\n", r"columns path, kind; must have path and label"),
        ("path,label\n", "no row below the header"),
        ("path,label,split\n0.png,morph,dev\n", r"row 2: split 'dev'; must be train, val, test"),
        ("path,label,split\n0.png,morph,train\n1.png,morph,\n", "row 3: no split, where other rows have one"),
        ("path,label,attack\n0.png,bonafide,opencv\n", "row 2: attack 'opencv' of a bona fide image"),
        ("path,label,subject_a,subject_b\n0.png,0,a,b\n", "row 2: two subjects of a bona fide image"),
        ("path,label\n0.png,morph\n0.png,bonafide\n", r"0\.png is listed twice"),
    ],
)
def test_errors_in_a_table_are_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        morph_faces(write_table(tmp_path, rows)).setup("fit")
    assert "\n" not in str(caught.value)


def spoil_size(path: Path) -> None:
    write_face(path / "train" / "bonafide" / "id000_0.png", 0, (12, 30))


def spoil_depth(path: Path) -> None:
    pixels = np.zeros((24, 24), dtype=np.uint16)
    Image.fromarray(pixels).save(path / "train" / "bonafide" / "id000_0.png")


def spoil_file(path: Path) -> None:
    file = path / "train" / "bonafide" / "id000_0.png"
    file.write_bytes(file.read_bytes()[:-20])


def remove_class(path: Path) -> None:
    (path / "val" / "morph").rename(path / "val" / "bonafide" / "morphs")


def empty_class(path: Path) -> None:
    for file in (path / "val" / "bonafide").iterdir():
        file.unlink()


def copy_person(path: Path) -> None:
    write_face(path / "val" / "bonafide" / "id001_9.png", 9999)


def copy_contributor(path: Path) -> None:
    write_face(path / "val" / "morph" / "blend" / "id010_id001.png", 9999)


def copy_content(path: Path) -> None:
    copied = (path / "train" / "bonafide" / "id001_0.png").read_bytes()
    (path / "test" / "bonafide" / "id020_9.png").write_bytes(copied)


def link_file(path: Path) -> None:
    (path / "test" / "bonafide" / "id020_9.png").symlink_to(path / "train" / "bonafide" / "id001_0.png")


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (spoil_size, {}, r"id000_0\.png: image of 12 x 30 .*must be at least 16 pixels"),
        (spoil_depth, {}, r"id000_0\.png: grayscale image of more than 8 bits"),
        (spoil_file, {}, r"id000_0\.png: cannot be read as an image"),
        (remove_class, {}, "val: holds neither bonafide and morph, nor"),
        (empty_class, {}, "val/bonafide: no image"),
        (copy_person, {}, r"id001_9\.png: in val, shows id001, as does .*in train"),
        (copy_contributor, {}, r"id010_id001\.png: in val, shows id001, as does .*in train"),
        (copy_content, {}, r"id020_9\.png: in test, is a copy of .*id001_0\.png in train"),
        (link_file, {}, r"id020_9\.png: in test, is the same file as .*id001_0\.png in train"),
        (None, {"splits": "splits.json"}, "has splits of its own"),
        (None, {"identity_pattern": "person"}, "identity_pattern: 'person' matches no file name"),
        (None, {"leave_out_attack": "amsl"}, "leave_out_attack: 'amsl' is not among the attacks blend, warp"),
        (None, {"batch_size": 17}, "batch_size: 17 on 1 processes is more than the 16 training images"),
    ],
)
def test_errors_in_folders_are_found_before_training(
    tmp_path: Path, spoil: Any, arguments: dict[str, Any], message: str
) -> None:
    write_splits(tmp_path)
    if spoil is not None:
        spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        morph_faces(tmp_path, **arguments).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"img_size": (0, 8)}, r"img_size: \[0, 8\]"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"identity_pattern": "("}, r"identity_pattern: '\(' is no regular expression"),
        ({"magnitude": 31}, "num_ops, magnitude: 2, 31"),
        ({"num_folds": 2}, "num_folds, fold: 2, 0; give at least 3 folds"),
        ({"num_folds": 5, "fold": 5}, "num_folds, fold: 5, 5"),
        ({"test_paths": ["a/frll", "b/frll"]}, "test_paths: a/frll is called 'frll', as is another part"),
        ({"test_paths": {"train": "a"}}, "test_paths: a is called 'train'"),
    ],
)
def test_impossible_fields_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MorphFaces("data", **arguments)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_kinds_of_images_become_rgb(tmp_path: Path, mode: str) -> None:
    write_splits(tmp_path)
    file = tmp_path / "val" / "bonafide" / ("id010_9.tif" if mode == "CMYK" else "id010_9.png")
    write_face(file, 1234, mode=mode)
    data = morph_faces(tmp_path)
    data.setup("validate")
    batch = batches_of(data.val_dataloader())
    image = batch["image"][batch["path"].index(str(file))]
    assert image.shape == (3, 16, 16)
    assert image.float().std() > 10


def test_test_sets_follow_the_test_split_with_their_names(tmp_path: Path) -> None:
    write_splits(tmp_path / "own")
    write_people(tmp_path / "frll", range(30, 33))
    write_splits(tmp_path / "other")
    for split in ("train", "val"):
        write_people(tmp_path / "other" / split, range(60, 62))
    paths = {"frll": str(tmp_path / "frll"), "far": str(tmp_path / "other")}
    data = morph_faces(tmp_path / "own", test_paths=paths)
    data.setup()
    batch = batches_of(data.test_dataloader())
    assert Counter(batch["dataset"]) == {"own": 16, "frll": 12, "far": 16}
    # of a set with splits only the test split is taken
    assert all(
        name.startswith("test/") for name, set_ in zip(batch["name"], batch["dataset"], strict=True) if set_ == "far"
    )
    assert set(batches_of(data.val_dataloader())["dataset"]) == {"own"}
    assert set(batches_of(data.train_dataloader())["dataset"]) == {"own"}
    assert data.counts["frll"]["identities"] == 3
    assert set(data.split_record) == {"train", "val", "test"}


def test_test_sets_in_a_list_are_named_by_their_folders(tmp_path: Path) -> None:
    assert list(MorphFaces("data", test_paths=["sets/frll", "sets/mad22.csv"]).test_paths) == ["frll", "mad22"]


@pytest.mark.parametrize(
    ("people", "message"), [(range(1, 4), "shows id001, as does"), (range(10, 13), "shows id010, as does")]
)
def test_a_test_set_with_people_of_training_or_validation_is_refused(
    tmp_path: Path, people: range, message: str
) -> None:
    write_splits(tmp_path / "own")
    write_people(tmp_path / "frll", people)
    for number, file in enumerate((tmp_path / "frll").rglob("*.png")):
        write_face(file, 5000 + number)
    paths = [str(tmp_path / "frll")]
    with pytest.raises(UserError, match=f"in test set frll, {message}.*shared_identities: false"):
        morph_faces(tmp_path / "own", test_paths=paths).setup("fit")
    morph_faces(tmp_path / "own", test_paths=paths, shared_identities=False).setup("fit")


def test_a_test_set_with_a_copy_of_a_training_image_is_refused_whatever_names_say(tmp_path: Path) -> None:
    write_splits(tmp_path / "own")
    write_people(tmp_path / "frll", range(30, 33))
    copied = (tmp_path / "own" / "train" / "bonafide" / "id001_0.png").read_bytes()
    (tmp_path / "frll" / "bonafide" / "id030_0.png").write_bytes(copied)
    with pytest.raises(UserError, match=r"id030_0\.png: in test set frll, is a copy of"):
        morph_faces(tmp_path / "own", test_paths=[str(tmp_path / "frll")], shared_identities=False).setup("fit")


def test_test_sets_may_share_their_bona_fide_images(tmp_path: Path) -> None:
    write_splits(tmp_path / "own")
    paths = [str(write_people(tmp_path / name, range(30, 33))) for name in ("opencv", "webmorph")]
    morph_faces(tmp_path / "own", test_paths=paths).setup()


def test_unknown_people_are_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_splits(tmp_path)
    with caplog.at_level(logging.WARNING, "eomt"):
        data = morph_faces(tmp_path, identity_pattern=None)
        data.setup("fit")
        assert "train: who is seen in 16 of 16 images is unknown" in caplog.text
        assert data.counts["train"]["unknown identity"] == 16
        caplog.clear()
        morph_faces(tmp_path).setup("fit")
        assert "is unknown" not in caplog.text


def test_evaluation_on_two_ranks_sees_each_image_once_and_marks_padding(tmp_path: Path) -> None:
    write_splits(tmp_path)
    write_face(tmp_path / "val" / "bonafide" / "id010_9.png", 777)
    ranks = []
    for rank in range(2):
        data = morph_faces(tmp_path)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        ranks.append(batches_of(data.val_dataloader()))
    names = [name for batch in ranks for name in batch["name"]]
    assert [len(batch["name"]) for batch in ranks] == [9, 9]
    assert len(set(names)) == len(names) == 18
    assert ranks[1]["name"][-1] == ""


def test_prediction_takes_any_images_without_labels(tmp_path: Path) -> None:
    write_face(tmp_path / "new" / "a" / "b.png", 1)
    for path, name in (("new", "a/b.png"), ("new/a/b.png", "b.png")):
        data = morph_faces(tmp_path / "no data here", predict_path=str(tmp_path / path))
        data.setup("predict")
        (batch,) = data.predict_dataloader()
        assert batch["name"] == [name]
        assert "label" not in batch
    with pytest.raises(UserError, match=r"predict_path: .*nowhere is no image and no folder of images"):
        morph_faces(tmp_path, predict_path=str(tmp_path / "nowhere")).predict_dataloader()
    Image.new("RGB", (5, 5)).save(tmp_path / "new" / "small.png")
    (batch,) = morph_faces(tmp_path, predict_path=str(tmp_path / "new")).predict_dataloader()
    assert batch["name"] == ["a/b.png"]
    ((name, reason),) = batch["failed"]
    assert name == "small.png"
    assert "small.png: image of 5 x 5" in reason


@pytest.mark.parametrize(
    ("given", "expected"),
    [("{frll: sets/frll}", {"frll": Path("sets/frll")}), ("[sets/frll]", {"frll": Path("sets/frll")}), ("null", {})],
)
def test_the_command_line_builds_it_from_yaml(given: str, expected: dict[str, Path]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    text = (
        f"data: {{class_path: datamodules.faces.morph_faces.MorphFaces, init_args: {{path: d, test_paths: {given}}}}}"
    )
    data = parser.instantiate_classes(parser.parse_string(text)).data
    assert data.test_paths == expected
    assert data.img_size == (224, 224)
