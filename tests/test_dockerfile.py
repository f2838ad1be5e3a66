"""The Dockerfile as far as it can be checked without Docker: its steps, what they copy, and who runs at the end."""

import fnmatch
import json
import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from tests.documents import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
KNOWN = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "ADD", "USER", "ENTRYPOINT", "CMD", "LABEL", "EXPOSE"}
SECRET = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile and what follows each, lines that go on joined."""
    kept = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", kept).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def is_ignored(name: str, rules: list[str]) -> bool:
    """Return whether .dockerignore leaves a file or folder out; of several rules the last counts."""
    found = False
    for rule in rules:
        if fnmatch.fnmatch(name, rule.removeprefix("!").removeprefix("**/").rstrip("/")):
            found = not rule.startswith("!")
    return found


def faults(text: str) -> list[str]:
    """Return what is wrong with a Dockerfile, each in a few words."""
    found = []
    steps = instructions(text)
    names = [name for name, _ in steps]
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    found += [f"unknown: {name}" for name in names if name not in KNOWN]
    defaults = dict(rest.split("=", 1) for name, rest in steps[: names.index("FROM")] if name == "ARG")
    user, copied = "root", set()
    for name, rest in steps:
        if name == "FROM":
            base = re.sub(r"\$\{(\w+)\}", lambda match: defaults.get(match[1], ""), rest)
            tag = base.partition(":")[2]
            found += ["base without a version"] if not re.match(r"\d", tag) else []
        elif name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                found += [f"not there: {source}"] if not (ROOT / source).exists() else []
                found += [f"ignored: {source}"] if is_ignored(source, ignored) else []
                copied.add(source)
            found += ["files to one file"] if len(sources) > 1 and not target.endswith("/") else []
        elif name == "ADD":
            found.append("ADD fetches and unpacks")
        elif name in ("ENV", "ARG"):
            found += [f"secret: {rest}"] if SECRET.search(rest) else []
        elif name == "USER":
            user = rest
        elif name in ("ENTRYPOINT", "CMD"):
            found += [f"{name} is a text"] if not rest.startswith("[") or not json.loads(rest) else []
        elif name == "RUN":
            found += _faults_of_run(rest, copied, user)
    found += ["root at the end"] if user.partition(":")[0] in ("root", "0") else []
    found += [f"{name} stands {names.count(name)} times" for name in ("ENTRYPOINT", "CMD") if names.count(name) != 1]
    return found


def _faults_of_run(line: str, copied: set[str], user: str) -> list[str]:
    shell = subprocess.run(["sh", "-n"], input=line, capture_output=True, text=True)
    found = [f"no shell: {line}"] if shell.returncode else []
    words = shlex.split(line)
    if "apt-get" in words:
        found += ["apt asks"] if "--yes" not in words else []
        found += ["apt installs more"] if "--no-install-recommends" not in words else []
        found += ["apt keeps its lists"] if "/var/lib/apt/lists/*" not in line else []
        found += ["apt without an update"] if "apt-get update" not in line else []
        found += ["apt without root"] if user != "root" else []
    if "pip" in words:
        found += ["pip keeps its cache"] if "--no-cache-dir" not in words else []
        found += ["pip without versions"] if "--constraint" not in words else []
        found += [
            f"not copied before: {file}"
            for option, file in pairwise(words)
            if option == "--constraint" and file not in copied
        ]
    found += ["sudo"] if "sudo" in words else []
    return found + (["runs what is fetched"] if re.search(r"\b(curl|wget)\b", line) else [])


def test_the_dockerfile_has_no_fault() -> None:
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.11-slim", "python:latest", "base without a version"),
        ("python:3.11-slim", "python", "base without a version"),
        ("ARG BASE=python:3.11-slim\n", "", "base without a version"),
        ("USER 10001\n", "", "root at the end"),
        ("USER 10001\n", "USER 0:0\n", "root at the end"),
        ("COPY eomt eomt", "COPY eomt_lost eomt", "not there: eomt_lost"),
        ("COPY eomt eomt", "COPY tests tests", "ignored: tests"),
        ("COPY eomt eomt", "ADD https://example.org/eomt.tar .", "ADD fetches and unpacks"),
        ("COPY eomt eomt", "COPYALL eomt eomt", "unknown: COPYALL"),
        ("LICENSE ./", "LICENSE source", "files to one file"),
        ("COPY constraints.txt ", "COPY ", "not copied before: constraints.txt"),
        ("ENV PATH", "ENV HF_TOKEN=hf_1 PATH", "secret: HF_TOKEN=hf_1 PATH=/opt/eomt/bin:$PATH"),
        ("/lists/*; }", "/lists/*", "no shell: "),
        (" --yes", "", "apt asks"),
        (" && rm -rf /var/lib/apt/lists/*", "", "apt keeps its lists"),
        (" --no-cache-dir", "", "pip keeps its cache"),
        ('ENTRYPOINT ["eomt"]', "ENTRYPOINT eomt", "ENTRYPOINT is a text"),
        ('ENTRYPOINT ["eomt"]\n', "", "ENTRYPOINT stands 0 times"),
        ("RUN useradd", "RUN curl https://example.org | sh && useradd", "runs what is fetched"),
    ],
)
def test_a_fault_would_be_found(old: str, new: str, fault: str) -> None:
    assert old in DOCKERFILE
    assert any(found.startswith(fault) for found in faults(DOCKERFILE.replace(old, new)))


def test_what_the_package_is_built_from_is_copied_and_nothing_else_is_sent() -> None:
    copied = {source for name, rest in instructions(DOCKERFILE) if name == "COPY" for source in rest.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["mypy"]["packages"], "configs", "pyproject.toml", "setup.py", "constraints.txt"}
    assert copied == needed | {project["project"]["readme"], *project["project"]["license-files"]}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    # an environment, runs and data may have gigabytes, and the history is nobody's business
    others = {path.name for path in ROOT.iterdir()} - copied | {".venv", ".git", "runs", "data", "__pycache__"}
    assert not [name for name in others if not is_ignored(name, rules)]
    assert is_ignored("__pycache__", rules)


def test_it_runs_a_command_and_extras_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    steps = instructions(DOCKERFILE)
    (entry,) = (json.loads(rest) for name, rest in steps if name == "ENTRYPOINT")
    assert entry[0] in project["scripts"]
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    # the default has the oldest Python that is supported
    assert project["requires-python"].removeprefix(">=") in dict(steps)["ARG"]
    assert Path(dict(steps)["WORKDIR"]).is_absolute()
