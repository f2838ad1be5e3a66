"""`demo` opens weights as other commands do, and says in one line what it cannot show."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eomt
from eomt.demo.models import BASE, Models
from tests.cli_runs import Workspace, make_workspace, refusal
from tests.documents import ROOT


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    found = make_workspace(tmp_path_factory.mktemp("demo"))
    found.fit("run")
    return found


def adapter(workspace: Workspace) -> Path:
    return next((workspace.runs / "run").glob("best_lora_step*.ckpt")).with_suffix("")


def test_a_demo_answers_as_the_run_does_and_switches_its_adapters(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Models, Any, Any]] = []
    monkeypatch.setattr("eomt.app.demonstration.serve", lambda *given: served.append(given))
    given = ["--ckpt_path", "best", "--run_name", "run", "--trainer.default_root_dir", str(workspace.runs)]
    others = ["--adapter", f"one={adapter(workspace)}", "--adapter", f"two={adapter(workspace)}"]
    workspace.run("demo", *given, *others, "--port", "7999", config=False)
    ((models, host, port),) = served
    assert (host, port) == ("127.0.0.1", 7999)
    assert models.names == ["adapted", "one", "two", BASE]
    image = next((workspace.folder / "data" / "test" / "images").iterdir())
    expected = eomt.load(workspace.runs / "run", "cpu").predict(image, anomaly=["rba"])  # type: ignore[attr-defined]
    for name in ("adapted", "one", "two"):
        with models.using(name) as predictor:
            found = predictor.predict(image, anomaly=["rba"])  # type: ignore[attr-defined]
        np.testing.assert_allclose(found.anomaly["rba"], expected.anomaly["rba"], atol=1e-5)
        assert list(found.class_names) == list(expected.class_names)


def test_what_cannot_be_shown_is_said_in_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "ckpt_path: null" in refusal(capsys, workspace, "demo")
    given = ("demo", "--ckpt_path", str(adapter(workspace)))
    assert "give NAME=FOLDER" in refusal(capsys, workspace, *given, "--adapter", "night", config=False)
    missing = refusal(capsys, workspace, *given, "--adapter", f"night={tmp_path}", config=False)
    assert "adapter_config.json" in missing
    assert "port: 70000" in refusal(capsys, workspace, *given, "--port", "70000", config=False)
    assert "host: '192.0.2.1'" in refusal(capsys, workspace, *given, "--host", "192.0.2.1", config=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install -e '.[demo]'" in refusal(capsys, workspace, *given, "--port", "0", config=False)


@pytest.mark.slow
def test_ctrl_c_ends_a_demo_without_a_word(workspace: Workspace) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    command = [sys.executable, "main.py", "demo", "--ckpt_path", str(adapter(workspace)), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def heed_interrupts() -> None:
        # what is started in the background of a shell inherits that they are ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=heed_interrupts, **pipes) as demo:
        # one that never ends is a failure, and holds up nothing
        deadline = threading.Timer(180, demo.kill)
        deadline.start()
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if re.search(r"http://127\.0\.0\.1:\d+/", line):
                    break
            demo.send_signal(signal.SIGINT)
            rest = demo.stdout.read()
        finally:
            deadline.cancel()
    assert demo.returncode == 130, rest
    assert "Traceback" not in rest
