"""16.9: however a run is stopped, it resumes to the bits of the run that was not."""

import csv
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.cli_runs import Workspace, make_workspace
from tests.forks import Program

# of five batches an epoch: steps of two have a short one at the end of each
STEPS = ("--trainer.max_epochs", "4", "--data.batch_size", "2", "--trainer.check_val_every_n_epoch", "null")
KINDS = {
    "plain": ("--trainer.val_check_interval", "3"),
    "accumulated": ("--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "4"),
}
WAYS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGINT twice", "SIGHUP", "exception")
MOMENTS = 12


class Failure(Callback):
    """Raises an error at a moment: in the hook that is called for the n-th time."""

    def __init__(self, hook: str, count: int) -> None:
        self.count = count

        def fail(*_: Any, **__: Any) -> None:
            self.count -= 1
            if self.count == 0:
                raise OSError("the cable was pulled")

        setattr(self, hook, fail)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("stops"))
    # an odd number of batches
    for kind in ("images", "masks"):
        folder = made.folder / "data" / "train" / kind
        for name in ("08.png", "09.png"):
            (folder / name).write_bytes((folder / "00.png").read_bytes())
    return made


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> dict[str, tuple[Path, float]]:
    """The runs that nothing stops, and the seconds that each took."""
    found = {}
    for kind, options in KINDS.items():
        start = time.monotonic()
        assert (
            Program(
                lambda o=options, k=kind: workspace.fit(f"whole_{k}", *STEPS, *o), workspace.folder / "out"
            ).finish()
            == 0
        )
        found[kind] = (workspace.runs / f"whole_{kind}", time.monotonic() - start)
    return found


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def final(run: Path) -> dict[str, Any]:
    (path,) = run.glob("final_lora_step*.ckpt")
    return torch.load(path, weights_only=True)


def assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, theirs, f"{where}.{index}")
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} {other}"


def assert_same_run(whole: Path, resumed: Path) -> None:
    """Weights, optimizer, random states, callbacks' figures and rows of two runs are equal bit for bit."""
    one, other = final(whole), final(resumed)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal(one[part], other[part], part)
    (mine,), (theirs,) = (
        [value for name, value in found["callbacks"].items() if name.startswith(("LoRACheckpoint", "EarlyStopping"))][
            :1
        ]
        for found in (one, other)
    )
    assert_equal(mine, theirs, "callbacks")
    assert rows(whole) == rows(resumed)
    assert not [path for path in resumed.iterdir() if path.name.startswith(".")]
