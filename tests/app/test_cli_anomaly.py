"""The configs for Cityscapes and road anomalies through the command line, on a few pixels and a narrow DINOv2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, EomtForUniversalSegmentation

from datamodules import StreetAnomalies
from datamodules.class_maps import CITYSCAPES_NAMES
from eomt.cli import main
from eomt.models import EoMT, ViT
from tests.datamodules.segmentation.test_cityscapes import write_cityscapes
from tests.datamodules.segmentation.test_road_anomaly import write_image, write_mask
from tests.models.weights.eomt_pairs import official

ROOT = Path(__file__).parents[2]
ENCODER = {"backbone_name": "vit_small_patch14_dinov2", "img_size": "[32, 32]", "pretrained": "false"}
NETWORK = [part for field, value in ENCODER.items() for part in (f"--model.network.encoder.{field}", value)]
SETS = ("fs_static", "RoadAnomaly21")


def write_sets(path: Path) -> Path:
    """Two sets of two images, half of whose pixels are anomalous."""
    mask = np.zeros((32, 64), np.uint8)
    mask[:, :30], mask[:, 30:32] = 1, 255
    for name in SETS:
        for number in range(2):
            write_image(path / name / "images" / f"{number}.png", mask.shape)
            write_mask(path / name / "labels_masks" / f"{number}.png", mask)
    return path


class Place:
    """Data, and a run on Cityscapes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        write_cityscapes(folder / "cityscapes")
        write_sets(folder / "sets")
        self.run(
            "fit", "eomt_cityscapes", "cityscapes", "--run_name", "streets", "--data.batch_size", "2",
            "--trainer.max_steps", "2", "--trainer.accumulate_grad_batches", "1", "--trainer.val_check_interval", "1",
            "--model.num_points", "64", "--model.network.num_q", "8", "--audit.allow_random_base", "true",
        )  # fmt: skip
        self.trained = self.runs / "streets"

    def run(self, command: str, config: str, data: str, *args: str) -> None:
        workers = ["--data.num_workers", "0", "--trainer.default_root_dir", str(self.runs)]
        given = ["--config", str(ROOT / "configs" / f"{config}.yaml"), "--data.path", str(self.folder / data)]
        main([command, *given, *workers, *NETWORK, *args])

    def anomalies(self, command: str, *args: str) -> None:
        self.run(command, "eomt_anomaly", "sets", "--model.network.num_q", "8", *args)

    def file(self, pattern: str) -> Path:
        (found,) = self.trained.glob(pattern)
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("anomaly"))


def newest_figures(runs: Path) -> dict[str, float]:
    newest = max(runs.glob("*/results/*_eval.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(newest.read_text())["metrics"]


def test_a_run_on_cityscapes_is_tested_on_anomalies_in_each_of_its_three_forms(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for pattern in ("best_lora_*.ckpt", "best_lora_*dice?.????", "best_merged_*"):
        place.anomalies("test", "--ckpt_path", str(place.file(pattern)))
        found.append(newest_figures(place.runs))
        printed = capsys.readouterr()
        for name in SETS:
            assert f"{name}: 2 images, 48.39 % of the pixels are anomalous" in printed.out + printed.err
    figures = {name for name in found[0] if name.startswith("test_auprc/")}
    assert len(figures) == len(SETS) * 6
    assert all(found[0][f"test_images/{name}"] == 2 for name in SETS)
    for other in found[1:]:
        # merging rounds
        assert {name: other[name] for name in figures} == pytest.approx(
            {name: found[0][name] for name in figures}, rel=1e-3
        )
    for name in SETS:
        picture = place.trained / "pictures" / f"anomaly_{name}_1.png"
        assert Image.open(picture).size[0] > 6 * 64


def test_a_run_is_tested_on_anomalies_with_its_own_configuration(place: Place) -> None:
    checkpoint = str(place.file("best_lora_*.ckpt"))
    place.anomalies("test", "--ckpt_path", checkpoint)
    expected = newest_figures(place.runs)
    pictures = place.trained / "pictures"
    for picture in pictures.glob("anomaly_*.png"):
        picture.unlink()
    main(["test", "--ckpt_path", checkpoint, "--data", "RoadAnomaly", "--data.path", str(place.folder / "sets")])
    assert newest_figures(place.runs) == pytest.approx(expected)
    assert len(list(pictures.glob("anomaly_*.png"))) == 4


def test_what_is_merged_opens_in_transformers_and_as_a_base(place: Place) -> None:
    merged = place.file("best_merged_*")
    model, report = EomtForUniversalSegmentation.from_pretrained(merged, output_loading_info=True)
    assert not any(report.values())
    assert [model.config.id2label[index] for index in range(19)] == CITYSCAPES_NAMES
    processor = AutoImageProcessor.from_pretrained(merged)
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])
    place.anomalies("test", "--ckpt_path", str(merged))
    expected = newest_figures(place.runs)
    place.anomalies("test", "--model.network.pretrained", str(merged), "--model.lora_config", "null")
    assert newest_figures(place.runs) == pytest.approx(expected)


def test_a_class_head_of_other_classes_is_refused_or_left_out(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    StreetAnomalies(str(tmp_path / "streets"), num_train=2, num_val=1, num_test=2).prepare_data()
    streets = ["--data", "StreetAnomalies", "--data.path", str(tmp_path / "streets"), "--data.num_train", "2"]
    streets += ["--data.num_val", "1", "--data.num_test", "2", "--data.batch_size", "2"]
    streets += ["--model.component_sizes", "[50, 10]"]
    base = ["--model.network.pretrained", str(place.file("best_merged_*")), "--model.network.num_q", "8"]
    base += ["--trainer.max_steps", "1", "--trainer.accumulate_grad_batches", "1", "--trainer.val_check_interval", "1"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        place.run("fit", "eomt_cityscapes", "unused", *streets, *base, "--run_name", "refused")
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a class head of 19 classes, but num_classes is 7" in line
    assert "--model.network.load_class_head false" in line
    new = ["--model.network.load_class_head", "false", "--model.lora_config.trainable_modules", "[]"]
    place.run("fit", "eomt_cityscapes", "unused", *streets, *base, *new, "--run_name", "new")
    summary = json.loads((place.runs / "new" / "training_summary.json").read_text())
    assert "class_head" in summary["audit"]
    assert_forms_agree(place.runs / "new")
    # the same in this package's layout, which has images that are not square
    wide = ["--model.network.encoder.img_size", "[32, 64]"]
    place.run("fit", "eomt_cityscapes", "unused", *streets, *base, *new, *wide, "--run_name", "wide")
    assert not any((place.runs / "wide").glob("best_merged_*/config.json"))
    assert_forms_agree(place.runs / "wide")


def assert_forms_agree(run: Path) -> None:
    """The trained class head is in each form, and not the one that a new network would start with."""
    found = []
    for pattern in ("best_lora_*.ckpt", "best_merged_*"):
        (checkpoint,) = run.glob(pattern)
        main(["test", "--ckpt_path", str(checkpoint)])
        found.append(newest_figures(run.parent))
    auprc = [{name: value for name, value in figures.items() if "auprc" in name} for figures in found]
    assert auprc[1] == pytest.approx(auprc[0], rel=1e-3)


def test_a_set_that_the_benchmark_does_not_know_needs_sizes_of_components(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """15 D: said before the first image is measured."""
    shutil.copytree(place.folder / "sets" / "RoadAnomaly21", tmp_path / "lost parcels")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        place.anomalies("test", "--ckpt_path", str(place.file("best_lora_*.ckpt")), "--data.path", str(tmp_path))
    assert stop.value.code == 2
    assert "component_sizes: null, and 'lost parcels' is no set of" in capsys.readouterr().err.splitlines()[-1]


def test_a_temperature_is_named_on_a_set_that_is_not_tested(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--ckpt_path", str(place.file("best_lora_*.ckpt")), "--data.val_set", "fs_static"]
    capsys.readouterr()
    place.anomalies("validate", *chosen)
    printed = capsys.readouterr()
    assert "give it to test as --model.temperature" in printed.out + printed.err
    place.anomalies("test", *chosen, "--model.temperature", "0.1")
    figures = newest_figures(place.runs)
    assert figures["test_temperature"] == 0.1
    assert not any("fs_static" in name for name in figures)


def test_a_temperature_is_named_for_any_run_with_its_own_configuration(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--data", "RoadAnomaly", "--data.path", str(place.folder / "sets"), "--data.val_fraction", "0.5"]
    capsys.readouterr()
    main(["validate", "--ckpt_path", str(place.file("best_lora_*.ckpt")), *sets])
    printed = capsys.readouterr()
    assert "give it to test as --model.temperature" in printed.out + printed.err


def test_predict_draws_the_scores_of_new_images(place: Place, tmp_path: Path) -> None:
    write_image(tmp_path / "new.png", (32, 64))
    place.anomalies("predict", "--ckpt_path", str(place.file("best_lora_*.ckpt")), "--data.predict_path", str(tmp_path))
    assert (place.trained / "predictions" / "anomaly" / "new.png").is_file()
    assert np.asarray(Image.open(place.trained / "predictions" / "masks" / "new.png")).max() < len(CITYSCAPES_NAMES)


def test_without_a_run_or_a_head_the_classes_must_be_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        place.anomalies("test")
    assert stop.value.code == 2
    assert "model.network.num_classes: null, and the data has no classes" in capsys.readouterr().err


def test_an_official_file_is_tested_as_it_is(place: Place, tmp_path: Path) -> None:
    encoder = ViT("vit_small_patch14_dinov2", (32, 32), pretrained=False, patch_size=16)
    network = EoMT(encoder, 19, num_q=8, num_blocks=3, pretrained=str(place.file("best_merged_*")))
    torch.save(official(network), tmp_path / "pytorch_model.bin")
    place.anomalies("test", "--ckpt_path", str(place.file("best_merged_*")))
    expected = newest_figures(place.runs)
    pretrained = str(tmp_path / "pytorch_model.bin")
    # it holds the encoder's weights too: nothing is fetched
    whole = ["--model.network.pretrained", pretrained, "--model.network.encoder.pretrained", "true"]
    place.anomalies("test", *whole, "--model.lora_config", "null")
    assert newest_figures(place.runs) == pytest.approx(expected)
