"""Files whose names are no UTF-8 are refused before anything is trained or predicted: no record could hold them."""

import os
import shutil

import pytest

from tests.cli_runs import Workspace, make_workspace, refusal

LATIN_1 = os.fsdecode(b"caf\xe9.png")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("names"))
    for kind in ("images", "masks"):
        folder = workspace.folder / "seeded" / kind
        shutil.copytree(workspace.folder / "data" / "train" / kind, folder)
        (folder / "00.png").rename(folder / LATIN_1)
    return workspace


def test_a_fit_is_refused_and_leaves_no_run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """It wrote the name into splits.json, which neither a test nor a resume of the run could read."""
    error = refusal(capsys, workspace, "fit", "--run_name", "a", "--data.path", str(workspace.folder / "seeded"))
    assert r"seeded/images/caf\udce9.png: is no name in UTF-8" in error
    assert not (workspace.runs / "a").exists()


def test_a_predict_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    images = str(workspace.folder / "seeded" / "images")
    error = refusal(capsys, workspace, "predict", "--data.predict_path", images, "--audit.allow_random_base", "true")
    assert r"caf\udce9.png: is no name in UTF-8" in error


def test_so_are_arguments_and_the_folder_where_a_command_runs(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace.folder / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    assert r"/caf\udce9: is no name in UTF-8" in refusal(capsys, workspace, "fit", "--data.path", str(folder))
    monkeypatch.chdir(folder)
    assert r"/caf\udce9: is no name in UTF-8" in refusal(capsys, workspace, "fit", "--data.path", "a")
