"""Which questions are drawn, in which order, and how often an image is decoded for them."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

import datamodules.questions.dataset as question_dataset
from datamodules.common.sampling import PADDING_INDEX
from datamodules.questions.sampling import ContiguousSampler, QuestionSampler
from tests.datamodules.questions.question_files import vqa_csv, write_questions

# of 8 images with 1 to 5 questions, not in order
IMAGES = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1, 0]


def draw(
    epoch: int = 0, world_size: int = 1, seed: int = 0, questions_per_image: int | None = None
) -> list[list[tuple[int, int]]]:
    samplers = [QuestionSampler(IMAGES, questions_per_image, world_size, rank, seed) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
    return [list(sampler) for sampler in samplers]


def indices(share: list[tuple[int, int]]) -> list[int]:
    return [index for index, _ in share]


@pytest.mark.parametrize("questions_per_image", [None, 1, 2, 3, 99])
def test_an_epoch_is_a_permutation_of_the_questions(questions_per_image: int | None) -> None:
    (share,) = draw(questions_per_image=questions_per_image)
    assert sorted(indices(share)) == list(range(len(IMAGES)))


def test_all_questions_of_an_image_stand_together() -> None:
    for epoch in range(5):
        order = [IMAGES[index] for index in indices(draw(epoch)[0])]
        assert len(list(groupby(order))) == 8
    # images and an image's questions both change their order
    orders = [tuple(indices(draw(epoch)[0])) for epoch in range(6)]
    assert len({tuple(i for i in order if IMAGES[i] == 0) for order in orders}) > 1
    assert len({tuple(dict.fromkeys(IMAGES[i] for i in order)) for order in orders}) > 1


def test_chunks_of_an_image_are_as_long_as_allowed() -> None:
    for epoch in range(20):
        order = [IMAGES[index] for index in indices(draw(epoch, questions_per_image=2)[0])]
        runs: dict[int, list[int]] = {}
        for image, run in groupby(order):
            runs.setdefault(image, []).append(len(list(run)))
        # chunks that came to lie behind one another make a longer run: 5 questions are 2 + 2 + 1
        assert all(len(lengths) <= -(-Counter(IMAGES)[image] // 2) for image, lengths in runs.items())
        assert sum(len(lengths) > 1 for lengths in runs.values()) >= 1


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_have_equal_shares_of_their_own_and_cut_few_images(world_size: int) -> None:
    for epoch in range(4):
        shares = [indices(share) for share in draw(epoch, world_size)]
        assert {len(share) for share in shares} == {len(IMAGES) // world_size}
        drawn = [index for share in shares for index in share]
        assert len(set(drawn)) == len(drawn)
        assert drawn == indices(draw(epoch)[0])[: len(drawn)]
        decoded = sum(len({IMAGES[index] for index in share}) for share in shares)
        assert decoded <= 8 + world_size - 1


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = draw(3, seed=1)
    torch.manual_seed(2)
    assert first == draw(3, seed=1)
    assert len({tuple(draw(epoch, seed=seed)[0]) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    sampler = QuestionSampler(IMAGES, None, 2, 1, seed=5)
    whole = list(sampler)
    sampler.samples_seen = lambda: 6
    assert list(sampler) == whole[6:]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [1, 4, 6, 7])
def test_evaluation_ranks_have_neighbors_and_take_equal_steps(num_samples: int, world_size: int) -> None:
    samplers = [ContiguousSampler(num_samples, world_size, rank) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])} == {-(-num_samples // world_size)}
    assert [index for share in shares for index in share if index != PADDING_INDEX] == list(range(num_samples))
    assert all(PADDING_INDEX not in share[: num_samples // world_size] for share in shares)


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    decoded: Counter[str] = Counter()
    read = question_dataset.read_pixels

    def counted(path: Path) -> Any:
        decoded[path.name] += 1
        return read(path)

    monkeypatch.setattr(question_dataset, "read_pixels", counted)
    return decoded


# 3 questions of an image and 4 in a batch: images reach over the edges of batches
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_is_decoded_once_in_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    write_questions(tmp_path, range(8), questions=3)
    write_questions(tmp_path, range(20, 26), "val.csv", questions=3)
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"))
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    decoded = count_decodes(monkeypatch)
    batches = list(loader)
    assert sum(len(batch["name"]) for batch in batches) == len(data.rows(split))
    assert set(decoded.values()) == {1}
    assert len(decoded) == len({row.image for row in data.rows(split)})


def test_an_image_is_never_decoded_twice_for_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_questions(tmp_path, range(4), questions=3)
    write_questions(tmp_path, range(20, 22), "val.csv")
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), batch_size=12, questions_per_image=1)
    data.setup("fit")
    decoded = count_decodes(monkeypatch)
    (batch,) = data.train_dataloader()
    assert batch["image"].shape[0] == 4
    assert set(decoded.values()) == {1}
    # the images are those of the questions
    of_question = [batch["image_name"][index] for index in batch["image_index"]]
    assert dict(zip(batch["name"], of_question, strict=True)) == {
        row.name: str(row.image) for row in data.rows("train")
    }


def test_figures_of_two_ranks_count_every_question_once(tmp_path: Path) -> None:
    write_questions(tmp_path, range(6))
    write_questions(tmp_path, range(20, 25), "val.csv", questions=3)
    names = []
    steps = []
    for rank in range(2):
        data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        data.setup("validate")
        batches = list(data.val_dataloader())
        steps.append(len(batches))
        names += [name for batch in batches for name in batch["name"]]
        assert all("weight" not in batch for batch in batches)
    assert steps[0] == steps[1]
    assert names.count("") == 1
    assert sorted(filter(None, names)) == sorted(row.name for row in data.rows("val"))


class Reader(LightningModule):
    """A model of a single number, which writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.names: list[str] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.names += batch["name"]
        return (self.number * batch["weight"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)


class SaveInside(Callback):
    """Writes a checkpoint after the fourth of six steps, once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4 and not self.file.exists():
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("overfit_batches", [0, 2])
def test_a_run_that_was_stopped_within_an_epoch_sees_what_one_in_one_go_sees(
    tmp_path: Path, overfit_batches: int
) -> None:
    write_questions(tmp_path, range(13))
    write_questions(tmp_path, range(20, 22), "val.csv")

    def train(checkpoint: Path | None = None) -> list[str]:
        network = Reader()
        trainer = Trainer(
            accelerator="cpu",
            max_steps=9,
            overfit_batches=overfit_batches,
            callbacks=[SaveInside(tmp_path / "inside.ckpt")],
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"))
        trainer.fit(network, datamodule=data, ckpt_path=checkpoint)
        return network.names

    whole = train()
    assert len(whole) == 36
    if not overfit_batches:
        assert len(set(whole[:24])) == 24
        assert whole[16:] == train(tmp_path / "inside.ckpt")
