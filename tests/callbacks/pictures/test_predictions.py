import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.pictures import predictions as prediction_pictures
from callbacks.pictures.output import log_image
from callbacks.pictures.predictions import PredictionPictures, errors, spread
from datamodules.common.data_module import DataModule
from eomt.pictures.colors import palette
from eomt.pictures.prompts import PROMPT
from eomt.prompts import Prompts
from tests.ranks import one_thread

SIZE = 48
CLASS_NAMES = ["ground", "disc", "sky"]


def scene(index: int) -> dict[str, Any]:
    """A coloured disc between ground and sky; a strip on the left is ignored."""
    noise = torch.Generator().manual_seed(index)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    mask = torch.where(y < 16, 2, 0)
    mask[(y - 24) ** 2 + (x - 12 - 2 * index) ** 2 < 100] = 1
    colors = torch.tensor([[90, 70, 40], [200, 60, 60], [120, 160, 230]])
    image = (colors[mask].permute(2, 0, 1) + 12 * torch.randn(3, SIZE, SIZE, generator=noise)).clamp(0, 255)
    mask[:, :4] = 255
    return {"image": image.to(torch.uint8), "mask": mask, "name": f"scenes/{index}.jpg"}


class Scenes(DataModule):
    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)

    def __init__(self, names: list[str] | None = None) -> None:
        super().__init__(batch_size=4)
        self.names = names

    def samples(self) -> list[dict[str, Any]]:
        samples = [scene(index) for index in range(8)]
        for sample, name in zip(samples, self.names or [], strict=False):
            sample["name"] = name
        return samples

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(), batch_size=4)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(), batch_size=2)

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader:
        samples = [{key: value for key, value in sample.items() if key != "mask"} for sample in self.samples()]
        return DataLoader(samples, batch_size=3)


class Segmenter(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image / 128 - 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["image"]), batch["mask"], ignore_index=255)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"prediction": self(batch["image"]).argmax(1)}

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.03)


class Silent(Segmenter):
    """A task of another kind: its steps return no prediction."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # type: ignore[override]
        return torch.zeros(1)

    test_step = predict_step = validation_step


def trainer(folder: Path, callback: PredictionPictures, **arguments: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[callback, *arguments.pop("callbacks", [])],
        **{
            "max_epochs": 2,
            "num_sanity_val_steps": -1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        | arguments,
    )


class Grids:
    """Records what is handed to `picture_grid`, so that a test can look at single cells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[list[list[Tensor]], list[str], list[str], list[tuple[str, Any]]]] = []
        draw = prediction_pictures.picture_grid

        def record(rows: Any, column_titles: Any, row_titles: Any, legend: Any) -> Image.Image:
            self.calls.append((rows, column_titles, row_titles, legend))
            return draw(rows, column_titles, row_titles, legend)

        monkeypatch.setattr(prediction_pictures, "picture_grid", record)

    @property
    def titles(self) -> list[list[str]]:
        return [call[1] for call in self.calls]

    def column(self, call: int, title: str) -> list[Tensor]:
        rows, titles, _, _ = self.calls[call]
        return [row[titles.index(title)] for row in rows]


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> Grids:
    return Grids(monkeypatch)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Prompted(Segmenter):
    """A task whose predictions come from prompts: a box and a click for each image."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:  # type: ignore[override]
        box = Prompts(None, None, torch.tensor([[2.0, 3.0, 9.0, 8.0]]))
        click = Prompts(torch.tensor([[[5.0, 6.0]]]), torch.tensor([[1]]), None)
        nothing = Prompts(torch.zeros(1, 1, 2), torch.tensor([[-1]]), None)
        prompts = [(box, click, nothing)[batch_idx % 3]] * len(batch["name"])
        return super().validation_step(batch, batch_idx) | {"prompts": prompts}

    test_step = predict_step = validation_step  # type: ignore[assignment]


def test_prompts_are_drawn_over_the_image(tmp_path: Path, grids: Grids) -> None:
    """15.4: pictures showed what was found, and not what the network had been told."""
    images = {}
    for task in (Segmenter(), Prompted()):
        trainer(tmp_path, PredictionPictures(4)).test(task, datamodule=Scenes())
        images[type(task)] = grids.column(-1, "image")
    changed = [(a != b).any(0) for a, b in zip(images[Segmenter], images[Prompted], strict=True)]
    assert ("prompt", PROMPT) in grids.calls[-1][3]
    assert ("prompt", PROMPT) not in grids.calls[0][3]
    outline = torch.zeros_like(changed[0])
    outline[3:9, 2:10] = True
    outline[4:8, 3:9] = False
    assert any(torch.equal(mask, outline) for mask in changed)
    # a dot of radius 2 around the click, and nothing where nothing was prompted
    assert any(bool(mask[6, 5]) and 9 <= int(mask.sum()) <= 25 for mask in changed)
    assert any(not mask.any() for mask in changed)


@pytest.mark.parametrize(
    ("num_samples", "num_batches", "expected"),
    [
        (4, 8, {0: 1, 2: 1, 4: 1, 6: 1}),
        (4, 4, {0: 1, 1: 1, 2: 1, 3: 1}),
        (4, 2, {0: 2, 1: 2}),
        (2, float("inf"), {0: 1, 1: 1}),
    ],
)
def test_samples_are_spread_evenly_over_the_loader(num_samples: int, num_batches: float, expected: dict) -> None:
    assert spread(num_samples, num_batches) == Counter(expected)


def test_errors_are_red_and_ignored_pixels_are_not_errors() -> None:
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    truth, prediction = torch.tensor([[0, 255, 1]]), torch.tensor([[1, 1, 1]])
    red, green, blue = errors(image, truth, prediction).int()[:, 0]
    assert red[0] > green[0] + 150
    assert torch.equal(red[1:], green[1:])
    assert torch.equal(red[1:], blue[1:])


def test_each_validation_is_drawn_beside_step_0(tmp_path: Path, grids: Grids) -> None:
    trainer(tmp_path, PredictionPictures(3)).fit(Segmenter(), datamodule=Scenes())
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "train_batch.png",
        "val_step000000.png",
        "val_step000002.png",
        "val_step000004.png",
    }
    assert grids.titles == [
        ["image", "truth", "step 0", "wrong pixels"],
        ["image, augmented", "truth"],
        ["image", "truth", "step 0", "step 2", "wrong pixels"],
        ["image", "truth", "step 0", "step 4", "wrong pixels"],
    ]
    # 4 batches of 2: the first sample of batches 0, 1 and 2
    assert grids.calls[0][2] == grids.calls[3][2] == ["scenes/0.jpg", "scenes/2.jpg", "scenes/4.jpg"]
    assert same(grids.column(0, "step 0"), grids.column(3, "step 0"))
    assert not same(grids.column(3, "step 0"), grids.column(3, "step 4"))
    assert same(grids.column(0, "image"), [scene(index)["image"] for index in (0, 2, 4)])
    truth = grids.column(0, "truth")[0]
    assert torch.equal(truth[:, :, :4], scene(0)["image"][:, :, :4])
    assert [name for name, _ in grids.calls[3][3]] == [*CLASS_NAMES, "wrong"]


def test_step_0_survives_a_resume(tmp_path: Path, grids: Grids) -> None:
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    arguments = {"callbacks": [checkpoint], "enable_checkpointing": True, "max_epochs": 1}
    trainer(tmp_path, PredictionPictures(2), **arguments).fit(Segmenter(), datamodule=Scenes())
    before = grids.column(0, "step 0")
    grids.calls.clear()

    arguments |= {"callbacks": [], "max_epochs": 2}
    trainer(tmp_path, PredictionPictures(2), **arguments).fit(
        Segmenter(), datamodule=Scenes(), ckpt_path=str(tmp_path / "last.ckpt")
    )
    # Lightning runs its sanity check again, now at step 2
    assert grids.titles == [["image", "truth", "step 0", f"step {step}", "wrong pixels"] for step in (2, 4)]
    assert same(grids.column(0, "step 0"), before)
    assert same(grids.column(1, "step 0"), before)
    assert not same(grids.column(0, "step 2"), before)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["PredictionPictures"]["step_0"]
    assert all(mask.dtype == torch.uint8 and mask.numel() < SIZE * SIZE / 2 for mask in kept.values())


def test_without_a_baseline_there_is_no_column_for_it(tmp_path: Path, grids: Grids) -> None:
    trainer(tmp_path, PredictionPictures(), num_sanity_val_steps=0, max_epochs=1).fit(Segmenter(), datamodule=Scenes())
    assert grids.titles[-1] == ["image", "truth", "step 2", "wrong pixels"]


def test_the_training_batch_is_drawn_as_the_model_gets_it(tmp_path: Path, grids: Grids) -> None:
    class Inverted(Segmenter):
        def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
            return batch | {"image": 255 - batch["image"]}

    trainer(tmp_path, PredictionPictures(2), limit_val_batches=0).fit(Inverted(), datamodule=Scenes())
    assert len(grids.calls) == 1
    assert same(grids.column(0, "image, augmented"), [255 - scene(index)["image"] for index in range(2)])


def test_padding_samples_are_skipped(tmp_path: Path, grids: Grids) -> None:
    datamodule = Scenes(names=["", "b.png", "", ""])
    run = trainer(tmp_path, PredictionPictures(4))
    run.test(Segmenter(), datamodule=datamodule, verbose=False)
    assert grids.calls[0][2] == ["b.png", "scenes/4.jpg", "scenes/6.jpg"]
    run.predict(Segmenter(), datamodule=datamodule)
    assert len(list((tmp_path / "predictions").rglob("*.png"))) == 2 * 5


def test_test_and_validate_draw_under_their_own_names(tmp_path: Path, grids: Grids) -> None:
    run = trainer(tmp_path, PredictionPictures())
    run.test(Segmenter(), datamodule=Scenes(), verbose=False)
    run.validate(Segmenter(), datamodule=Scenes(), verbose=False)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"test.png", "validate.png"}
    assert grids.titles == [["image", "truth", "prediction", "wrong pixels"]] * 2


def test_predictions_hold_the_exact_ids_and_keep_sub_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["same.jpg", "same.png", "/outside/../c.d.png"]
    model = Segmenter()
    with caplog.at_level(logging.INFO, "eomt"):
        trainer(tmp_path, PredictionPictures()).predict(model, datamodule=Scenes(names))
    written = ["same.jpg.png", "same.png", "outside/c.d.png", *(f"scenes/{index}.jpg.png" for index in range(3, 8))]
    for index, name in enumerate(written):
        picture = Image.open(tmp_path / "predictions" / "masks" / name)
        expected = model(scene(index)["image"][None]).argmax(1)[0].numpy()
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), expected)
        colors = np.array(palette(3))[expected]
        assert np.array_equal(np.asarray(picture.convert("RGB")), colors)

        painted = Image.open(tmp_path / "predictions" / "overlays" / name)
        blended = 0.4 * scene(index)["image"].permute(1, 2, 0).numpy() + 0.6 * colors
        assert np.abs(np.asarray(painted) - blended).max() <= 1
    assert len(list((tmp_path / "predictions").rglob("*.png"))) == 2 * len(written)
    assert [record.getMessage() for record in caplog.records if "predictions" in record.getMessage()] == [
        f"8 predictions (masks and overlays) are in {tmp_path / 'predictions'}"
    ]


def test_predictions_are_also_written_with_the_labels_of_mask_files(tmp_path: Path) -> None:
    """15 H: Cityscapes' server takes labelIds, and a user's masks may hold 0 and 255."""

    class Labeled(Scenes):
        def file_labels(self) -> list[int]:
            return [7, 255, 300]

    trainer(tmp_path, PredictionPictures()).predict(Segmenter(), datamodule=Labeled(["a.png"]))
    masks = np.asarray(Image.open(tmp_path / "predictions" / "masks" / "a.png"))
    found = np.asarray(Image.open(tmp_path / "predictions" / "labels" / "a.png"))
    assert len(np.unique(masks)) > 1
    assert np.array_equal(found, np.array([7, 255, 300])[masks])


def test_tasks_without_predictions_are_left_alone(tmp_path: Path) -> None:
    run = trainer(tmp_path, PredictionPictures(), max_epochs=1)
    run.fit(Silent(), datamodule=Scenes())
    run.test(Silent(), datamodule=Scenes(), verbose=False)
    run.predict(Silent(), datamodule=Scenes())
    assert [path.name for path in tmp_path.rglob("*.png")] == ["train_batch.png"]


def test_two_processes_write_every_prediction_and_report_once(tmp_path: Path) -> None:
    # the processes are forked, so a file is what tells their messages
    handler = logging.FileHandler(tmp_path / "log")
    logger = logging.getLogger("eomt")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        run = trainer(tmp_path, PredictionPictures(), devices=2, strategy="ddp_fork")
        with one_thread():
            run.predict(Segmenter(), datamodule=Scenes(), return_predictions=False)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert len(list((tmp_path / "predictions").rglob("*.png"))) == 2 * 8
    assert (tmp_path / "log").read_text().count("8 predictions") == 1


def test_pictures_reach_tensorboard_and_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers: list[Logger] = [
        TensorBoardLogger(tmp_path, name="", version=""),
        WandbLogger(save_dir=tmp_path, offline=True),
        CSVLogger(tmp_path / "csv"),
    ]
    trainer(tmp_path, PredictionPictures(2), logger=loggers, max_epochs=1).fit(Segmenter(), datamodule=Scenes())
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload().Images("val_pictures")
    assert [event.step for event in events] == [0, 2]
    (tmp_path / "shown.png").write_bytes(events[1].encoded_image_string)
    written = np.asarray(Image.open(tmp_path / "pictures" / "val_step000002.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "shown.png")), written)

    sent = [np.asarray(Image.open(path)) for path in (tmp_path / "wandb").rglob("media/images/val_pictures*.png")]
    assert sum(np.array_equal(picture, written) for picture in sent) == 1
    loggers[1].experiment.finish()


class Recorder:
    """What MLflow's client and Comet's experiment have in common here."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))


@pytest.mark.parametrize("base", [MLFlowLogger, CometLogger])
def test_pictures_reach_mlflow_and_comet(base: type[Logger]) -> None:
    """15.26: only wandb and TensorBoard had them, without a word."""
    recorder = Recorder()
    made = type("Known", (base,), {"__init__": lambda self: None, "experiment": recorder, "run_id": "a"})()
    log_image([made], "val_pictures", Image.new("RGB", (2, 2)), 4)
    ((args, kwargs),) = recorder.calls
    assert kwargs in ({"artifact_file": "val_pictures/step000004.png"}, {"name": "val_pictures", "step": 4})
    assert np.asarray(args[-1]).shape == (2, 2, 3)


def test_a_logger_without_pictures_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    class AimLogger(CSVLogger.__bases__[0]):  # type: ignore[misc, name-defined]
        name = version = "a"

        def __init__(self) -> None: ...

        def log_metrics(self, *_: Any, **__: Any) -> None: ...

        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    with caplog.at_level(logging.INFO, "eomt"):
        for step in range(2):
            log_image([AimLogger()], "a", Image.new("RGB", (2, 2)), step)
    lines = [record.getMessage() for record in caplog.records if record.name == "eomt"]
    assert lines == ["AimLogger: gets no pictures, they are in the run's folder"]


def test_log_image_needs_neither_wandb_nor_tensorboard_for_other_loggers(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['wandb'] = sys.modules['tensorboard'] = sys.modules['torch.utils.tensorboard'] = None\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "from PIL import Image\n"
        "from callbacks.pictures.output import log_image\n"
        f"log_image([CSVLogger({str(tmp_path)!r})], 'a', Image.new('RGB', (2, 2)), 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert log_image([], "a", Image.new("RGB", (2, 2)), 0) is None
