"""Splits of people: nobody is on two sides, whatever the seed, and what was dropped is counted."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import Namespace

from datamodules.faces.folders import Face
from datamodules.faces.morph_faces import MorphFaces
from datamodules.faces.pair_graph import divide_people, pair_weights
from eomt.app.config import use_recorded_split
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_face, write_people, write_splits

SPLITS = ("train", "val", "test")


def identities(faces: list[Face]) -> set[str]:
    return {identity for face in faces for identity in face.identities}


def parts(data: MorphFaces) -> dict[str, list[Face]]:
    return {split: data.faces(split) for split in SPLITS}


@pytest.mark.parametrize("split_seed", range(5))
def test_nobody_is_on_two_sides_and_dropped_morphs_are_counted(tmp_path: Path, split_seed: int) -> None:
    write_people(tmp_path, range(20))
    data = morph_faces(tmp_path, split_seed=split_seed, val_fraction=0.3, test_fraction=0.3)
    found = parts(data)
    for first in SPLITS:
        for second in SPLITS:
            assert first == second or not identities(found[first]) & identities(found[second])
    # all photos are kept, and just those morphs whose two people came to lie in one split
    side = {i: split for split, faces in found.items() for face in faces if not face.label for i in face.identities}
    assert sum(not face.label for faces in found.values() for face in faces) == 40
    whole = [n for n in range(20) if side[f"id{n:03d}"] == side[f"id{(n + 1) % 20:03d}"]]
    kept = {face.name for faces in found.values() for face in faces if face.label}
    assert len(kept) == 2 * len(whole)
    data.setup()
    assert data.counts["dropped"] == {"morphs of people on different sides": 40 - len(kept)}
    assert Counter(side.values()) == {"train": 8, "val": 6, "test": 6}


def test_the_split_follows_the_seed_and_not_the_order_of_files(tmp_path: Path) -> None:
    write_people(tmp_path / "a", range(12))
    write_people(tmp_path / "b", range(11, -1, -1))
    records = [morph_faces(tmp_path / "a", split_seed=seed).split_record for seed in (0, 0, 1)]
    assert records[0] == records[1] != records[2]
    side = {
        name: s for s, names in morph_faces(tmp_path / "b").split_record.items() for name in names if "bona" in name
    }
    assert side == {name: s for s, names in records[0].items() for name in names if "bona" in name}


def test_copies_of_a_photo_make_their_people_one(tmp_path: Path) -> None:
    write_people(tmp_path, range(20))
    for person in range(0, 20, 2):
        copied = (tmp_path / "bonafide" / f"id{person:03d}_0.png").read_bytes()
        (tmp_path / "bonafide" / f"id{person + 1:03d}_9.png").write_bytes(copied)
    for split_seed in range(4):
        data = morph_faces(tmp_path, split_seed=split_seed)
        side = {i: s for s, faces in parts(data).items() for face in faces if not face.label for i in face.identities}
        assert all(side[f"id{n:03d}"] == side[f"id{n + 1:03d}"] for n in range(0, 20, 2))


def test_copies_of_images_of_unknown_people_stay_together(tmp_path: Path) -> None:
    for number in range(12):
        for label, folder in enumerate(("bonafide", "morph")):
            file = write_face(tmp_path / folder / f"{number}.png", 100 * label + number)
            (tmp_path / folder / f"copy_{number}.png").write_bytes(file.read_bytes())
    for split_seed in range(4):
        data = morph_faces(tmp_path, identity_pattern=None, split_seed=split_seed)
        side = {name: split for split, names in data.split_record.items() for name in names}
        assert len(side) == 48
        assert all(side[name] == side[name.replace("copy_", "")] for name in side)
        data.setup()
        # both classes are divided on their own
        assert {split: (c["bonafide"], c["morph"]) for split, c in data.counts.items()} == {
            "train": (16, 16), "val": (4, 4), "test": (4, 4),
        }  # fmt: skip


def test_one_picture_with_two_labels_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path, range(6))
    copied = (tmp_path / "bonafide" / "id001_0.png").read_bytes()
    (tmp_path / "morph" / "blend" / "id001_id003.png").write_bytes(copied)
    with pytest.raises(
        UserError, match=r"id001_id003\.png: morph, is a copy of .*id001_0\.png, bonafide; keep the one"
    ):
        morph_faces(tmp_path).setup("fit")


def test_one_attack_is_left_out_of_training_and_validation_and_alone_in_test(tmp_path: Path) -> None:
    write_people(tmp_path, range(20))
    shares = {"val_fraction": 0.3, "test_fraction": 0.3}
    plain = parts(morph_faces(tmp_path, **shares))
    left = parts(data := morph_faces(tmp_path, leave_out_attack="warp", **shares))
    for split in SPLITS:
        attacks = {face.attack for face in left[split]}
        assert attacks <= ({"", "warp"} if split == "test" else {"", "blend"})
        assert [face for face in plain[split] if face.attack in attacks] == left[split]
        assert len(attacks) == 2
    dropped = sum(len(plain[split]) - len(left[split]) for split in SPLITS)
    data.setup("validate")
    assert data.counts["dropped"]["morphs of an attack that is left out here"] == dropped


def test_every_photo_is_in_the_test_of_one_fold(tmp_path: Path) -> None:
    write_people(tmp_path, range(10))
    folds = [parts(morph_faces(tmp_path, num_folds=5, fold=fold)) for fold in range(5)]
    for part in ("test", "val"):
        people = Counter(identity for fold in folds for identity in {i for f in fold[part] for i in f.identities})
        assert people == {f"id{person:03d}": 1 for person in range(10)}
    for fold in folds:
        assert not identities(fold["test"]) & identities(fold["val"])
        assert not identities(fold["train"]) & (identities(fold["test"]) | identities(fold["val"]))
        assert len({face.name for face in fold["train"] if not face.label}) == 12


def test_people_who_are_only_in_morphs_are_divided_too(tmp_path: Path) -> None:
    write_people(tmp_path, range(4), attacks=())
    for number in range(20):
        write_face(tmp_path / "morph" / f"id{100 + number}_id{100 + (number ^ 1)}.png", 9000 + number)
    data = morph_faces(tmp_path, val_fraction=0.3, test_fraction=0.3)
    found = parts(data)
    assert all(any(face.label for face in faces) for faces in found.values())
    assert not identities(found["train"]) & (identities(found["val"]) | identities(found["test"]))


@pytest.mark.parametrize("split_seed", range(3))
def test_most_morphs_of_a_ring_of_people_are_kept(tmp_path: Path, split_seed: int) -> None:
    """15.18: of morphs of neighbors, 80, a cut into three arcs costs two at each of three places."""
    write_people(tmp_path, range(40))
    data = morph_faces(tmp_path, split_seed=split_seed)
    kept = {split: sum(face.label for face in faces) for split, faces in parts(data).items()}
    # 6 of 40 people in an arc: 5 pairs, two morphs each; a few arcs more than one are allowed for
    assert min(kept["val"], kept["test"]) >= 6
    # by chance .7^2 + 2 * .15^2 = .54 of 80
    assert sum(kept.values()) >= 64


def test_more_morphs_of_random_pairs_are_kept_than_by_chance() -> None:
    """15.18: 279 of 584 were dropped, and test was left with two."""
    random = np.random.default_rng(0)
    people = [f"person {number}" for number in range(200)]
    pairs = [tuple(random.choice(people, 2, replace=False)) for _ in range(584)]
    weights = pair_weights(pairs)
    sizes = {"train": {"all": 140}, "val": {"all": 30}, "test": {"all": 30}}
    for seed in range(3):
        block_of = divide_people(sizes, {"all": people}, weights, seed)
        assert Counter(block_of.values()) == {"train": 140, "val": 30, "test": 30}
        kept = Counter(block_of[one] for one, other in pairs if block_of[one] == block_of[other])
        # by chance .7^2 = .49 and .15^2 = .0225 of 584 with a deviation of 3.6
        assert kept["train"] > 0.5 * 584
        assert min(kept["val"], kept["test"]) > 0.0225 * 584 + 3 * 3.6
        backwards = divide_people(sizes, {"all": people[::-1]}, pair_weights(pairs[::-1]), seed)
        assert backwards == block_of


def test_each_kind_of_people_has_its_number_in_each_block() -> None:
    """15.18: whatever the pairs are."""
    members = {"a": [f"a{n}" for n in range(20)], "b": [f"b{n}" for n in range(10)]}
    weights = pair_weights([(f"a{n}", f"b{n // 2}") for n in range(20)])
    sizes = {"train": {"a": 14, "b": 7}, "val": {"a": 3, "b": 2}, "test": {"a": 3, "b": 1}}
    block_of = divide_people(sizes, members, weights, 0)
    for kind, people in members.items():
        assert Counter(block_of[person] for person in people) == {
            block: number[kind] for block, number in sizes.items()
        }


def test_few_images_to_measure_on_are_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """15.18: a figure that rests on two morphs."""
    write_splits(tmp_path)
    with caplog.at_level(logging.WARNING, "eomt"):
        morph_faces(tmp_path).setup()
    found = [record.getMessage() for record in caplog.records]
    # 1 - .025^(1/4) = .602
    assert [message[:55] for message in found] == [
        f"{part}: few images (blend 4, bona fide 8, warp 4): with no error among 4"[:55] for part in ("val", "test")
    ]
    assert all("may still be 60 %" in message for message in found)


def test_every_part_of_an_evaluation_has_both_classes_and_all_attacks(tmp_path: Path) -> None:
    """15.18: validation listed one class first, and limit_val_batches gave nan."""
    write_splits(tmp_path, people=6)
    batches = list(morph_faces(tmp_path, eval_batch_size=4).val_dataloader())
    assert all(set(batch["attack"]) == {"", "blend", "warp"} for batch in batches)
    assert len({name for batch in batches for name in batch["name"]}) == 24


def test_a_recorded_split_is_used_again_by_the_command_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_people(tmp_path / "data", range(12))
    first = morph_faces(tmp_path / "data", split_seed=1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "splits.json").write_text(json.dumps(first.split_record))
    (run / "config.yaml").write_text(f"data: {{init_args: {{path: {tmp_path / 'data'}}}}}\n")
    config = Namespace(data=Namespace(init_args=Namespace(path=str(tmp_path / "data"), splits=None)))
    assert use_recorded_split(config, run, trains=False)
    write_face(tmp_path / "data" / "bonafide" / "id099_0.png", 9999)
    again = morph_faces(tmp_path / "data", split_seed=2, splits=config.data.init_args.splits)
    assert again.is_split_by_seed
    assert again.split_record == first.split_record
    with caplog.at_level(logging.INFO, "eomt"):
        again.setup("validate")
    dropped = 1 + 48 - sum(map(len, first.split_record.values()))
    assert again.counts["dropped"] == {"images that are not in the recorded split": dropped}
    assert f"dropped: {dropped} images that are not in the recorded split" in caplog.text


def test_a_recorded_split_with_a_person_on_two_sides_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path / "data", range(4))
    names = [f"bonafide/id{person:03d}_{photo}.png" for person in range(4) for photo in range(2)]
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:3], "val": names[3:]}))
    with pytest.raises(UserError, match=r"id001_1\.png: in val, shows id001, as does .*id001_0\.png in train"):
        morph_faces(tmp_path / "data", splits=str(tmp_path / "splits.json")).setup("fit")


def test_a_split_without_a_class_is_refused_and_says_what_was_dropped(tmp_path: Path) -> None:
    write_people(tmp_path, range(6))
    # one person in validation: no morph of two people can be there
    with pytest.raises(UserError, match=r"no morph image in val \(of 2 images; dropped: \d+ morphs of people on diff"):
        morph_faces(tmp_path).setup("fit")


def test_a_test_set_without_a_class_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path / "data", range(20))
    write_face(tmp_path / "1.png", 9999)
    (tmp_path / "only.csv").write_text("path,label\n1.png,morph\n")
    data = morph_faces(tmp_path / "data", test_paths=[str(tmp_path / "only.csv")], val_fraction=0.3, test_fraction=0.3)
    with pytest.raises(UserError, match=r"only\.csv: no bonafide image in only \(of 1 images\)"):
        data.setup("test")
