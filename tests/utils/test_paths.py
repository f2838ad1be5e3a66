"""Paths are known by their type, and expanded in one place."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from jsonargparse import ArgumentParser

from eomt.errors import UserError
from eomt.utils.paths import PathOrName, expand, expand_name, is_path_type, path_fields


class Base:
    def __init__(self, path: Path, other: str, word: Path | None = None) -> None:
        self.path = path


class Derived(Base):
    def __init__(
        self, folder: Path | None = None, weights: bool | Path = True, source: PathOrName | None = None,
        sets: dict[str, Path] | list[Path] | None = None, word: str | None = None, size: int = 1, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.given = {"folder": folder, "weights": weights, "source": source, "sets": sets}


@pytest.mark.parametrize(
    "annotation",
    [Path, Path | None, bool | Path, PathOrName, PathOrName | dict[str, Any], list[Path], dict[str, Path] | None]
    + [list[dict[str, Path]], tuple[Path, int], Annotated[Path, "folder"], type(Path("x"))],
)
def test_whatever_holds_a_path_is_a_path_type(annotation):
    assert is_path_type(annotation)


@pytest.mark.parametrize(
    "annotation", [str, bool, str | None, list[str], dict[str, int], Literal["Path"], Any, "Path", None]
)
def test_nothing_else_is(annotation):
    assert not is_path_type(annotation)


def test_path_fields_are_found_through_base_classes_and_a_derived_type_goes_first():
    assert path_fields(Base) == {"path", "word"}
    assert path_fields(Derived) == {"path", "folder", "weights", "source", "sets"}


@pytest.mark.parametrize("path", ["~/images", Path("~/images")])
def test_the_home_folder_is_expanded(path, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand(path) == Path("/somewhere/images")
    assert expand_name(path) == "/somewhere/images"


@pytest.mark.parametrize("path", ["images/train", "../images", "/images"])
def test_any_other_path_stays_as_it_is(path):
    assert expand(path) == Path(path)
    assert expand_name(path) == path


def test_no_path_stays_none():
    assert expand(None) is None


def test_the_name_of_a_repository_stays_as_it_is():
    assert expand_name("facebook/dinov2-base") == "facebook/dinov2-base"


def parsed(*arguments):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Base, "data")
    config = parser.parse_args(["--data", f"{__name__}.Derived", "--data.path=p", "--data.other=o", *arguments])
    return config.data.init_args, yaml.safe_load(parser.dump(config, skip_none=False))["data"]["init_args"]


@pytest.mark.parametrize(
    ("argument", "value", "saved"),
    [
        ("folder=images", Path("images"), "images"),
        ("folder=2024", Path("2024"), "2024"),
        ("folder=null", None, None),
        ("weights=false", False, False),
        ("weights=true", True, True),
        ("weights=runs/best", Path("runs/best"), "runs/best"),
        ("source=facebook/dinov2-base", "facebook/dinov2-base", "facebook/dinov2-base"),
        ("source=null", None, None),
        ("sets=[a, b]", [Path("a"), Path("b")], ["a", "b"]),
        ("sets={x: a}", {"x": Path("a")}, {"x": "a"}),
    ],
)
def test_the_command_line_makes_paths_of_path_types_and_saves_plain_text(argument, value, saved):
    given, file = parsed(f"--data.{argument}")
    name = argument.partition("=")[0]
    assert given[name] == value
    assert isinstance(given[name], type(value))
    assert file[name] == saved


def test_a_path_that_no_record_could_hold_is_refused():
    for read in (expand, expand_name, lambda path: expand(Path(path))):
        with pytest.raises(UserError, match=r"/data/caf\\udce9: is no name in UTF-8"):
            read("/data/caf\udce9")
