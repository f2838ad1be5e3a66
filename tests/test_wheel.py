"""The wheel works outside the checkout: it is built, installed in a fresh environment and used from another folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import eomt
from eomt.app.shipped import shipped_names
from tests.documents import ROOT

PACKAGES = ("eomt", "callbacks", "datamodules")
# tests and benchmarks are there to be left out
SOURCES = (*PACKAGES, "configs", "tests", "benchmarks", "setup.py", "pyproject.toml", "README.md", "LICENSE")
FEW_IMAGES = ("--data.num_train", "8", "--data.num_val", "4", "--data.num_test", "4")
FEW_STEPS = ("--trainer.max_steps", "4", "--trainer.val_check_interval", "4")

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path) -> str:
    """Run a command without this checkout on Python's path; return what it printed."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "COVERAGE_PROCESS_START")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, without what else lies in it, such as an earlier build."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    build = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    run(*build, folder / "dist", source, folder=folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `eomt` in a fresh environment, which has the wheel, and all other packages from this one's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = ("--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel)
    run(sys.executable, "-m", "pip", *install, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # of the folders named here no .pth file is read, so that no editable install in them counts
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib"))
    for name in PACKAGES:
        place = run(python, "-c", f"import {name}; print({name}.__file__)", folder=folder).strip()
        assert place == str(packages / name / "__init__.py")
    return folder / "bin" / "eomt"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def test_the_wheel_holds_packages_configs_and_license_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if not name.endswith("/")}
        records = {name for name in names if ".dist-info/" in name}
        metadata = opened.read(next(name for name in records if name.endswith("METADATA"))).decode()
    info = f"eomt-{eomt.__version__}.dist-info"
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "eomt" / "reports" / "templates").iterdir()}
    expected.add("eomt/demo/pages/drag.js")
    # a program that made a base is none of the package
    expected |= {
        f"eomt/{path.relative_to(ROOT)}"
        for path in (ROOT / "configs").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert names - records == expected
    assert len([name for name in expected if name.startswith("eomt/configs/") and name.endswith(".yaml")]) == 23
    assert f"{info}/licenses/LICENSE" in records
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_it_answers_from_another_folder(program: Path, elsewhere: Path) -> None:
    assert run(program, "--version", folder=elsewhere) == f"eomt {eomt.__version__}\n"
    listed = run(program, "configs", folder=elsewhere)
    assert [line.split()[0] for line in listed.splitlines()] == shipped_names()
    assert run(program, "configs", "copy", "eomt_lora", "mine", folder=elsewhere) == "mine/eomt_lora.yaml\n"
    assert (elsewhere / "mine" / "eomt_lora.yaml").read_text() == (ROOT / "configs" / "eomt_lora.yaml").read_text()
    refused = subprocess.run([program, "fit", "--config", "eomt_lorra"], cwd=elsewhere, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "the name of a shipped one: eomt_lora, " in refused.stderr


def test_a_quickstart_runs_from_another_folder(program: Path, elsewhere: Path) -> None:
    run(program, "fit", "--config", "quickstart/eomt", *FEW_IMAGES, *FEW_STEPS, folder=elsewhere)
    (made,) = (elsewhere / "runs").iterdir()
    # named after the file, as with a path
    assert re.fullmatch(r"eomt_r8_a16_lr3e-3_\d{8}-\d{6}", made.name)
    run(program, "test", "--config", "quickstart/eomt", *FEW_IMAGES, "--ckpt_path", "best", folder=elsewhere)
    run(program, "predict", "--ckpt_path", "best", folder=elsewhere)
    summary = json.loads((made / "training_summary.json").read_text())
    # what was drawn lies in the user's folder, and the base that was adapted in the package
    assert (elsewhere / "data" / "streets_night").is_dir()
    base = program.parents[1] / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    assert str(base / "eomt" / "configs" / "quickstart" / "eomt_base") in (made / "config.yaml").read_text()
    assert summary["merge_relative_diff"] <= 1e-4
    assert len(list((made / "results").glob("*_eval.json"))) == 1
    assert len(list((made / "predictions" / "masks").glob("*.png"))) == 4
