"""What a color or a place alone tells, beside the figures of semantic segmentation."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from datamodules import ImageMaskFolder
from datamodules.segmentation.image_mask_dataset import ImageMaskDataset
from eomt.errors import UserError
from eomt.tasks import SemanticSegmentation
from tests.cli_runs import Workspace, make_workspace
from tests.ranks import run_on_ranks

RIVALS = ("--trainer.callbacks+=callbacks.SegmentationResults",)


class Forgets(Callback):
    """Loses with the last step what was learnt."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == 16:
            # whatever it sees is of class 1
            pl_module.network.class_head.bias.data.copy_(torch.tensor([0.0, 99.0, 0.0, 0.0]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("rivals"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first", *RIVALS)


def pixels(workspace: Workspace, split: str) -> tuple[np.ndarray, np.ndarray]:
    folder = workspace.folder / "data" / split
    names = sorted(path.name for path in (folder / "images").iterdir())
    images, masks = ([np.asarray(Image.open(folder / kind / n)) for n in names] for kind in ("images", "masks"))
    return np.stack(images), np.stack(masks)


def iou_by_hand(workspace: Workspace, split: str) -> dict[str, float]:
    """Figures by sorting all pixels; images have 32 rows, of which each has two cells, and 48 columns."""
    (images, masks), (asked, truth) = pixels(workspace, "train"), pixels(workspace, split)
    answers = {}
    colors, seen = (array.astype(int) >> 3 for array in (images, asked))
    keys, new = (array @ np.array([1024, 32, 1]) for array in (colors, seen))
    counts = np.stack([np.bincount(keys[masks == c], minlength=2**15) for c in range(3)])
    most = np.bincount(masks.ravel()).argmax()
    answers["color"] = np.where(counts.any(0), counts.argmax(0), most)[new]
    place = np.stack([(masks == c).sum(0) for c in range(3)]).argmax(0)
    answers["place"] = np.broadcast_to(place, truth.shape)
    found = {}
    for name, answer in answers.items():
        pairs = [(answer == c, truth == c) for c in range(3)]
        found[name] = float(np.mean([(a & t).sum() / (a | t).sum() for a, t in pairs if (a | t).any()]))
    return found


def test_every_validation_has_the_rivals_and_the_summary_says_what_they_have(workspace: Workspace, run: Path) -> None:
    wanted = iou_by_hand(workspace, "val")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_iou"]]
    assert len(rows) > 1
    for row in rows:
        assert float(row["val_color_iou"]) == pytest.approx(wanted["color"], abs=1e-6)
        assert float(row["val_place_iou"]) == pytest.approx(wanted["place"], abs=1e-6)
    notes = json.loads((run / "training_summary.json").read_text())["notes"]
    assert notes == [
        f"Without a network, the most frequent class of each color has val_color_iou {wanted['color']:.4f}, that of "
        f"each place val_place_iou {wanted['place']:.4f}, which the network does not beat."
    ]


def test_what_is_said_of_the_network_is_said_of_its_best_step(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the last one, which may be worse than the rivals where the best is better, and is not what is kept."""
    seen: list[float] = []

    def note(self: SemanticSegmentation, figures: dict[str, float], stage: str) -> list[str]:
        seen.append(figures[f"{stage}_iou"])
        return []

    monkeypatch.setattr(SemanticSegmentation, "notes", note)
    run = workspace.fit("worse", "--trainer.max_epochs", "4", *RIVALS, f"--trainer.callbacks+={__name__}.Forgets")
    with (run / "metrics.csv").open(newline="") as file:
        measured = [float(row["val_iou"]) for row in csv.DictReader(file) if row["val_iou"]]
    assert max(measured) > measured[-1] + 0.01
    assert seen[-1] == pytest.approx(max(measured), abs=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_test_measures_them_on_its_own_images(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], ranks: int
) -> None:
    ckpt = next(run.glob("best_lora_*.ckpt"))
    before = set((run / "results").glob("*_eval.json"))
    run_on_ranks(workspace, "test", "--ckpt_path", str(ckpt), *RIVALS, ranks=ranks)
    (made,) = set((run / "results").glob("*_eval.json")) - before
    figures, wanted = json.loads(made.read_text())["metrics"], iou_by_hand(workspace, "test")
    assert figures["test_color_iou"] == pytest.approx(wanted["color"], abs=1e-6)
    assert figures["test_place_iou"] == pytest.approx(wanted["place"], abs=1e-6)


def test_without_training_images_they_are_not_measured(
    workspace: Workspace, run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CocoInstances reads the file of each split when it is asked for, and that of training may be elsewhere."""
    whole = ImageMaskFolder.masked_dataset

    def without_training(self: ImageMaskFolder, split: str) -> ImageMaskDataset:
        if split == "train":
            raise UserError("train.json: no such file")
        return whole(self, split)

    monkeypatch.setattr(ImageMaskFolder, "masked_dataset", without_training)
    ckpt = next(run.glob("best_lora_*.ckpt"))
    before = set((run / "results").glob("*_eval.json"))
    workspace.run("test", "--ckpt_path", str(ckpt), *RIVALS)
    (made,) = set((run / "results").glob("*_eval.json")) - before
    figures = json.loads(made.read_text())["metrics"]
    assert "test_iou" in figures
    assert "test_color_iou" not in figures
    assert any("not measured, without training images (train.json" in line for line in caplog.messages)
