"""Which faces are drawn for training, in which order, and how they are changed."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.common.balanced_sampling import BalancedSampler, make_balanced_sampler
from datamodules.faces.transforms import MorphTransform, PretrainingTransform
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_face, write_people

LABELS = [0] * 25 + [1] * 7


def draw(epoch: int = 0, world_size: int = 1, seed: int = 0, labels: list[int] = LABELS) -> list[list[tuple[int, int]]]:
    """Return what each rank draws in an epoch."""
    samplers = [BalancedSampler(labels, world_size, rank, seed) for rank in range(world_size)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_rank_draws_both_classes_equally_often_from_images_of_its_own(world_size: int) -> None:
    shares = draw(world_size=world_size)
    for share in shares:
        assert Counter(LABELS[index] for index, _ in share) == {label: len(share) // 2 for label in (0, 1)}
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) * world_size > len(LABELS) - 2 * world_size
    images = [{index for index, _ in share} for share in shares]
    assert sum(map(len, images)) == len(set().union(*images))


def test_batches_are_balanced_too() -> None:
    (share,) = draw()
    for start in range(0, len(share), 4):
        assert sum(LABELS[index] for index, _ in share[start : start + 4]) == 2


def test_images_of_a_class_are_drawn_equally_often() -> None:
    counts = Counter(index for index, _ in draw()[0])
    for label in (0, 1):
        drawn = [counts[index] for index in range(len(LABELS)) if LABELS[index] == label]
        assert max(drawn) - min(drawn) <= 1
    # over epochs every image of the frequent class has its turn
    assert {index for epoch in range(8) for index, _ in draw(epoch)[0]} == set(range(len(LABELS)))


def test_order_and_seeds_of_changes_follow_from_seed_and_epoch() -> None:
    assert draw(3, seed=1) == draw(3, seed=1)
    assert len({tuple(draw(epoch, seed=seed)[0]) for seed in (1, 2) for epoch in (0, 1)}) == 4
    seeds = [seed for share in draw(world_size=2) for _, seed in share]
    assert len(set(seeds)) == len(seeds)


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    sampler = BalancedSampler(LABELS, 2, 1, seed=5)
    whole = list(sampler)
    sampler.samples_seen = lambda: 6
    assert list(sampler) == whole[6:]


def test_a_class_with_fewer_images_than_ranks_is_refused(tmp_path: Path) -> None:
    data = morph_faces(imbalanced(tmp_path), balanced=True)
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)
    with pytest.raises(UserError, match="balanced: 3 processes, more than a class has training images"):
        data.setup("fit")


def imbalanced(path: Path) -> Path:
    """Write people with two photos each, and a single morph of each split's pairs."""
    for index, split in enumerate(("train", "val", "test")):
        write_people(path / split, range(10 * index, 10 * index + 6), attacks=("blend",))
    for file in sorted((path / "train" / "morph" / "blend").iterdir())[2:]:
        file.unlink()
    return path


def drawn(path: Path, epochs: int = 2, **arguments: Any) -> list[dict[str, Any]]:
    data = morph_faces(path, **arguments)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_the_data_module_balances_only_when_it_is_told(tmp_path: Path) -> None:
    imbalanced(tmp_path)
    labels = {b: torch.cat([batch["label"] for batch in drawn(tmp_path, balanced=b)]) for b in (True, False)}
    assert labels[True].float().mean() == 0.5
    assert labels[False].float().mean() == 2 / 14
    assert morph_faces(tmp_path, balanced=True).balanced


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_depend_on_nothing_but_the_seed(tmp_path: Path, balanced: bool, num_workers: int) -> None:
    imbalanced(tmp_path)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = drawn(tmp_path, balanced=balanced, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = drawn(tmp_path, balanced=balanced)
    assert [batch["name"] for batch in first] == [batch["name"] for batch in again]
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(first, again, strict=True))


def test_training_images_are_changed_and_those_of_evaluation_are_not(tmp_path: Path) -> None:
    imbalanced(tmp_path)
    changed, plain = (drawn(tmp_path, augment=augment) for augment in (True, False))
    assert not all(torch.equal(one["image"], other["image"]) for one, other in zip(changed, plain, strict=True))
    data = morph_faces(tmp_path, img_size=24)
    (first, *_) = data.val_dataloader()
    assert torch.equal(first["image"][0], next(iter(data.val_dataloader()))["image"][0])


def test_changes_do_not_know_the_label(tmp_path: Path) -> None:
    # the same pixels as bona fide and as morph, with the same seed of changes
    for split, number in (("train", 0), ("val", 10)):
        write_people(tmp_path / split, range(number, number + 3))
    data = morph_faces(tmp_path)
    dataset = data.train_dataloader().dataset
    bona_fide = next(i for i, face in enumerate(dataset.faces) if not face.label)
    morph = next(i for i, face in enumerate(dataset.faces) if face.label)
    dataset.faces[morph].image.write_bytes(dataset.faces[bona_fide].image.read_bytes())
    for seed in range(20):
        one, other = dataset[bona_fide, seed], dataset[morph, seed]
        assert one["label"] != other["label"]
        assert torch.equal(one["image"], other["image"])


@pytest.mark.parametrize("num_ops", [0, 2])
def test_changes_keep_size_and_kind_and_differ(num_ops: int) -> None:
    image = torch.randint(0, 256, (3, 32, 24), dtype=torch.uint8)
    torch.manual_seed(0)
    results = [MorphTransform(num_ops)(image) for _ in range(30)]
    assert {(result.shape, result.dtype) for result in results} == {(image.shape, torch.uint8)}
    # flips, resizing, blur and JPEG are there without RandAugment too
    assert len({result.numpy().tobytes() for result in results}) > 12


def test_crops_for_pre_training_show_a_fifth_to_all_of_the_image() -> None:
    rows, columns = np.mgrid[:100, :100].astype(np.uint8)
    image = torch.from_numpy(np.stack([rows, columns, columns]))
    torch.manual_seed(0)
    areas = []
    for _ in range(200):
        crop = PretrainingTransform((50, 50))(image)
        assert crop.shape == (3, 50, 50)
        height, width = (int(crop[c].max()) - int(crop[c].min()) + 1 for c in (0, 1))
        areas.append(height * width / 100**2)
    assert min(areas) == pytest.approx(0.2, abs=0.06)
    assert max(areas) > 0.9


class Means(LightningModule):
    """A classifier by mean colors, which writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.names: list[str] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.names += batch["name"]
        return torch.nn.functional.cross_entropy(self.layer(batch["image"].float().mean((2, 3))), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)


class SaveInside(Callback):
    """Writes a checkpoint after the fourth of seven steps, once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4 and not self.file.exists():
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_run_that_was_stopped_within_an_epoch_sees_what_one_in_one_go_sees(tmp_path: Path, balanced: bool) -> None:
    imbalanced(tmp_path / "data")
    write_face(tmp_path / "data" / "train" / "bonafide" / "id000_9.png", 999)

    def train(checkpoint: Path | None = None) -> list[str]:
        network = Means()
        trainer = Trainer(
            accelerator="cpu",
            max_steps=11,
            callbacks=[SaveInside(tmp_path / "inside.ckpt")],
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(network, datamodule=morph_faces(tmp_path / "data", balanced=balanced), ckpt_path=checkpoint)
        return network.names

    whole = train()
    assert len(whole) == 22
    assert whole[8:] == train(tmp_path / "inside.ckpt")


@pytest.mark.parametrize("make", [list, np.asarray, torch.tensor])
def test_the_public_sampler_gives_indices_of_any_kind_of_labels(make: Any) -> None:
    labels = [0] * 90 + [1] * 10
    drawn = list(make_balanced_sampler(make(labels)))
    assert all(isinstance(index, int) for index in drawn)
    assert sum(labels[index] for index in drawn) == len(drawn) / 2 == 50
    loader = DataLoader(TensorDataset(torch.tensor(labels)), batch_size=10, sampler=make_balanced_sampler(labels))
    assert sum(int(batch.sum()) for (batch,) in loader) == 50
