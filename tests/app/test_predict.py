"""`predict`: what cannot be read is told and the rest goes on; a stopped command goes on to the same folder."""

import csv
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from eomt.app.run_lock import PREDICT_LOCK, RunLock
from tests.app.test_cli_morph import detection, pretraining
from tests.app.test_cli_prompted import write_workspace as prompted
from tests.app.test_cli_vqa import make_workspace as questions
from tests.cli_runs import Workspace, make_workspace, refusal, write_images
from tests.forks import Program
from tests.ranks import run_on_ranks

IMAGES = 12


class MemoryNotes(Callback):
    """Writes the resident memory after some batches of `predict`."""

    def __init__(self, file: str, after: list[int]) -> None:
        self.file, self.after = file, after

    def on_predict_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if (batch := args[2]) + 1 in self.after:
            status = Path("/proc/self/status").read_text()
            kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
            with Path(self.file).open("a") as notes:
                notes.write(f"{batch + 1} {kilobytes}\n")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("predict"))
    write_images(made.folder / "new", IMAGES, 5)
    (made.folder / "new" / "images" / "sub").mkdir()
    (made.folder / "new" / "images" / "01.png").rename(made.folder / "new" / "images" / "sub" / "01.png")
    return made


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("run", "--trainer.max_epochs", "1")


@pytest.fixture
def copied(workspace: Workspace, run: Path) -> Path:
    """A run without predictions."""
    folder = workspace.runs / "copied"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("predictions*"))
    return folder


def predict(workspace: Workspace, run: Path, *args: str) -> tuple[str, ...]:
    (checkpoint,) = run.glob("final_*.ckpt")
    images = ("--data.predict_path", str(workspace.folder / "new" / "images"))
    return ("predict", "--ckpt_path", str(checkpoint), *(() if "--data.predict_path" in args else images), *args)


def content(folder: Path) -> dict[str, bytes]:
    """Files by name; the record names the weights, which lie in the folder of the run."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    own = f"/{folder.parent.name}/".encode()
    return {name: one.replace(own, b"/run/") if name == "record.json" else one for name, one in found.items()}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def files_of(run: Path) -> list[str]:
    document = json.loads((run / "predictions" / "predictions.json").read_text())
    assert {row["file"] for row in rows(run / "predictions" / "predictions.csv")} == {
        image["file_name"] for image in document["images"]
    }
    return [image["file_name"] for image in document["images"]]


@pytest.fixture(scope="module")
def whole(workspace: Workspace, run: Path) -> dict[str, bytes]:
    """What a command writes that nothing stops."""
    workspace.run(*predict(workspace, run), config=False)
    return content(run / "predictions")


def test_each_image_has_its_files_and_what_is_not_wanted_is_not_written(
    workspace: Workspace, run: Path, whole: dict[str, bytes], copied: Path
) -> None:
    names = [f"{number:02d}.png" for number in range(IMAGES) if number != 1] + ["sub/01.png"]
    assert files_of(run) == names
    assert set(whole) == {f"{kind}/{name}" for kind in ("masks", "overlays") for name in names} | {
        "predictions.json", "predictions.csv", "record.json", "done.jsonl",
    }  # fmt: skip
    off = '{"class_path": "callbacks.PredictionPictures", "init_args": {"overlays": false}}'
    workspace.run(*predict(workspace, copied, "--trainer.callbacks+", off), config=False)
    found = content(copied / "predictions")
    # says which pictures there are
    assert found.pop("done.jsonl") != whole["done.jsonl"]
    assert found == {name: one for name, one in whole.items() if "overlays" not in name and name != "done.jsonl"}


def test_the_same_command_again_does_nothing_and_predicts_what_is_new_or_changed(
    workspace: Workspace, copied: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(workspace.folder / "new" / "images", images)
    command = predict(workspace, copied, "--data.predict_path", str(images))
    workspace.run(*command, config=False)
    first = content(copied / "predictions")
    capsys.readouterr()
    workspace.run(*command, config=False)
    assert "12 of 12 images are done already, 0 are left" in capsys.readouterr().out
    assert content(copied / "predictions") == first
    Image.open(images / "05.png").transpose(Image.Transpose.ROTATE_180).save(images / "05.png")
    shutil.copy(images / "00.png", images / "more.png")
    workspace.run(*command, config=False)
    assert "11 of 13 images are done already, 2 are left" in capsys.readouterr().out
    assert "more.png" in files_of(copied)
    second = content(copied / "predictions")
    assert second["overlays/05.png"] != first["overlays/05.png"]
    assert second["masks/more.png"] == first["masks/00.png"]


def test_an_image_that_is_gone_is_in_no_file_any_more(
    workspace: Workspace, copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(workspace.folder / "new" / "images", images)
    command = predict(workspace, copied, "--data.predict_path", str(images))
    workspace.run(*command, config=False)
    (images / "03.png").unlink()
    (images / "sub" / "01.png").rename(images / "more.png")
    capsys.readouterr()
    workspace.run(*command, config=False)
    printed = capsys.readouterr().out
    assert "10 of 11 images are done already, 1 are left" in printed
    assert "predictions of 2 images not among those to predict any more are removed: 03.png, sub/01.png" in printed
    again = content(copied / "predictions")
    shutil.rmtree(copied / "predictions")
    workspace.run(*command, config=False)
    assert content(copied / "predictions") == again
    assert not any("03.png" in name or "sub" in name for name in again)
    # only gone, nothing new
    (images / "more.png").unlink()
    workspace.run(*command, config=False)
    assert "more.png" not in files_of(copied)


def test_what_is_gone_of_a_finished_folder_is_made_again(
    workspace: Workspace, copied: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.run(*predict(workspace, copied), config=False)
    folder = copied / "predictions"
    (folder / "masks" / "02.png").unlink()
    (folder / "overlays" / "sub" / "01.png").write_bytes(b"")
    capsys.readouterr()
    workspace.run(*predict(workspace, copied), config=False)
    assert "10 of 12 images are done already, 2 are left" in capsys.readouterr().out
    assert content(folder) == whole
    (folder / "predictions.json").unlink()
    workspace.run(*predict(workspace, copied), config=False)
    assert "12 of 12 images are done already, 0 are left" in capsys.readouterr().out
    assert content(folder) == whole


def test_two_commands_never_predict_into_one_folder(
    workspace: Workspace, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunLock(copied, PREDICT_LOCK)
    try:
        assert "another predict is writing there" in refusal(capsys, workspace, *predict(workspace, copied))
    finally:
        lock.release()
    assert not (copied / "predictions").exists()


def test_images_of_one_batch_may_differ_in_size(workspace: Workspace, copied: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(workspace.folder / "new" / "images", images)
    for number, size in ((2, (60, 40)), (3, (48, 80)), (5, (33, 97))):
        Image.open(images / f"{number:02d}.png").resize(size).save(images / f"{number:02d}.png")
    written = []
    for batch in ("1", "4"):
        given = ("--data.predict_path", str(images), "--data.eval_batch_size", batch)
        workspace.run(*predict(workspace, copied, *given), config=False)
        written.append(content(copied / "predictions"))
        shutil.rmtree(copied / "predictions")
    assert len(written[0]) == 2 * IMAGES + 4
    assert written[0] == written[1]


def kill_and_go_on(workspace: Workspace, run: Path, name: str, done: int) -> None:
    """Kill a command when some images are done, and start it again."""
    command = predict(workspace, run)
    program = Program(lambda: workspace.run(*command, config=False), workspace.folder / f"{name}.txt")
    parts = run / "predictions" / "parts"
    while not program.has_ended() and sum(file.read_bytes().count(b"\n") for file in parts.glob("*")) < done:
        time.sleep(0.001)
    if not program.has_ended():
        program.send(signal.SIGKILL)
    assert program.finish() in (0, -9)
    workspace.run(*command, config=False)


@pytest.mark.parametrize("done", [0, 1, 7])
def test_a_killed_command_goes_on_to_the_same_folder(
    workspace: Workspace, copied: Path, whole: dict[str, bytes], done: int
) -> None:
    kill_and_go_on(workspace, copied, f"killed_{done}", done)
    assert content(copied / "predictions") == whole


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_a_command_that_is_killed_at_any_moment_goes_on_to_the_same_folder(
    workspace: Workspace, copied: Path, whole: dict[str, bytes], moment: int
) -> None:
    command = predict(workspace, copied)
    program = Program(lambda: workspace.run(*command, config=False), workspace.folder / f"moment_{moment}.txt")
    while not program.has_ended() and not (copied / "predictions" / "record.json").is_file():
        time.sleep(0.001)
    time.sleep(random.Random(moment).uniform(0, 0.6))
    if not program.has_ended():
        program.send(signal.SIGKILL)
    program.finish()
    workspace.run(*command, config=False)
    assert content(copied / "predictions") == whole


def test_a_stopped_command_is_not_mixed_with_another(
    workspace: Workspace, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = predict(workspace, copied, "--trainer.limit_predict_batches", "5")
    workspace.run(*part, config=False)
    assert len(files_of(copied)) == 5
    before = content(copied / "predictions")
    error = refusal(capsys, workspace, *predict(workspace, copied, "--model.test_flip", "true"), config=False)
    assert "was begun with other settings (model.test_flip: False, now True) and is not finished" in error
    other = copied / "latest_lora_step4.ckpt"
    shutil.copy(next(copied.glob("final_*.ckpt")), other)
    (copied / "best").mkdir(exist_ok=True)
    adapter = str(next(path for path in copied.glob("best_merged_*") if path.is_dir()))
    images = ("--data.predict_path", str(workspace.folder / "new" / "images"))
    error = refusal(capsys, workspace, "predict", "--ckpt_path", adapter, *images, config=False)
    assert "was begun with other settings" in error
    assert content(copied / "predictions") == before
    workspace.run(*predict(workspace, copied), config=False)
    assert len(files_of(copied)) == IMAGES
    # a finished one makes room
    workspace.run(*predict(workspace, copied, "--model.test_flip", "true"), config=False)
    assert len(list((copied / "predictions_1" / "masks").rglob("*.png"))) == IMAGES


BAD = {
    "damaged.png": b"\x89PNG\r\n\x1a\n and no more",
    "empty.jpg": b"",
}


def write_bad(folder: Path) -> None:
    for name, bytes_ in BAD.items():
        (folder / name).write_bytes(bytes_)
    Image.fromarray(np.full((32, 48), 40_000, np.uint16)).save(folder / "deep.png")
    cut = (folder / "00.png").read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bad_files_are_named_and_the_others_predicted(
    workspace: Workspace, copied: Path, whole: dict[str, bytes], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], workers: str,
) -> None:  # fmt: skip
    images = tmp_path / "images"
    shutil.copytree(workspace.folder / "new" / "images", images)
    write_bad(images)
    given = ("--data.predict_path", str(images), "--data.num_workers", workers, "--data.eval_batch_size", "3")
    with pytest.raises(SystemExit) as stop:
        workspace.run(*predict(workspace, copied, *given), config=False)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "predict: 4 of 16 images could not be read" in errors[0]
    failed = rows(copied / "predictions" / "failed.csv")
    assert [row["file"] for row in failed] == ["cut.png", "damaged.png", "deep.png", "empty.jpg"]
    for row in failed:
        assert row["reason"] in printed.out
        assert row["file"] in row["reason"]
    assert len(files_of(copied)) == IMAGES
    for name, one in content(copied / "predictions").items():
        if name.startswith(("masks", "overlays")) or name in ("predictions.csv", "predictions.json"):
            assert one == whole[name], name
    for name in ("cut.png", "damaged.png", "deep.png", "empty.jpg"):
        (images / name).unlink()
    shutil.copy(images / "00.png", images / "cut.png")
    workspace.run(*predict(workspace, copied, *given), config=False)
    assert "12 of 13 images are done already, 1 are left" in capsys.readouterr().out
    assert not (copied / "predictions" / "failed.csv").exists()


def test_where_no_file_can_be_read_the_exit_status_is_2(
    workspace: Workspace, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, bytes_ in BAD.items():
        (tmp_path / name).write_bytes(bytes_)
    command = predict(workspace, copied, "--data.predict_path", str(tmp_path))
    assert "predict: none of 2 images could be read" in refusal(capsys, workspace, *command, config=False)
    # a finished folder of other images stays where it is
    workspace.run(*predict(workspace, copied), config=False)
    before = content(copied / "predictions")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        workspace.run(*command, config=False)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "none of 2 images could be read" in printed.err
    assert all(name in printed.out for name in BAD)
    assert content(copied / "predictions") == before
    assert not (copied / "predictions_1").exists()


def test_two_processes_predict_every_file_once_and_write_what_one_does(
    workspace: Workspace, copied: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    (checkpoint,) = copied.glob("final_*.ckpt")
    images = ("--data.predict_path", str(workspace.folder / "new" / "images"))
    part = ("--trainer.limit_predict_batches", "2")
    run_on_ranks(workspace, "predict", "--ckpt_path", str(checkpoint), *images, *part)
    assert len(files_of(copied)) == 4
    run_on_ranks(workspace, "predict", "--ckpt_path", str(checkpoint), *images)
    found = content(copied / "predictions")
    assert found.keys() == whole.keys()
    for name, one in found.items():
        if name not in ("record.json", "done.jsonl"):
            assert one == whole[name], name
    bad = tmp_path / "images"
    shutil.copytree(workspace.folder / "new" / "images", bad)
    write_bad(bad)
    with pytest.raises(SystemExit) as stop:
        run_on_ranks(workspace, "predict", "--ckpt_path", str(checkpoint), "--data.predict_path", str(bad))
    assert stop.value.code == 1
    assert len(files_of(copied)) == IMAGES
    assert len(rows(copied / "predictions" / "failed.csv")) == 4


def test_memory_does_not_grow_with_the_number_of_images(workspace: Workspace, copied: Path, tmp_path: Path) -> None:
    for number in range(300):
        os.link(workspace.folder / "new" / "images" / f"{number % 10 + 2:02d}.png", tmp_path / f"{number}.png")
    notes = tmp_path / "notes"
    callback = {
        "class_path": "tests.app.test_predict.MemoryNotes", "init_args": {"file": str(notes), "after": [100, 300]}
    }  # fmt: skip
    given = ("--data.predict_path", str(tmp_path / "*.png"), "--trainer.callbacks+", json.dumps(callback))
    command = predict(workspace, copied, *given)
    program = Program(lambda: workspace.run(*command, config=False), workspace.folder / "memory.txt")
    assert program.finish() == 0, program.output.read_text()[-2000:]
    early, late = (int(line.split()[1]) for line in notes.read_text().splitlines())
    # a list of the images alone, 32 x 48 x 3 bytes each, would be a megabyte, and of masks in 64 bits two more
    assert late - early < 4096, (early, late)


NOTHING_TRAINED: dict[str, tuple[tuple[str, ...], str]] = {
    "prompted": (("--model.network.prompt_free", "true", "--model.watch", "none"), "class_prompts"),
    "pretraining": ((), "vit.embeddings"),
    "generative": ((), "vision_projection"),
    "classification": ((), "vision_projection"),
    "morph": ((), "classifier"),
    "segmentation": (("--model.network.pretrained", "false"), "encoder"),
}


@pytest.mark.parametrize("task", NOTHING_TRAINED)
def test_without_trained_weights_nothing_is_answered(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also where the head alone is random, over a base that a file fills."""
    args, name = NOTHING_TRAINED[task]
    if task == "morph":
        encoder = pretraining(tmp_path_factory.mktemp("mae")).fit("mae") / "encoder"
        workspace = detection(tmp_path, encoder)
    elif task in ("generative", "classification"):
        workspace = questions(tmp_path, task)
    else:
        workspace = {"prompted": prompted, "pretraining": pretraining, "segmentation": make_workspace}[task](tmp_path)
    error = refusal(capsys, workspace, "predict", "--run_name", "chance", *args)
    assert "ckpt_path: null, and " in error
    assert name in error
    assert "is random" in error
    assert not (workspace.runs / "chance").exists()
