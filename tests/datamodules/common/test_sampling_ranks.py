"""What 1 to 8 processes draw together: evaluation covers each sample once, training draws what one process would."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import datamodules
from datamodules.common.balanced_sampling import BalancedSampler
from datamodules.common.sampling import PADDING_INDEX, EvaluationSampler, TrainingSampler
from datamodules.questions.sampling import ContiguousSampler, QuestionSampler
from datamodules.segmentation.rare_classes import RepeatFactorSampler
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_people, write_splits
from tests.datamodules.questions.question_files import vqa_csv, write_questions
from tests.tiny_classification import write_classes

PROCESSES = range(1, 9)
# fewer than processes, as many, one more than a multiple
SIZES = (1, 3, 8, 17, 24)
BATCH = 2

Make = Callable[[int, int, int], Any]
TRAINING: dict[str, Make] = {
    "plain": lambda size, world, rank: TrainingSampler(size, world, rank, seed=5),
    "questions": lambda size, world, rank: QuestionSampler([i // 4 for i in range(size)], 2, world, rank, seed=5),
    "rare classes": lambda size, world, rank: RepeatFactorSampler(1 + np.arange(size) % 3 / 2, world, rank, seed=5),
}
EVALUATION: dict[str, Make] = {"plain": EvaluationSampler, "questions": ContiguousSampler}


@pytest.mark.parametrize("world", PROCESSES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EVALUATION)
def test_evaluation_covers_each_sample_once_in_equal_steps(name: str, size: int, world: int) -> None:
    shares = [list(EVALUATION[name](size, world, rank)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    found = sorted(index for share in shares for index in share)
    padding = len(shares[0]) * world - size
    assert found == [PADDING_INDEX] * padding + list(range(size))
    assert padding < world


@pytest.mark.parametrize("world", PROCESSES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TRAINING)
def test_training_shares_what_one_process_would_draw(name: str, size: int, world: int) -> None:
    alone = list(TRAINING[name](size, 1, 0))
    assert Counter(index for index, _ in alone).keys() == set(range(size))
    shares = [list(TRAINING[name](size, world, rank)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(alone) // world}
    together = Counter(pair for share in shares for pair in share)
    # nothing twice, and no more left out than does not fill all ranks alike
    assert together <= Counter(alone)
    assert len(alone) - together.total() < world


@pytest.mark.parametrize("world", PROCESSES)
@pytest.mark.parametrize("name", ["plain", "rare classes", "balanced"])
def test_a_step_of_all_processes_is_that_of_one_with_the_whole_batch(name: str, world: int) -> None:
    """The seeds of random changes, too; an image's questions stay on one process instead."""
    # the last class has three for each of eight processes, so that it repeats
    labels = [0] * 57 + [1] * 24

    def balanced(size: int, world: int, rank: int) -> Any:
        return BalancedSampler(labels, world, rank, seed=5)

    make = balanced if name == "balanced" else TRAINING[name]
    alone = list(make(57, 1, 0))
    shares = [list(make(57, world, rank)) for rank in range(world)]
    steps = len(shares[0]) // BATCH
    assert steps == len(alone) // (BATCH * world)
    if name == "balanced" and 24 % world:
        # where the rare class begins anew, its images are not as many on each process
        steps = 24 // world * 2 // BATCH
    for step in range(steps):
        own = slice(BATCH * step, BATCH * (step + 1))
        whole = slice(world * own.start, world * own.stop)
        assert sorted(pair for share in shares for pair in share[own]) == sorted(alone[whole])


def face_folder(path: Path) -> Any:
    write_people(path, range(6))
    return datamodules.FaceFolder(path=path, val_fraction=0.5, img_size=(16, 16), batch_size=2, num_workers=0)


def questions(path: Path) -> Any:
    write_questions(path, range(6))
    return vqa_csv(path, val_fraction=0.3, batch_size=2)


# what a split of three holds; each kind of data set has padding of its own
MAKERS: dict[str, Callable[[Path], Any]] = {
    "streets": lambda path: datamodules.StreetScenes(
        path=path, num_train=4, num_val=3, num_test=1, crop_size=(32, 64), batch_size=2
    ),
    "cells": lambda path: datamodules.CellScenes(
        path=path, num_train=4, num_val=3, num_test=1, crop_size=(64, 64), batch_size=2
    ),
    "steel": lambda path: datamodules.SteelStrips(path=path, num_images=15, strip_size=(32, 64), batch_size=2),
    "classes": lambda path: datamodules.ImageFolder(
        path=write_classes(path, 5), img_size=(16, 16), batch_size=2, num_workers=0
    ),
    "faces": face_folder,
    "morphs": lambda path: morph_faces(write_splits(path, 3), batch_size=2),
    "questions": questions,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_data_with_fewer_samples_than_processes_are_evaluated_once(kind: str, tmp_path: Path) -> None:
    data = MAKERS[kind](tmp_path / "data")
    data.prepare_data()
    data.setup("validate")
    seen: list[str] = []
    lengths = set()
    for rank in range(16):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=16)
        batches = list(data.val_dataloader())
        lengths.add(len(batches))
        seen += [name for batch in batches for name in batch["name"] if name]
    assert lengths == {1}
    assert 0 < len(seen) < 16
    assert sorted(seen) == sorted(set(seen))
    data.trainer = None
    assert sorted(seen) == sorted(name for batch in data.val_dataloader() for name in batch["name"])


@pytest.mark.parametrize("kind", MAKERS)
def test_fewer_training_samples_than_processes_are_refused(kind: str, tmp_path: Path) -> None:
    data = MAKERS[kind](tmp_path / "data")
    data.prepare_data()
    data.trainer = SimpleNamespace(global_rank=0, world_size=16)
    with pytest.raises(
        UserError, match=r"batch_size: 2 on 16 processes is more than the \d+ training (images|questions)"
    ):
        data.setup("fit")
