"""Pictures and examples of instance and panoptic segmentation, of a tiny network on rectangles."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DataLoader

from callbacks import PredictionPictures, ReportOnTest, RunSummary
from callbacks.pictures.objects import apart, found_picture, object_pictures
from datamodules.common.data_module import DataModule
from eomt.models.post_processing import Instances, Segments
from eomt.pictures.colors import palette
from eomt.tasks import InstanceSegmentation, PanopticSegmentation
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.packed_masks import PackedMasks
from tests.tiny import make_eomt
from tests.tiny_objects import make_batch

CLASS_NAMES = ["red", "green", "ground"]


class Rectangles(DataModule):
    """Two images a batch."""

    counts: ClassVar[dict[str, dict[str, int]]] = {}

    def __init__(self, panoptic: bool) -> None:
        super().__init__(batch_size=2)
        self.panoptic = panoptic

    @property
    def class_names(self) -> list[str]:
        return CLASS_NAMES[: 3 if self.panoptic else 2]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def loader(self) -> DataLoader[Any]:
        batches = [make_batch(*seeds, panoptic=self.panoptic) for seeds in ((0, 1), (2, 3))]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def make_task(panoptic: bool) -> Any:
    torch.manual_seed(0)
    network = make_eomt(num_classes=3 if panoptic else 2, masked_attn_enabled=False)
    if panoptic:
        return PanopticSegmentation(network, num_points=64, stuff_classes=[2], score_threshold=0.4)
    return InstanceSegmentation(network, num_points=64, score_threshold=0.2)


@pytest.mark.parametrize("panoptic", [False, True])
def test_objects_are_drawn_in_training_and_in_test(panoptic: bool, tmp_path: Path) -> None:
    callbacks = [PredictionPictures(num_samples=2), RunSummary(), ReportOnTest()]
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, callbacks=callbacks, max_steps=4, val_check_interval=2,
        check_val_every_n_epoch=None, enable_model_summary=False, num_sanity_val_steps=-1, **silent,
    )  # fmt: skip
    task, data = make_task(panoptic), Rectangles(panoptic)
    trainer.fit(task, data)
    names = {"train_batch.png", "val_step000000.png", "val_step000002.png", "val_step000004.png"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == names
    with Image.open(tmp_path / "pictures" / "train_batch.png") as picture:
        pixels = np.array(picture)
    # outlines have the full color of the class: more of it than the legend alone
    for color in palette(3)[:2]:
        assert (pixels == color).all(-1).sum() > 1000
    trainer.test(task, data, verbose=False)
    assert (tmp_path / "pictures" / "test.png").is_file()
    (examples,) = (tmp_path / "results").glob("*_examples/examples.json")
    found = json.loads(examples.read_text())
    assert found["caption"].startswith("By the panoptic quality")
    lines = [example["lines"] for example in found["best"] + found["worst"]]
    assert len(lines) == 4
    assert all("missed" in line for (line,) in lines)
    results = trainer.predict(task, data)
    assert results is not None
    for batch, outputs in zip(data.loader(), results, strict=True):
        for place, name in enumerate(batch["name"]):
            with Image.open(tmp_path / "predictions" / "overlays" / f"{Path(name).stem}.png") as picture:
                drawn = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            expected = found_picture(batch["image"][place], outputs["found"][place], data.class_names)
            assert torch.equal(drawn, expected)


def test_truth_and_answer_stand_apart_and_crowds_are_named() -> None:
    batch = make_batch(0)
    same = Instances(PackedMasks.of(batch["masks"][0]), batch["labels"][0], torch.tensor([0.9, 0.4]))
    pictures = object_pictures(batch, same, 0, num_classes=2)
    assert pictures.truth.shape == pictures.prediction.shape == (3, 192, 288)
    # the scores are all that tells them apart
    assert 0 < (pictures.truth != pictures.prediction).any(0).float().mean() < 0.1
    batch["is_crowd"] = [torch.tensor([True, False])]
    assert not torch.equal(object_pictures(batch, same, 0, num_classes=2).truth, pictures.truth)


def test_objects_of_a_class_that_touch_stay_apart_in_what_is_stored() -> None:
    masks = torch.zeros(2, 9, 12, dtype=torch.bool)
    masks[0, 2:8, 1:6] = masks[1, 2:8, 6:11] = True
    stored = apart(masks.any(0).to(torch.uint8), PackedMasks.of(masks))
    assert (stored[2:8, 5:7] == IGNORE_INDEX).all()
    assert (stored[3:7, 2:5] == 1).all()
    assert (stored[~masks.any(0)] == 0).all()


def test_what_is_predicted_tells_objects_of_a_class_that_touch_apart() -> None:
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:35, 5:30] = masks[1, 5:35, 30:55] = True
    labels, scores = torch.tensor([1, 1]), torch.tensor([0.9, 0.8])
    segments = Segments((masks * torch.tensor([1, 2])[:, None, None]).sum(0, dtype=torch.int32), labels, scores)
    for found in (Instances(masks, labels, scores), segments):
        drawn = found_picture(image, found, CLASS_NAMES)
        color = torch.tensor(palette(3)[1], dtype=torch.uint8)[:, None]
        assert torch.equal(
            drawn[:, 6, 28:32], color.expand(3, 4).where(torch.tensor([0, 1, 1, 0]).bool(), drawn[:, 6, 28:32])
        )
        assert not torch.equal(drawn[:, 6, 28], color[:, 0])
