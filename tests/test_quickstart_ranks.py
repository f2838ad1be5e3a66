"""Each quickstart, small: what two processes measure of an adapter is what one does, to 1e-6 in every figure."""

import json
import math
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from eomt.cli import main
from tests.documents import ROOT
from tests.ranks import TWO_RANKS, one_thread

pytestmark = pytest.mark.slow

# odd numbers of images, so that the last step of one process is padding
SPLITS = ("--data.num_val", "7", "--data.num_test", "5", "--data.batch_size", "4", "--data.num_train")
SMALL: dict[str, tuple[str, ...]] = {
    "eomt": (*SPLITS, "8"),
    "instance": (*SPLITS, "8"),
    "anomaly": (*SPLITS, "8"),
    "sam2": ("--data.num_images", "35", "--data.batch_size", "4"),
    "classification": (*SPLITS, "24"),
    "morph_mae": ("--data.num_images", "30", "--data.val_fraction", "0.3", "--data.batch_size", "8"),
    "morph": (*SPLITS, "12"),
    "vqa": (*SPLITS, "40"),
}
# batches of three; the last of a process is smaller
BATCH = ("--data.eval_batch_size", "3", "--trainer.precision", "32-true")


class Figures(Callback):
    """Writes every figure of an evaluation, as it was logged."""

    def __init__(self, file: str) -> None:
        self.file = file

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn != "fit":
            figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
            Path(self.file).write_text(json.dumps(figures))

    on_validation_end = on_test_end = write


def run(kind: str, folder: Path, command: str, *args: str) -> None:
    places = ["--data.path", str(folder / kind), "--trainer.default_root_dir", str(folder / "runs")]
    if kind == "morph":
        places += ["--model.network.encoder.pretrained", str(folder / "runs" / "morph_mae" / "encoder")]
    main([command, "--config", f"configs/quickstart/{kind}.yaml", *places, "--run_name", kind, *SMALL[kind], *args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstarts")


# the encoder of pre-training comes before its detector
@pytest.mark.parametrize("kind", SMALL)
def test_two_processes_measure_what_one_does(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with one_thread():
        run(kind, folder, "fit", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
        for command, stage in (("validate", "val"), ("test", "test")):
            if kind == "morph_mae" and command == "test":
                continue
            found = []
            for ranks in ((), TWO_RANKS):
                file = folder / f"{kind}_{command}_{len(ranks)}.json"
                writer = json.dumps(
                    {"class_path": "tests.test_quickstart_ranks.Figures", "init_args": {"file": f"{file}"}}
                )
                run(kind, folder, command, "--ckpt_path", "latest", *BATCH, "--trainer.callbacks+", writer, *ranks)
                found.append(json.loads(file.read_text()))
            alone, together = found
            assert any(name.startswith(f"{stage}_") and math.isfinite(value) for name, value in alone.items())
            assert together == pytest.approx(alone, abs=1e-6, nan_ok=True)
