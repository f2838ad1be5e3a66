"""The files around the code say what the code is: version, license, Python, rooms, checks."""

import re
import tomllib
from typing import Any

import pytest
import yaml

import eomt
from tests.documents import CHANGELOG, ROOT


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_citation_is_of_this_version(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["title"] == project["project"]["name"]
    assert citation["license"] == project["project"]["license"]
    assert str(citation["version"]) == eomt.__version__


def test_the_changelog_has_this_version_and_what_comes_after() -> None:
    titles = re.findall(r"^## \[?([\w.]+)\]?", CHANGELOG.read_text(), re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert eomt.__version__ in titles
    kinds = set(re.findall(r"^### (.+)$", CHANGELOG.read_text(), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_package_of_the_wheel_says_that_it_has_types(project: dict[str, Any]) -> None:
    for name in project["tool"]["mypy"]["packages"]:
        assert (ROOT / name / "py.typed").is_file()
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]


def test_continuous_integration_runs_what_a_clean_clone_does(project: dict[str, Any]) -> None:
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert job["runs-on"] == "ubuntu-latest"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    (python,) = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
    assert project["project"]["requires-python"] == f">={python['python-version']}"
    assert python["cache"] == "pip"


def test_the_hooks_before_a_commit_are_those_of_make_lint() -> None:
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    assert source["repo"] == "local"
    assert {hook["id"] for hook in source["hooks"]} == {"ruff-check", "ruff-format", "mypy"}
    for hook in source["hooks"]:
        assert hook["entry"].removesuffix(" --fix") in makefile


def test_page_and_drawing_of_the_house_show_the_floors_that_are_checked(project: dict[str, Any]) -> None:
    (contract,) = [one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    rooms = [room.strip() for floor in contract["layers"] for room in re.split(r"[|:]", floor)]
    assert len(rooms) == 20
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawing = (ROOT / "docs" / "architecture.svg").read_text()
    heights = {name: int(y) for y, name in re.findall(r'y="(\d+)"[^>]*>(?:<tspan[^>]*>)?([\w.]+)<', drawing)}
    for room in rooms:
        assert f"`{room}`" in page
        assert room in heights
    floors = [[room.strip() for room in re.split(r"[|:]", floor)] for floor in contract["layers"]]
    levels = [[heights[room] for room in floor] for floor in floors]
    assert all(len(set(level)) == 1 for level in levels)
    assert levels == sorted(levels)
