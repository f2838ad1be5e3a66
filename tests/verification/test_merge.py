"""`python main.py merge`: what it writes opens alone and answers alike; what it refuses leaves nothing."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import eomt.app.trainer
from eomt.errors import UserError
from eomt.lora.files import fill
from eomt.models import EoMT
from eomt.models.network import Network
from eomt.models.weights.files import read_weights
from eomt.verification.merging import is_merged_folder, write_merged
from tests.cli_runs import Workspace, make_workspace, refusal


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("merge"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first")


def best(run: Path) -> Path:
    return next(run.glob("best_lora_*.ckpt"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["ckpt", "adapter", "best"])
def test_what_is_written_is_what_merge_on_save_wrote(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    given = {"ckpt": str(best(run)), "adapter": str(best(run).with_suffix("")), "best": "best"}[source]
    name = ("--run_name", "first") if source == "best" else ()
    before = sorted(workspace.folder.rglob("*"))
    capsys.readouterr()
    workspace.run("merge", "--ckpt_path", given, "--output", str(tmp_path / "merged"), *name, config=False)
    saved = files(next(run.glob("best_merged_*")))
    written = files(tmp_path / "merged")
    assert yaml.safe_load(written.pop("config.yaml")) == yaml.safe_load(saved.pop("config.yaml"))
    assert written == saved
    assert sorted(workspace.folder.rglob("*")) == before
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Merged 24 adapters: answers differ by ")
    assert printed[0].endswith("on the first validation batch")


def test_latest_is_merged_too_and_a_merged_folder_is_replaced(workspace: Workspace, run: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    for given in ("latest", str(best(run))):
        workspace.run("merge", "--ckpt_path", given, "--run_name", "first", "--output", str(output), config=False)
        assert is_merged_folder(output, EoMT.files)
    assert files(output)["model.safetensors"] == files(next(run.glob("best_merged_*")))["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_written_folder_validates_alone_at_the_run_s_score(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "merged")
    workspace.run("merge", "--ckpt_path", str(best(run)), "--output", output, config=False)
    capsys.readouterr()
    workspace.run("validate", "--ckpt_path", output, config=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│") and " val_iou " in line]
    assert f"iou{float(line.strip('│ ').split('│')[1]):.4f}" in best(run).name


def test_without_the_data_a_synthetic_batch_compares(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, args in enumerate((("--data", "null"), ("--data.path", "nowhere"))):
        capsys.readouterr()
        output = str(tmp_path / f"merged{number}")
        workspace.run("merge", "--ckpt_path", str(best(run)), "--output", output, *args, config=False)
        assert "on a synthetic batch (" in capsys.readouterr().out
        assert files(Path(output))["model.safetensors"] == files(next(run.glob("best_merged_*")))["model.safetensors"]


def test_an_adapter_away_from_its_run_needs_the_config(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(best(run).with_suffix(""), tmp_path / "away" / "adapter")
    args = ("merge", "--ckpt_path", str(tmp_path / "away" / "adapter"), "--output", str(tmp_path / "merged"))
    error = refusal(capsys, workspace, *args, config=False)
    assert "no config.yaml" in error
    assert "--config" in error
    workspace.run(*args)
    assert (
        files(tmp_path / "merged")["model.safetensors"] == files(next(run.glob("best_merged_*")))["model.safetensors"]
    )


def test_full_fine_tuning_is_written_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    full = workspace.fit("full", "--model.lora_config", "null", "--trainer.max_epochs", "1")
    workspace.run("merge", "--ckpt_path", str(best(full)), "--output", str(tmp_path / "merged"), config=False)
    trained = torch.load(best(full), weights_only=True)["state_dict"]
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert {name.removeprefix("network.") for name in trained} == set(written)
    assert all(torch.equal(value, written[name.removeprefix("network.")]) for name, value in trained.items())


def test_answers_that_differ_leave_no_file(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eomt.app.trainer, "merged_copy", lambda network, *_: (network, float("nan"), float("nan")))
    args = ("--ckpt_path", str(best(run)), "--output", str(tmp_path / "merged"))
    assert "differ by nan" in refusal(capsys, workspace, "merge", *args, config=False)
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_never_replaced(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(workspace.folder / "base", base)
    (base / "README.md").write_text("somebody's")
    for output in (base, run, best(run).with_suffix(""), workspace.config):
        before = files(output) if output.is_dir() else output.read_bytes()
        args = ("--ckpt_path", str(best(run)), "--output", str(output))
        assert "exists and is no merged model" in refusal(capsys, workspace, "merge", *args, config=False)
        assert before == (files(output) if output.is_dir() else output.read_bytes())
    args = ("--ckpt_path", str(best(run)), "--output", str(workspace.config / "below"))
    assert "is a file" in refusal(capsys, workspace, "merge", *args, config=False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--output", "x"), "ckpt_path: null"),
        (("--ckpt_path", "BEST"), "output: null"),
        (("--ckpt_path", "MERGED", "--output", "x"), "is merged already"),
        (("--ckpt_path", "nowhere", "--output", "x"), "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(
    workspace: Workspace,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"BEST": str(best(run)), "MERGED": str(next(run.glob("best_merged_*")))}
    assert message in refusal(capsys, workspace, "merge", *(places.get(arg, arg) for arg in args))
    assert list(tmp_path.iterdir()) == []


class Tied(Network):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        """index: (B,) -> (B, 5)."""
        return self.head(self.embed(index))


def test_a_tied_weight_is_written_once_and_read_back_under_both_names(tmp_path: Path) -> None:
    network, other = Tied(), Tied()
    write_merged(network, tmp_path / "merged", None)
    state = read_weights(tmp_path / "merged")
    assert set(state) == {"embed.weight"}
    fill(other, state, "ckpt_path")
    assert torch.equal(other.head.weight, network.embed.weight)
    assert other.head.weight is other.embed.weight
    with pytest.raises(UserError, match="1 tensors are missing"):
        fill(other, {}, "ckpt_path")


def test_weights_that_somebody_else_wrote_are_never_replaced(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16: the base of a run was taken for a merged model, since it holds a file of the same name."""
    before = files(workspace.folder / "base")
    args = ("--ckpt_path", str(best(run)), "--output", str(workspace.folder / "base"))
    assert "exists and is no merged model" in refusal(capsys, workspace, "merge", *args, config=False)
    assert files(workspace.folder / "base") == before


def test_what_the_run_reads_is_never_replaced(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A merged folder may be the base of a run: with it replaced, no checkpoint of that run opens."""
    base, link = tmp_path / "base", tmp_path / "link"
    shutil.copytree(next(run.glob("best_merged_*")), base)
    link.symlink_to(base)
    before = files(base)
    second = workspace.fit("second", "--model.network.pretrained", str(base), "--trainer.max_epochs", "1")
    for output in (base, link, tmp_path / "x" / ".." / "base"):
        args = ("merge", "--ckpt_path", str(best(second)), "--output", str(output))
        assert "holds model.network.pretrained" in refusal(capsys, workspace, *args, config=False)
    assert files(base) == before


@pytest.mark.parametrize("command", ["merge", "inspect", "validate"])
def test_a_run_that_does_not_hold_the_weights_is_refused(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    output = ("--output", str(tmp_path / "merged")) if command == "merge" else ()
    args = (command, "--ckpt_path", str(best(run)), "--run_name", "nowhere", *output)
    assert "run_name: 'nowhere', but the checkpoint belongs to" in refusal(capsys, workspace, *args, config=False)
    assert list(tmp_path.iterdir()) == []
