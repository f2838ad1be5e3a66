"""The drawn faces of the quickstart, and the baseline that says what they are worth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from PIL import Image, ImageFilter

from callbacks.results.morph_baselines import baseline_figures
from datamodules.generated.faces.data_modules import GeneratedFaces, GeneratedMorphs
from datamodules.generated.faces.drawing import draw_person, draw_photo, render_face
from datamodules.generated.faces.morphing import ATTACKS, develop
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_people


def morphs(path: Path, **arguments: Any) -> GeneratedMorphs:
    numbers = {"num_train": 3, "num_val": 2, "num_test": 2, "num_photos": 2, "batch_size": 2, "img_size": 64}
    data = GeneratedMorphs(str(path), **(numbers | arguments))
    data.prepare_data()
    return data


def faces(path: Path, **arguments: Any) -> GeneratedFaces:
    data = GeneratedFaces(str(path), **({"num_images": 4, "batch_size": 2, "val_fraction": 0.3} | arguments))
    data.prepare_data()
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_people_photos_and_morphs_are_as_many_as_was_said(tmp_path: Path) -> None:
    data = morphs(tmp_path / "set")
    data.setup()
    assert data.counts == {
        split: {"images": 4 * n, "bonafide": 2 * n, "morph": 2 * n, "identities": n, "unknown identity": 0}
        for split, n in (("train", 3), ("val", 2), ("test", 2))
    }
    assert {face.attack for face in data.faces("train")} == {"", "blend", "warp"}
    with Image.open(data.faces("train")[0].image) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 64, 64)


def test_many_morphs_of_few_people_are_of_every_two_of_them(tmp_path: Path) -> None:
    data = morphs(tmp_path / "set", num_train=4, num_photos=8)
    pairs = [tuple(sorted(face.identities)) for face in data.faces("train") if face.label]
    assert all(len(pair) == 2 for pair in pairs)
    assert len(set(pairs)) == 6
    assert len(pairs) == 32


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    morphs(tmp_path / "a")
    morphs(tmp_path / "b")
    morphs(tmp_path / "c", seed=1)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_every_picture_is_another_one(tmp_path: Path) -> None:
    morphs(tmp_path / "morphs")
    faces(tmp_path / "faces", num_images=6)
    files = [*contents(tmp_path / "morphs").values(), *contents(tmp_path / "faces").values()]
    assert len(files) == 2 * 14 + 6 + 2
    assert len(set(files)) == len(files)


def test_photos_of_a_person_are_more_alike_than_those_of_two() -> None:
    people = [draw_person(np.random.default_rng([0, n])) for n in range(6)]
    neutral = draw_photo(np.random.default_rng(0))
    photos = [draw_photo(np.random.default_rng([1, n])) for n in range(4)]
    # the same circumstances: what differs is the person
    plain = [render_face(person, neutral) for person in people]
    between = np.mean([np.abs(a - b).mean() for a in plain for b in plain if a is not b])
    assert between > 0.02
    # a new photo of a person differs from the last one, and the person's own shape does not
    assert all(
        np.abs(render_face(people[0], a) - render_face(people[0], b)).mean() > 0.02
        for a in photos
        for b in photos
        if a is not b
    )


@pytest.mark.parametrize("attack", ["blend", "warp"])
def test_a_morph_lies_between_its_people(attack: str) -> None:
    middle = (slice(40, 90), slice(40, 88))
    nearer = []
    for seed in range(8):
        one, other, third = (draw_person(np.random.default_rng([seed, n])) for n in range(3))
        photo = draw_photo(np.random.default_rng([seed, 9]))
        morph = ATTACKS[attack](one, other, photo, np.random.default_rng(seed))
        assert morph.shape == (128, 128, 3)
        assert 0 <= morph.min() <= morph.max() <= 1
        distances = [np.abs(morph - render_face(p, photo))[middle].mean() for p in (one, other, third)]
        apart = np.abs(render_face(one, photo) - render_face(other, photo))[middle].mean()
        assert max(distances[:2]) < apart
        nearer.append(max(distances[:2]) < distances[2])
    assert sum(nearer) >= 6


def test_the_camera_treats_everything_alike() -> None:
    light = render_face(draw_person(np.random.default_rng(0)), draw_photo(np.random.default_rng(1)))
    pictures = [np.asarray(develop(light, np.random.default_rng(seed)), dtype=float) for seed in (0, 0, 1)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    averaged = light.reshape(64, 2, 64, 2, 3).mean((1, 3)) * 255
    assert np.abs(pictures[0] - averaged).mean() < 5


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (morphs, {"num_train": 4}, "train 3 instead of 4"),
        (morphs, {"seed": 1}, "seed 0 instead of 1"),
        (faces, {"num_images": 5}, "num_images 4 instead of 5"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    tmp_path: Path, make: Any, arguments: dict[str, Any], message: str
) -> None:
    make(tmp_path / "set")
    before = contents(tmp_path)
    make(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        make(tmp_path / "set", **arguments)
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "generated_morphs.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="holds no generated morphs"):
        morphs(tmp_path)


def test_an_attack_can_be_left_out(tmp_path: Path) -> None:
    data = morphs(tmp_path / "set", leave_out_attack="warp")
    assert {face.attack for face in data.faces("train")} == {"", "blend"}
    assert {face.attack for face in data.faces("test")} == {"", "warp"}


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (GeneratedMorphs, {"num_val": 1}, "num_val: 1; must be at least 2"),
        (GeneratedMorphs, {"seed": -1}, "seed: -1; must be at least 0"),
        (GeneratedFaces, {"num_images": 1}, "num_images: 1; must be at least 2"),
    ],
)
def test_impossible_numbers_are_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**arguments)


def test_faces_without_labels_are_split_and_cropped(tmp_path: Path) -> None:
    data = faces(tmp_path / "faces", img_size=32)
    data.setup()
    assert data.counts == {"train": {"images": 3}, "val": {"images": 1}}
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 32, 32)


def test_the_command_line_builds_them_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    for name, text in (
        ("GeneratedMorphs", "{balanced: true, img_size: 64}"),
        ("GeneratedFaces", "{img_size: [64, 64]}"),
    ):
        config = parser.parse_string(
            f"data: {{class_path: datamodules.generated.faces.data_modules.{name}, init_args: {text}}}"
        )
        assert parser.instantiate_classes(config).data.img_size == (64, 64)


def test_baselines_find_blurred_morphs_and_nothing_in_noise(tmp_path: Path) -> None:
    for index, split in enumerate(("train", "val", "test")):
        write_people(tmp_path / split, range(30 * index, 30 * index + 25), photos=2)
    in_noise = baseline_figures(morph_faces(tmp_path), ["test"])
    for file in tmp_path.rglob("morph/*/*.png"):
        with Image.open(file) as image:
            image.filter(ImageFilter.GaussianBlur(2)).save(file)
    blurred = baseline_figures(morph_faces(tmp_path), ["test"])
    for name in ("eer_sharpness", "eer_texture"):
        assert blurred[name] < 0.02
        assert 0.3 < in_noise[name] < 0.7


def test_what_is_tested_is_the_test_split_where_there_is_one(tmp_path: Path) -> None:
    assert morphs(tmp_path / "set", num_train=4).tested_parts() == ["test"]
    (tmp_path / "set" / "test").rename(tmp_path / "elsewhere")
    without = morphs(tmp_path / "set", num_train=4)
    assert without.tested_parts() == []
    assert 0 <= baseline_figures(without, ["val"])["eer_sharpness"] <= 1


def test_drawing_leaves_torch_alone(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    morphs(tmp_path / "set")
    assert torch.equal(torch.get_rng_state(), state)
