"""The drawn questions of the quickstart: true, not to be guessed, and the same for the same seed."""

import colorsys
import csv
import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from scipy import ndimage
from scipy.spatial import ConvexHull

from datamodules.generated.shapes.questions import (
    ANSWERS,
    QUESTION_TYPES,
    SceneQuestion,
    make_questions,
    question_words,
)
from datamodules.generated.shapes.scenes import COLORS, HUES, SHAPES, SIZE, ShapeScene, Thing, make_scene, render_shapes
from datamodules.generated.shapes.shape_questions import ShapeQuestions
from eomt.errors import UserError
from tests.tiny_vqa import make_tokenizer

CHANCE = {"shape": 1 / 5, "colour": 1 / 6, "count": 1 / 4, "location": 1 / 4, "yes/no": 1 / 2}
LOOKS: tuple[Any, ...] = ("plain", "night")


def questions(path: Path, **arguments: Any) -> ShapeQuestions:
    numbers: dict[str, Any] = {"num_train": 6, "num_val": 3, "num_test": 2, "questions_per_scene": 3, "batch_size": 4}
    data = ShapeQuestions(str(path), **(numbers | arguments))
    data.prepare_data()
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def table(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / f"{split}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scenes(number: int, seed: int = 0) -> list[ShapeScene]:
    return [make_scene(np.random.default_rng([seed, index])) for index in range(number)]


def questions_about(number: int, questions_each: int) -> list[tuple[ShapeScene, list[SceneQuestion]]]:
    return [
        (scene, make_questions(scene, questions_each, np.random.default_rng([1, index])))
        for index, scene in enumerate(scenes(number))
    ]


def the_only(things: list[Thing]) -> Thing:
    """The thing that "the" can mean."""
    assert len(things) == 1
    return things[0]


def true_answer(question: str, scene: ShapeScene) -> str:
    """What somebody who reads the question word by word finds in the list of things."""
    singular = {"circles": "circle", "squares": "square", "triangles": "triangle", "stars": "star", "crosses": "cross"}
    words = [singular.get(word, word) for word in question.removesuffix("?").split()]
    shapes, colors = [w for w in words if w in SHAPES], [w for w in words if w in COLORS]
    named = [t for t in scene.things if t.shape in (shapes or SHAPES) and t.color in (colors or COLORS)]
    if question.startswith("how many") or "the number of" in question:
        return str(len(named))
    if re.match("is there a|do you see a", question):
        return "yes" if named else "no"
    if question.startswith("is the"):
        subject = the_only([t for t in scene.things if t.shape == shapes[0]])
        return "yes" if subject.color == colors[0] else "no"
    thing = the_only(named)
    if "colour" in question:
        return thing.color
    if question.startswith(("where", "on which side")):
        degrees = math.degrees(math.atan2(thing.row - SIZE / 2, thing.column - SIZE / 2)) % 360
        # nobody would call a thing near a diagonal, or in the middle, "left" or "top"
        assert abs(degrees % 90 - 45) > 8
        assert math.hypot(thing.row - SIZE / 2, thing.column - SIZE / 2) > 5
        return ("right", "bottom", "left", "top")[round(degrees / 90) % 4]
    assert "shape" in question or question.startswith("what is the")
    return thing.shape


def test_every_answer_is_true_of_its_scene() -> None:
    kinds: Counter[str] = Counter()
    for scene, questions in questions_about(1500, 5):
        assert len({one.question for one in questions}) == len(questions) == 5
        for one in questions:
            assert one.answer == true_answer(one.question, scene), (one, scene)
            kinds[one.question_type] += 1
    assert set(kinds) == set(QUESTION_TYPES)
    assert min(kinds.values()) > 900


@pytest.mark.parametrize("questions_each", [2, 4])
def test_whoever_reads_only_the_question_is_at_chance(questions_each: int) -> None:
    questions = [one for _, several in questions_about(6000, questions_each) for one in several]
    half = len(questions) // 2
    answers_to: dict[str, Counter[str]] = defaultdict(Counter)
    for one in questions[:half]:
        answers_to[one.question][one.answer] += 1
    for kind, chance in CHANCE.items():
        unseen = [one for one in questions[half:] if one.question_type == kind]
        guesses = {question: answers.most_common(1)[0][0] for question, answers in answers_to.items()}
        right = sum(guesses.get(one.question) == one.answer for one in unseen)
        assert abs(right / len(unseen) - chance) < 0.045, kind
        shares = Counter(one.answer for one in questions if one.question_type == kind)
        assert max(shares.values()) / shares.total() < chance + 0.03, kind


def test_types_are_asked_about_equally_often() -> None:
    kinds = Counter(one.question_type for _, questions in questions_about(2000, 3) for one in questions)
    assert max(kinds.values()) < 1.5 * min(kinds.values())


def test_the_words_are_just_those_of_questions_and_answers() -> None:
    used = set()
    for _, questions in questions_about(3000, 5):
        for one in questions:
            used |= set(re.findall(r"\w+|\?", f"{one.question} {one.answer}"))
    assert question_words() == sorted(used)
    assert set(ANSWERS) == set(question_words()) & set(ANSWERS)


def test_things_lie_inside_and_apart() -> None:
    for scene in scenes(300):
        for index, thing in enumerate(scene.things):
            assert thing.radius < min(thing.row, thing.column, SIZE - thing.row, SIZE - thing.column)
            for other in scene.things[:index]:
                assert math.dist((thing.row, thing.column), (other.row, other.column)) > thing.radius + other.radius


@pytest.mark.parametrize("look", LOOKS)
def test_the_picture_shows_each_thing_in_its_color_and_nothing_colored_elsewhere(look: Any) -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    for index, scene in enumerate(scenes(150)):
        picture = render_shapes(scene, look, np.random.default_rng(index)).astype(float) / 255
        elsewhere = np.ones((SIZE, SIZE), dtype=bool)
        for thing in scene.things:
            around = np.hypot(rows - thing.row, columns - thing.column) < thing.radius + 1
            elsewhere &= ~around
            saturation = np.ptp(picture, axis=2)
            strongest = around & (saturation > np.quantile(saturation[around], 0.85))
            hue = 360 * colorsys.rgb_to_hsv(*picture[strongest].mean(0))[0]
            distance = {name: abs((hue - value + 180) % 360 - 180) for name, value in HUES.items()}
            assert min(distance, key=distance.__getitem__) == thing.color, (thing, hue)
            assert np.median(saturation[strongest]) > 0.3
        assert np.quantile(np.ptp(picture[elsewhere], axis=1), 0.99) < 0.3


def test_the_shapes_can_be_told_by_their_area_and_their_hull() -> None:
    for index, scene in enumerate(scenes(150)):
        picture = render_shapes(scene, "plain", np.random.default_rng(index)).astype(float) / 255
        labels, number = ndimage.label(np.ptp(picture, axis=2) > 0.4)
        sizes = ndimage.sum_labels(labels > 0, labels, range(1, number + 1))
        large = [label for label, size in enumerate(sizes, 1) if size > 20]
        assert len(large) == len(scene.things)
        for thing in scene.things:
            mask = labels == labels[int(thing.row), int(thing.column)]
            # the corners of the pixels, for the hull goes around them
            points = np.concatenate([np.argwhere(mask) + corner for corner in ((0, 0), (0, 1), (1, 0), (1, 1))])
            solidity = mask.sum() / ConvexHull(points).volume
            share = mask.sum() / (math.pi * thing.radius**2)
            if solidity > 0.8:
                found = "triangle" if share < 0.52 else "square" if share < 0.7 else "circle"
            else:
                found = "star" if share < 0.5 else "cross"
            assert found == thing.shape, (thing, solidity, share)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        questions(tmp_path / name, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert not set(first.values()) & set(other.values())
    pictures = [content for file, content in first.items() if file.endswith(".png")]
    assert len(set(pictures)) == len(pictures) == 11


def test_more_images_change_none_of_the_first(tmp_path: Path) -> None:
    questions(tmp_path / "less")
    questions(tmp_path / "more", num_train=9)
    less, more = contents(tmp_path / "less"), contents(tmp_path / "more")
    assert all(more[file] == content for file, content in less.items() if file.endswith(".png"))
    assert table(tmp_path / "more", "train")[:18] == table(tmp_path / "less", "train")


def test_the_looks_show_the_same_scenes_differently(tmp_path: Path) -> None:
    for look in LOOKS:
        questions(tmp_path / look, look=look)
    assert all(
        table(tmp_path / "plain", split) == table(tmp_path / "night", split) for split in ("train", "val", "test")
    )
    for index, scene in enumerate(scenes(20)):
        plain, night = (render_shapes(scene, look, np.random.default_rng(index)).astype(float) for look in LOOKS)
        assert np.median(plain) > 180
        assert np.median(night) < 80


def test_the_files_are_as_many_as_was_said(tmp_path: Path) -> None:
    questions(tmp_path / "set", questions_per_scene=5)
    for split, number in (("train", 6), ("val", 3), ("test", 2)):
        rows = table(tmp_path / "set", split)
        assert list(rows[0]) == ["image", "question", "answer", "question_type"]
        assert Counter(row["image"] for row in rows) == {
            f"images/{split}_{index:05d}.png": 5 for index in range(number)
        }
    assert len(list((tmp_path / "set" / "images").iterdir())) == 11


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    questions(tmp_path / "set")
    before = contents(tmp_path)
    questions(tmp_path / "set")
    with pytest.raises(UserError, match="look night instead of plain, seed 0 instead of 1"):
        questions(tmp_path / "set", look="plain", seed=1)
    with pytest.raises(UserError, match="train 6 instead of 7"):
        questions(tmp_path / "set", num_train=7)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_val": 0}, "num_val: 0; must be at least 1"),
        ({"seed": -1}, "seed: -1; must be at least 0"),
        ({"questions_per_scene": 6}, "questions_per_scene: 6; must be 1 to 5"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShapeQuestions(**arguments)


def test_answers_and_types_are_known_before_anything_is_drawn(tmp_path: Path) -> None:
    data = ShapeQuestions(str(tmp_path / "set"))
    assert data.answers == list(ANSWERS)
    assert data.question_types == list(QUESTION_TYPES)
    assert not list(tmp_path.iterdir())
    questions(tmp_path / "set")
    read = ShapeQuestions(str(tmp_path / "set"))
    assert (read.answers, read.question_types) == (list(ANSWERS), list(QUESTION_TYPES))


def test_batches_hold_what_the_table_says(tmp_path: Path) -> None:
    tokenizer = str(make_tokenizer(tmp_path / "tokenizer"))
    data = questions(tmp_path / "set", tokenizer=tokenizer, img_size=28)
    data.setup()
    said = {(row["image"], row["question"]): row["answer"] for row in table(tmp_path / "set", "val")}
    seen = set()
    for batch in data.val_dataloader():
        assert batch["image"].shape[1:] == (3, 28, 28)
        for name, place, question, answer, index in zip(
            batch["name"], batch["image_index"], batch["question"], batch["answer"], batch["answer_index"], strict=True
        ):
            if name:
                image = Path(batch["image_name"][place]).relative_to(tmp_path / "set").as_posix()
                assert said[image, question] == answer == ANSWERS[index]
                seen.add((image, question))
    assert seen == set(said)


def test_the_command_line_builds_it_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    text = "data: {class_path: datamodules.ShapeQuestions, init_args: {look: plain, img_size: 56}}"
    assert parser.instantiate_classes(parser.parse_string(text)).data.look == "plain"
