"""Images of other values and more channels than RGB of 8 bits: one run, and everything that opens its weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

import eomt
from datamodules import ImageMaskFolder
from eomt.demo.uploads import read_upload
from eomt.errors import UserError
from eomt.models import SAM2, DeterministicVQA, EoMT, MaskedAutoencoder
from eomt.models.network import Network
from eomt.sharing.folder import write_shared
from eomt.tasks.configuration import Configuration
from tests.cli_runs import Workspace, make_workspace

CHANNELS = [4, 0, 1, 2, 3]
FIELDS = ["--data.intensity", "[100, 4095]", "--data.channels", str(CHANNELS)]


def as_bands(file: Path) -> None:
    """Put a TIFF of five bands of 12 bits in the place of a PNG; only the last two bands tell red from blue."""
    colors = np.asarray(Image.open(file)).astype(np.uint16) * 16
    gray = colors.max(-1)
    bands = np.stack([gray, gray // 2, gray, colors[..., 0], colors[..., 2]], -1)
    tifffile.imwrite(file.with_suffix(".tif"), bands, photometric="minisblack", planarconfig="contig")
    file.unlink()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("bands"))
    for file in workspace.folder.glob("data/*/images/*.png"):
        as_bands(file)
    return workspace


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    lora = ["--model.lora_config.trainable_modules", "[class_head, patch_embed]"]
    return workspace.fit("bands", *FIELDS, *lora)


def best(run: Path) -> Path:
    return next(run.glob("best_lora_*.ckpt"))


@pytest.fixture(scope="module")
def expected(workspace: Workspace, run: Path) -> dict[str, np.ndarray]:
    """What `predict` of the command line says of the test images, by their names without an ending."""
    workspace.run("predict", "--ckpt_path", str(best(run)), config=False)
    files = (run / "predictions" / "masks").glob("*.png")
    return {Path(file.stem).stem: np.asarray(Image.open(file)) for file in files}


@pytest.fixture(scope="module")
def others(workspace: Workspace, run: Path) -> dict[str, Path]:
    """Every folder that is written of the run's best weights, without a look at the data but for one of them."""
    checkpoint, folder = best(run), workspace.folder
    merge = ("--ckpt_path", str(checkpoint), "--output", str(folder / "merged_alone"), "--data", "null")
    workspace.run("merge", *merge, config=False)
    write_shared(next(run.glob("best_merged_*")), folder / "shared", "user/bands")
    return {
        "adapter": checkpoint.with_suffix(""),
        "merged without data": folder / "merged_alone",
        "shared": folder / "shared",
    }


@pytest.fixture(scope="module")
def predictor(run: Path) -> Any:
    return eomt.load(next(run.glob("best_merged_*")))


@pytest.fixture(scope="module")
def exported(workspace: Workspace, others: dict[str, Path]) -> Path:
    merged, folder = others["merged without data"], workspace.folder / "exported"
    workspace.run("export", "--ckpt_path", str(merged), "--output", str(folder), "--data", "null", config=False)
    return folder


def test_the_data_say_how_many_channels_the_encoder_takes(run: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["init_args"]["encoder"]["init_args"]["in_chans"] == 5
    log = (run / "training.log").read_text()
    assert "pictures show bands 4, 0, 1 as red, green and blue" in log
    assert "the patch embedding takes 5 channels; its weights were loaded for three, and are adapted" in log
    assert "never loaded" not in log


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "merged without data", "shared"])
def test_all_that_opens_the_weights_reads_images_as_the_run_did(
    workspace: Workspace, others: dict[str, Path], expected: dict[str, np.ndarray], kind: str
) -> None:
    compare(eomt.load(others[kind]), workspace, expected)


def test_the_merged_folder_of_a_run_and_its_checkpoint_read_images_as_it_did(
    workspace: Workspace, run: Path, predictor: Any, expected: dict[str, np.ndarray]
) -> None:
    compare(predictor, workspace, expected)
    compare(eomt.load(best(run)), workspace, expected)


@pytest.mark.slow
def test_an_exported_folder_reads_images_as_the_run_did(
    workspace: Workspace, exported: Path, expected: dict[str, np.ndarray]
) -> None:
    compare(eomt.load(exported), workspace, expected)
    record = json.loads((exported / "export.json").read_text())
    assert record["images"] == {"intensity": [100, 4095], "channels": CHANNELS, "page": None}
    assert record["graphs"][0]["inputs"][0]["shape"] == ["batch", 5, 32, 48]
    # Pillow holds no such image
    assert not (exported / "example.py").exists()
    assert "Images are 5 channels, made of stored values" in (exported / "README.md").read_text()
    assert len(json.loads((exported / "preprocessor_config.json").read_text())["image_mean"]) == 5


def compare(predictor: Any, workspace: Workspace, expected: dict[str, np.ndarray]) -> None:
    """Compare what is read of the test files, and said of them, with the data module and with `predict`."""
    files = sorted(workspace.folder.glob("data/test/images/*.tif"))
    data = ImageMaskFolder(
        workspace.folder / "data", crop_size=(32, 48), num_workers=0, intensity=(100, 4095), channels=CHANNELS
    )
    data.setup("test")
    assert len(files) == len(expected) == 2
    for file, batch in zip(files, data.test_dataloader(), strict=True):
        # independent of the reader: each band by the stated range
        bands = tifffile.imread(file)[..., CHANNELS].astype(np.float32)
        pixels = np.round(np.clip((bands - 100) / 3995, 0, 1) * 255)
        np.testing.assert_array_equal(predictor.read(file).pixels.permute(1, 2, 0).numpy(), pixels)
        np.testing.assert_array_equal(batch["image"][0].numpy(), pixels.transpose(2, 0, 1))
        found = predictor.predict(file)
        np.testing.assert_array_equal(found.class_map, expected[file.stem])
        # pictures show the first three
        np.testing.assert_array_equal(found.image, pixels[..., :3])
        # stored values in memory are read alike, and a tensor holds what comes out
        for same in (tifffile.imread(file), batch["image"][0]):
            np.testing.assert_array_equal(predictor.predict(same).class_map, found.class_map)


def test_the_range_matters_for_these_answers(
    workspace: Workspace, predictor: Any, expected: dict[str, np.ndarray]
) -> None:
    file = min(workspace.folder.glob("data/test/images/*.tif"))
    dark = tifffile.imread(file) // 16
    assert (predictor.predict(dark).class_map != expected[file.stem]).any()


def test_a_demo_reads_what_is_sent_as_the_run_did(workspace: Workspace, predictor: Any) -> None:
    folder = workspace.folder / "data"
    file = min(folder.glob("test/images/*.tif"))
    sent = read_upload(file, folder, predictor.conversion)
    assert torch.equal(sent.image.pixels, predictor.read(file).pixels)
    np.testing.assert_array_equal(sent.pixels, predictor.read(file).array)
    np.testing.assert_array_equal(predictor.predict(sent.image).class_map, predictor.predict(file).class_map)


def test_an_image_of_other_bands_is_refused_in_a_line(workspace: Workspace, predictor: Any, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"photo\.png: has 3 bands, but channels is \[4, 0, 1, 2, 3\]"):
        predictor.predict(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"image: a tensor of shape \[3, 32, 48\]; give \(5, H, W\)"):
        predictor.predict(torch.zeros(3, 32, 48, dtype=torch.uint8))


@pytest.mark.slow
def test_a_command_on_the_weights_with_a_config_of_its_own_reads_alike(
    workspace: Workspace, others: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    # the config says nothing of the fields
    workspace.run("test", "--ckpt_path", str(others["merged without data"]), "--run_name", "again")
    text = caplog.text
    assert "data.intensity: [100, 4095], as in training" in text.replace(".0", "")
    assert f"data.channels: {CHANNELS}, as in training" in text


@pytest.mark.slow
def test_a_run_is_resumed(workspace: Workspace, run: Path) -> None:
    latest = next(run.glob("final_lora_*.ckpt"))
    extra = ["--trainer.max_epochs", "3", "--run_name", "resumed"]
    workspace.run("fit", "--ckpt_path", str(latest), *extra, config=False)
    assert list((workspace.runs / "resumed").glob("final_lora_step12.ckpt"))


@pytest.mark.parametrize(
    ("channels", "in_chans", "message"),
    [
        (CHANNELS, 4, r"encoder\.in_chans: 4, but data\.channels \(\[4, 0, 1, 2, 3\]\) makes images of 5"),
        ([0], 5, r"encoder\.in_chans: 5, but data\.channels \(\[0\]\) makes images of 3"),
        (None, 5, r"encoder\.in_chans: 5, but data\.channels \(None\) makes images of 3"),
    ],
)
def test_data_and_network_of_different_channels_are_refused(
    channels: list[int] | None, in_chans: int, message: str
) -> None:
    encoder = {"class_path": "eomt.models.ViT", "init_args": {"in_chans": in_chans}}
    found = Configuration({}, {"encoder": encoder}, EoMT, {"channels": channels}, ImageMaskFolder)
    with pytest.raises(UserError, match=message):
        found.fill_channels()


@pytest.mark.parametrize(("channels", "filled"), [(CHANNELS, 5), ([3], None), ([2, 1, 0], None), (None, None)])
def test_the_number_of_channels_is_that_of_the_data(channels: list[int] | None, filled: int | None) -> None:
    encoder: dict[str, Any] = {"class_path": "eomt.models.ViT", "init_args": {"in_chans": None}}
    found = Configuration({}, {"encoder": encoder}, EoMT, {"channels": channels}, ImageMaskFolder)
    found.fill_channels()
    assert encoder["init_args"]["in_chans"] == filled


@pytest.mark.parametrize("network", [SAM2, MaskedAutoencoder, DeterministicVQA])
def test_networks_of_rgb_refuse_other_channels(network: type[Network]) -> None:
    found = Configuration({}, {}, network, {"channels": CHANNELS}, ImageMaskFolder)
    with pytest.raises(UserError, match=rf"data\.channels: 5 channels, but {network.__name__} .* takes three"):
        found.fill_channels()
    found.data = {"channels": [2, 1, 0]}
    found.fill_channels()


@pytest.mark.slow
def test_inspect_shows_three_bands_and_says_which(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run("inspect", *FIELDS)
    text = capsys.readouterr().out
    assert "pictures show bands 4, 0, 1 as red, green and blue" in text
    assert Image.open(workspace.runs / "inspected" / "train.png").mode == "RGB"
