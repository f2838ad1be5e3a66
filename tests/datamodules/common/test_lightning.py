"""The data modules as Lightning and its command line use them."""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from datamodules import ImageMaskFolder, StreetScenes
from tests.datamodules.common.image_files import write_given_splits


class Colors(LightningModule):
    """A linear classifier of pixels, which writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)
        self.names: dict[str, list[str]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.names["train"] += batch["name"]
        logits = self.layer(batch["image"].float() / 255)
        return torch.nn.functional.cross_entropy(logits, batch["mask"], ignore_index=255)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.names["val"] += batch["name"]

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.names["test"] += batch["name"]

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.names["predict"] += batch["name"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_sees_every_image(tmp_path: Path) -> None:
    data = ImageMaskFolder(str(write_given_splits(tmp_path)), batch_size=2, crop_size=(8, 8), num_workers=0)
    network = Colors()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(network, datamodule=data)
    trainer.test(network, datamodule=data, verbose=False)
    trainer.predict(network, datamodule=data, return_predictions=False)
    images = ["0.png", "1.png", "2.png", "3.png"]
    epochs = [network.names["train"][start : start + 4] for start in (0, 4, 8)]
    assert all(sorted(epoch) == images for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert network.names["val"] == images * 3
    assert network.names["test"] == network.names["predict"] == images


def test_the_command_line_builds_them_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    config = parser.parse_string("""
data:
  class_path: datamodules.ImageMaskFolder
  init_args:
    path: data
    class_map: {0: 0, 2: 1, 255: 255}
    ignore_labels: [9]
    class_colors: [[0, 0, 0], [128, 0, 0]]
    crop_size: [64, 32]
""")
    data = parser.instantiate_classes(config).data
    assert data.class_map == {0: 0, 2: 1, 255: 255}
    assert data.class_colors == [(0, 0, 0), (128, 0, 0)]
    assert (data.num_classes, data.crop_size, data.ignore_labels) == (2, (64, 32), [9])
    config = parser.parse_object({"data": {"class_path": "datamodules.StreetScenes", "init_args": {"domain": "day"}}})
    assert isinstance(parser.instantiate_classes(config).data, StreetScenes)
