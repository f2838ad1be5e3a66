"""A user's mistakes: one line that names the file or field, exit status 2, nothing left behind."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from eomt.models.eomt import EoMT
from eomt.tasks import SemanticSegmentation
from tests.cli_runs import Workspace, make_workspace, refusal


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("mistakes"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("good", "--trainer.max_epochs", "1")


def image_without_mask(data: Path) -> None:
    (data / "train" / "masks" / "03.png").unlink()


def mask_without_image(data: Path) -> None:
    (data / "val" / "images" / "01.png").unlink()


def unknown_label(data: Path) -> None:
    mask = np.array(Image.open(data / "val" / "masks" / "01.png"))
    mask[:2, :5] = 9
    Image.fromarray(mask).save(data / "val" / "masks" / "01.png")


def size_mismatch(data: Path) -> None:
    Image.new("L", (48, 30)).save(data / "train" / "masks" / "02.png")


def truncated_png(data: Path) -> None:
    path = data / "train" / "images" / "02.png"
    path.write_bytes(path.read_bytes()[:200])


def truncated_jpeg(data: Path) -> None:
    path = data / "train" / "images" / "02.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    path = path.with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:300])


def text_as_image(data: Path) -> None:
    (data / "train" / "images" / "02.png").write_text("no picture")


def sixteen_bits(data: Path) -> None:
    Image.fromarray(np.full((32, 48), 3000, np.uint16)).save(data / "train" / "images" / "02.png")


def empty_val(data: Path) -> None:
    for kind in ("images", "masks"):
        for path in (data / "val" / kind).iterdir():
            path.unlink()


def one_class(data: Path) -> None:
    for path in (data / "train" / "masks").iterdir():
        Image.new("L", (48, 32)).save(path)


def binary_as_255(data: Path) -> None:
    for path in data.rglob("masks/*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(((mask > 0) * 255).astype(np.uint8)).save(path)


def all_ignored(data: Path) -> None:
    for path in (data / "val" / "masks").iterdir():
        Image.new("L", (48, 32), 255).save(path)


DATA = [
    (image_without_mask, ["03.png", "no mask"]),
    (mask_without_image, ["01.png", "no image belongs to it"]),
    (unknown_label, ["val/masks/01.png", "9", "10 pixels"]),
    (size_mismatch, ["train/masks/02.png", "30 x 48", "32 x 48"]),
    (truncated_png, ["train/images/02.png"]),
    (truncated_jpeg, ["train/images/02.jpg"]),
    (text_as_image, ["train/images/02.png"]),
    (sixteen_bits, ["train/images/02.png", "16"]),
    (empty_val, ["val"]),
    (one_class, ["only"]),
    (binary_as_255, ["class_map"]),
    (all_ignored, ["val", "ignored"]),
]


@pytest.mark.parametrize(("spoil", "words"), DATA, ids=[spoil.__name__ for spoil, _ in DATA])
def test_data(
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: list[str],
) -> None:
    data = tmp_path / "data"
    shutil.copytree(workspace.folder / "data", data)
    spoil(data)
    error = refusal(capsys, workspace, "fit", "--data.path", str(data), "--run_name", "spoilt")
    for word in words:
        assert word in error
    assert not (workspace.runs / "spoilt").exists()


def test_a_network_of_another_shape(workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = str(next(run.glob("best_lora_*.ckpt")))
    other = ("--model.network.pretrained", "false", "--model.network.encoder.backbone_name", "test_vit2")
    error = refusal(capsys, workspace, "validate", "--ckpt_path", best, *other, config=False)
    assert "ckpt_path" in error


def test_another_base(workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = load_file(workspace.folder / "base" / "model.safetensors")
    torch.manual_seed(3)
    save_file({name: torch.randn_like(value) for name, value in state.items()}, tmp_path / "model.safetensors")
    best = next(run.glob("best_lora_*.ckpt"))
    for path in (best, best.with_suffix("")):
        args = ("validate", "--ckpt_path", str(path), "--model.network.pretrained", str(tmp_path))
        assert "another base" in refusal(capsys, workspace, *args, config=False)


@pytest.mark.parametrize("callback", ["LoRACheckpoint", "EarlyStoppingOnIoU"])
def test_a_metric_that_does_not_exist(workspace: Workspace, capsys: pytest.CaptureFixture[str], callback: str) -> None:
    callbacks = f'[{{"class_path": "callbacks.{callback}", "init_args": {{"monitor": "val_uoi"}}}}]'
    error = refusal(capsys, workspace, "fit", "--run_name", "metric", "--trainer.callbacks", callbacks)
    assert "'val_uoi' is not logged; there are: val_accuracy, val_dice, val_iou, val_loss" in error
    assert not (workspace.runs / "metric").exists()


@pytest.mark.parametrize(("precision", "instead"), [("bf16-true", "bf16-mixed"), ("16-true", "16-mixed")])
@pytest.mark.parametrize("command", ["fit", "inspect", "merge"])
def test_weights_in_16_bits_are_not_trained_or_merged(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], command: str, precision: str, instead: str
) -> None:
    """15 C: norms would not move at all, and adapters belong to a base that was rounded."""
    what = () if command == "fit" else ("--ckpt_path", str(next(run.glob("best_lora_*.ckpt"))))
    error = refusal(capsys, workspace, command, *what, "--trainer.precision", precision)
    assert f"trainer.precision: {precision}" in error
    assert error.endswith(f"give {instead}")


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_names_the_switches(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError(message) if "CUDA" in message else RuntimeError(message)

    monkeypatch.setattr(EoMT, "forward", fail)
    error = refusal(capsys, workspace, "fit", "--run_name", "memory")
    assert message in error
    for switch in ("--data.batch_size", "--model.memory least", "img_size", "layers"):
        assert switch in error


def test_an_error_of_the_program_keeps_its_traceback(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(SemanticSegmentation, "losses", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        workspace.run("fit", "--run_name", "bug")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: [", ["broken.yaml"]),
        ("modle: {}\n", ["modle"]),
        (None, ["missing.yaml"]),
    ],
)
def test_a_config_that_cannot_be_read(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, words: list[str]
) -> None:
    path = tmp_path / ("missing.yaml" if text is None else "broken.yaml")
    if text is not None:
        path.write_text(text + (workspace.config.read_text() if "modle" in text else ""))
    error = refusal(capsys, workspace, "fit", "--config", str(path), config=False)
    for word in words:
        assert word in error


def test_no_subcommand(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert "fitt: no such command; there are fit, validate" in refusal(capsys, workspace, "fitt", config=False)


@pytest.mark.skipif("HF_HUB_OFFLINE" not in os.environ, reason="would ask the hub")
def test_a_hub_that_cannot_be_had(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    hub = ("--model.network.pretrained", "false", "--model.network.encoder.pretrained", "true")
    name = (
        "--model.network.encoder.backbone_name",
        "vit_small_patch14_dinov2",
        "--model.network.encoder.patch_size",
        "8",
    )
    error = refusal(capsys, workspace, "fit", *hub, *name)
    assert "vit_small_patch14_dinov2" in error
    assert "--model.network.encoder.pretrained FOLDER" in error


CALLBACK = '[{"class_path": "lightning.pytorch.callbacks.%s", "init_args": %s}]'


@pytest.mark.parametrize(
    ("args", "message"),
    [
        # 15.22: what other constructors refuse
        (
            ("--trainer.callbacks", CALLBACK % ("EarlyStopping", '{"monitor": "a", "mode": "lowest"}')),
            "EarlyStopping: ",
        ),
        (("--trainer.callbacks", CALLBACK % ("ModelCheckpoint", '{"save_top_k": -7}')), "ModelCheckpoint: "),
        (("--trainer.logger", "CometLogger"), "CometLogger: "),
        (("--trainer.callbacks", CALLBACK % ("Nope", "{}")), "lightning.pytorch.callbacks.Nope cannot be imported"),
        (
            ("--trainer.logger", '{"class_path": "CSVLogger", "init_args": {"save_dir": "/proc/nope"}}'),
            "/proc/nope: No such file or directory",
        ),
        # 15.31: accepted without a word
        (("--model.network.encoder.patch_size", "0"), "patch_size: 0; must be at least 1"),
        (("--trainer.max_steps", "0"), "trainer.max_steps: 0; must be at least 1"),
        (("--trainer.gradient_clip_val", "-1"), "trainer.gradient_clip_val: -1"),
        (("--trainer.accumulate_grad_batches", "-2"), "trainer.accumulate_grad_batches: -2"),
        (("--trainer.log_every_n_steps", "-1"), "trainer.log_every_n_steps: -1"),
        (("--trainer.limit_train_batches", "0"), "trainer.limit_train_batches: 0"),
        (("--model.lora_config", "null", "--model.lora_config.rank", "4"), "model.lora_config: null, and --model.lora"),
        (("--trainer.callbacks", CALLBACK % ("EarlyStopping", '{"monitor": "a", "patience": -1}')), "0.patience: -1"),
        (("--model.mask_weight", "-1"), "model.mask_weight: -1.0; must be at least 0"),
        (("--trainer.max_step", "4"), "trainer.max_step: no such field; did you mean trainer.max_steps?"),
        (
            ("--trainer.logger", "false", "--trainer.logger.save_dir", "x"),
            "trainer.logger: false, and --trainer.logger",
        ),
        # 15.32: tracebacks
        (("--trainer.profiler", "lightning.pytorch.profilers.PyTorchProfiler"), "trainer.profiler: pytorch"),
        (
            (
                "--trainer.callbacks",
                '[{"class_path": "callbacks.PredictionPictures", "init_args": {"num_samples": null}}]',
            ),
            "trainer.callbacks.0.num_samples: null, but it needs a value",
        ),
        (("--model.network.encoder", "null"), "model.network.encoder: not given, or null; give it"),
        (("--model.network", "EoM"), "model.network: EoM; must be a class_path"),
        (("--audit", "null"), "audit: null; must be a mapping"),
        (("--data.class_names", "[1, 2, 3]"), "data.class_names: 1; must be a text, null"),
        (("--model.lora_config", "false"), "model.lora_config: false; must be a class_path"),
        (("--model.lr", "null"), "model.lr: null, but it needs a value"),
        (("--data.batch_size", "null"), "data.batch_size: null, but it needs a value"),
        (("--data.scale_range", "null"), "data.scale_range: null"),
        (("--data.ignore_labels", "null"), "data.ignore_labels: null"),
        (("--model.mask_weight", "null"), "model.mask_weight: null"),
        (("--model.network.encoder.patch_size", "-8"), "patch_size: -8; must be at least 1"),
        (("--seed_everything", "-1"), "seed_everything: -1; must be from 0"),
        (("--trainer.accelerator", "tpu"), "trainer: "),
        (("--trainer.log_every_n_steps", "0"), "trainer.log_every_n_steps: 0"),
        (("--trainer.val_check_interval", "0"), "trainer.val_check_interval: 0"),
        (("--trainer.check_val_every_n_epoch", "0"), "trainer.check_val_every_n_epoch: 0"),
        (("--trainer.profiler", "pytorch"), "trainer.profiler: pytorch"),
        (("--trainer.default_root_dir", "null"), "trainer.default_root_dir: null"),
        (("--model.lr", "-1e-3"), "lr: -0.001; must be"),
        (("--model.lora_config.rnak", "4"), "model.lora_config.rnak: no such field; did you mean rank?"),
        (("--model.lrr", "4"), "model.lrr: no such field; did you mean lr?"),
        (("--data.test_csv", "x"), "data.test_csv: no such field; there are path, batch_size, crop_size"),
        (("--model.lora_config.rank", "four"), "model.lora_config.rank: four; must be a whole number"),
        (
            ("--data.class_map", "nope"),
            "data.class_map: nope; must be a mapping, cityscapes, ade20k,",
        ),
        (("--data", "NoSuch"), "data: NoSuch; must be a class_path that can be imported, null"),
        (("--seed_everything", "x"), "seed_everything: x; must be true or false, a whole number"),
        (("--trainer.precision", "12"), "trainer.precision: 12; must be 64, 32, 16, transformer-engine"),
        (("--model.network", "torch.nn.Identity"), "model.network: torch.nn.Identity is no EoMT"),
    ],
)
def test_values_that_cannot_be_are_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    error = refusal(capsys, workspace, "fit", "--run_name", "impossible", *args)
    assert message in error
    # some are another library's words
    assert len(error) <= 420
    assert not (workspace.runs / "impossible").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_new_images_are_for_predict_alone(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    error = refusal(capsys, workspace, command, "--ckpt_path", str(run / "merged"), "--data.predict_path", "no_folder")
    assert "data.predict_path: is for predict alone" in error


def test_a_metric_that_a_callback_of_lightning_misses_is_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """15.32: it was a traceback after an epoch."""
    error = refusal(capsys, workspace, "fit", "--trainer.callbacks", CALLBACK % ("EarlyStopping", '{"monitor": "no"}'))
    assert "trainer.callbacks: Early stopping conditioned on metric `no`" in error


def test_a_timer_may_be_listed(workspace: Workspace) -> None:
    """15.32: one of its defaults is no text, and the configuration could not be written."""
    run = workspace.fit("timed", "--trainer.callbacks", CALLBACK % ("Timer", '{"duration": "00:00:01:00"}'))
    assert "interval: step" in (run / "config.yaml").read_text()


def test_without_checkpoints_nothing_asks_for_them(workspace: Workspace, tmp_path: Path) -> None:
    """15.23: callbacks that nobody listed were refused."""
    config = yaml.safe_load(workspace.config.read_text())
    del config["trainer"]["callbacks"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))
    args = (
        "--config",
        str(tmp_path / "plain.yaml"),
        "--run_name",
        "unsaved",
        "--trainer.enable_checkpointing",
        "false",
    )
    workspace.run("fit", *args, config=False)
    assert not list((workspace.runs / "unsaved").glob("*.ckpt"))


def test_a_field_that_stands_twice_in_a_part_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """15.31: only whole configurations were looked at."""
    (tmp_path / "part.yaml").write_text("max_epochs: 1\nmax_epochs: 2\n")
    error = refusal(capsys, workspace, "fit", "--trainer", str(tmp_path / "part.yaml"))
    assert "max_epochs: stands twice" in error


def test_a_field_that_stands_twice_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """15.31: of two blocks the first one was lost."""
    file = workspace.folder / "twice.yaml"
    file.write_text(workspace.config.read_text() + "\ntrainer: {max_steps: 2}\n")
    error = refusal(capsys, workspace, "fit", "--config", str(file), config=False)
    assert "'trainer' stands twice" in error


@pytest.mark.parametrize("output", ["model.onnx", "model.safetensors", "model.pt"])
def test_a_merged_model_is_a_folder_or_a_pt_file(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, output: str
) -> None:
    """15.31: a folder of that name was made."""
    best = str(next(run.glob("best_lora_*.ckpt")))
    error = refusal(capsys, workspace, "merge", "--ckpt_path", best, "--output", str(tmp_path / output), config=False)
    assert "give a folder" in error
    assert not (tmp_path / output).exists()


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar", None])
def test_progress_bars_and_rate_monitors_of_lightning_are_taken(workspace: Workspace, bar: str | None) -> None:
    """15.23, 15.33: a bar of the user's own, none, and LearningRateMonitor."""
    callbacks = [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}]
    callbacks += [{"class_path": f"lightning.pytorch.callbacks.{bar}"}] if bar else []
    given = ["--trainer.enable_progress_bar", "false"] if bar is None else []
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(workspace.folder / f"csv_{bar}")}}
    given += ["--trainer.callbacks", json.dumps(callbacks), "--trainer.logger", json.dumps(logger)]
    workspace.fit(f"bar_{bar}", "--trainer.max_epochs", "1", *given)
    (metrics,) = (workspace.folder / f"csv_{bar}").rglob("metrics.csv")
    assert "lr-AdamW/adapters" in metrics.read_text().splitlines()[0]


def test_a_field_of_a_file_that_is_unknown_is_named_with_what_is_near(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """15.32: not given, or misspelled at the top of a file."""
    file = workspace.folder / "misspelled.yaml"
    file.write_text("modle:\n  class_path: eomt.tasks.SemanticSegmentation\n")
    error = refusal(capsys, workspace, "fit", "--config", str(file), config=False)
    assert "modle.class_path: no such field; did you mean model?" in error
    assert "model: not given, or null; give it, or a file with it: --config FILE" in refusal(
        capsys, workspace, "fit", config=False
    )
