"""What the documents say, taken apart: their commands, options, names, links and blocks of code."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, GUIDE, CONTRIBUTING = ROOT / "README.md", ROOT / "LORA_README.md", ROOT / "CONTRIBUTING.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMES = ROOT / "docs" / "names.md"
BENCHMARKS = ROOT / "benchmarks" / "README.md"
# of what was; it names what is no longer there
CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [README, GUIDE, CONTRIBUTING, ROOT / "SECURITY.md", BENCHMARKS, *PAGES]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# the program, as it is called in a clone and where it is installed
PROGRAM = r"(?:python main\.py|eomt(?= (?:fit|validate|test|predict|inspect|merge) )) "
COMMENTED = re.compile(rf"^\s*#? ?({PROGRAM}[^`\n]*)", re.MULTILINE)
INLINE = re.compile(rf"`({PROGRAM}[^`\n]*)`")
SMALL = re.compile(r"(?:^\s*|`)eomt ((?:configs|completion|--version)[^`#>\n]*)", re.MULTILINE)
# a row of a table that will be true once this task or file is there
MISSING = re.compile(r" \(not in this version: ([\w./]+)\)")
# words of the documents that stand for something of the reader's
PLACEHOLDERS = {"CONFIG": "configs/quickstart/eomt.yaml"}


def text_of(path: Path) -> str:
    """Return the text of a document, lines that end with a backslash joined with the next."""
    return re.sub(r"\\\n\s*", "", path.read_text())


def blocks(path: Path, language: str) -> list[str]:
    """Return the blocks of code of a language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def commands(path: Path) -> list[str]:
    """Return the commands of the program: lines that begin with one, and code within a line."""
    text = text_of(path)
    found = [
        re.sub(r"^eomt ", "python main.py ", match.strip()) for match in COMMENTED.findall(text) + INLINE.findall(text)
    ]
    return [" ".join(PLACEHOLDERS.get(word, word) for word in command.split(" ")) for command in found]


def small_commands(path: Path) -> list[list[str]]:
    """Return the words of each command that makes no run, such as `eomt configs`, without the first."""
    return [shlex.split(command) for command in SMALL.findall(text_of(path))]


def module_commands(path: Path) -> list[list[str]]:
    """Return the words of each `python -m MODULE ...`, without the first two."""
    found = re.findall(r"(?:^\s*|`)python -m ([^`\n]*)", text_of(path), re.MULTILINE)
    return [shlex.split(command, comments=True) for command in found]


def present_text(path: Path) -> str:
    """Return the prose: without blocks of code, first cells of rows (other projects' names) and things yet to come."""
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not MISSING.search(line)]
    return "\n".join(re.split(r"(?<!\\)\|", line, maxsplit=2)[-1] if line.startswith("|") else line for line in lines)


def options(path: Path) -> set[str]:
    """Return the options that stand alone in a line: `--model.lr 1e-4`."""
    return set(re.findall(r"`(--[a-z][^`]*)`", present_text(path)))


def names(path: Path) -> set[str]:
    """Return the dotted names of this project."""
    named = re.findall(r"`([^`]+)`", present_text(path))
    return {name for name in named if re.fullmatch(r"(eomt|callbacks|datamodules)(\.\w+)+", name)}


def files(path: Path) -> set[str]:
    """Return the files of this project that are named, relative to its root."""
    named = re.findall(r"`([^`]+)`", present_text(path))
    return {name for name in named if re.fullmatch(r"[\w/]+\.(py|yaml)", name) and "/" in name}


def links(path: Path) -> set[str]:
    """Return the links to other documents and to headings, as they stand there."""
    return set(re.findall(r"\]\((?!http)([^)]+)\)", path.read_text()))


def anchors(path: Path) -> set[str]:
    """Return what a link to each heading ends with."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
