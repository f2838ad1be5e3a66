"""Texts on the command line and names in YAML are what was written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from jsonargparse import Namespace

from eomt.app.names import load, plain, read_yaml_by_our_rules
from eomt.app.parser import Parser
from eomt.errors import UserError


class Component:
    """What a component of the command line derives from."""


class Holder(Component):
    """A component with another one in it."""

    def __init__(self, inner: Component | None = None) -> None: ...


class Fields(Component):
    """A component with fields of the usual types."""

    def __init__(
        self,
        question: str | None = None,
        word: str = "word",
        names: list[str] | None = None,
        weights: dict[str, float] | None = None,
        sizes: list[int] | None = None,
        flag: bool = False,
        number: float | None = 1.0,
        anything: dict[str, Any] | None = None,
    ) -> None: ...


def parsed(*arguments: str) -> dict[str, Any]:
    """Return the fields of a component from the command line."""
    read_yaml_by_our_rules()
    parser = Parser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Component, "data")
    found = plain(parser.parse_args(["--data", f"{__name__}.Fields", *arguments]))
    assert parser.dump(found)
    return dict(vars(found.data.init_args))


TEXTS = [
    "Which one: left or right?", "# 1", "- a", "a: b: c", "{a}", "[a", "{a: b}", "no", "on", "1e3", "007", "yes: no",
    "&a", "'quoted'", "What? # really", "2024-01-01", "!tag", "*", "a:", "? a", "[left, right]", "~",
]  # fmt: skip


@pytest.mark.parametrize("field", ["question", "word"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_was_written(field: str, text: str) -> None:
    """15.24: a question with ": " was a mapping, and one that began with # nothing."""
    assert parsed(f"--data.{field}", text)[field] == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_a_component_in_another_is_what_was_written(text: str) -> None:
    read_yaml_by_our_rules()
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(Component, "data")
    classes = ["--data", f"{__name__}.Holder", "--data.inner", f"{__name__}.Fields"]
    found = plain(parser.parse_args([*classes, "--data.inner.question", text]))
    assert found.data.init_args.inner.init_args.question == text


def test_null_is_still_none_where_it_may_be() -> None:
    assert parsed("--data.question", "null")["question"] is None
    assert parsed("--data.names", "null")["names"] is None


@dataclass
class Settings:
    """Settings as a component takes them."""

    kind: Literal["a", "b"] | None = "a"
    text: str | None = "text"
    several: list[int] | str | None = "all"


class WithSettings(Component):
    """A component with settings."""

    def __init__(self, settings: Settings | None = None) -> None: ...


@pytest.mark.parametrize("field", ["kind", "text", "several"])
def test_null_is_none_in_the_settings_of_a_component(field: str) -> None:
    read_yaml_by_our_rules()
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(Component, "data")
    classes = ["--data", f"{__name__}.WithSettings", "--data.settings.kind", "b"]
    found = plain(parser.parse_args([*classes, f"--data.settings.{field}", "null"])).data.init_args.settings
    assert found == Namespace(**{"kind": "b", "text": "text", "several": "all", field: None})


NAMES = [
    ("[bg, no]", ["bg", "no"]),
    ("[no, yes, on, off]", ["no", "yes", "on", "off"]),
    ("[bg, 1e3, null, 5, true, ~, 1.50]", ["bg", "1e3", "null", "5", "true", "~", "1.50"]),
    ("['a: b', it's]", ["a: b", "it's"]),
    (r"['re:blocks\.\d+', x]", [r"re:blocks\.\d+", "x"]),
    ("[]", []),
]


@pytest.mark.parametrize("place", ["command line", "file"])
@pytest.mark.parametrize(("text", "expected"), NAMES)
def test_names_in_a_list_are_what_was_written(text: str, expected: list[str], place: str, tmp_path: Path) -> None:
    """15.24: `class_names: [bg, no]` was refused, for `no` was false."""
    arguments = ["--data.names", text]
    if place == "file":
        (tmp_path / "a.yaml").write_text(
            f"data:\n  class_path: {__name__}.Fields\n  init_args:\n    names: {text}\n    flag: yes\n"
        )
        arguments = ["--config", str(tmp_path / "a.yaml")]
    found = parsed(*arguments)
    assert found["names"] == expected
    assert type(found["names"]) is list
    assert found["flag"] == (place == "file")


def test_other_values_are_read_as_before() -> None:
    found = parsed(
        *("--data.sizes", "[1, 2]", "--data.weights", "{no: 2, count: 1.5}", "--data.flag", "yes"),
        *("--data.number", "1e3"),
        *("--data.anything", "{model_type: bert, hidden_size: 8, tied: true, none: null, list: [1, 2.5, true]}"),
    )  # fmt: skip
    assert (found["sizes"], found["flag"], found["number"]) == ([1, 2], True, 1000.0)
    assert found["weights"] == {"no": 2.0, "count": 1.5}
    assert found["anything"] == {
        **{"model_type": "bert", "hidden_size": 8, "tied": True, "none": None, "list": [1, 2.5, True]}
    }
    assert type(found["weights"]) is type(found["anything"]) is dict


def test_numbers_alone_are_no_names() -> None:
    with pytest.raises(UserError, match="must be a text"):
        parsed("--data.names", "[1, 2]")


def test_merged_mappings_and_nested_lists_of_a_file_are_kept() -> None:
    text = "a: &a {x: 1, y: [2, no]}\nb:\n  <<: *a\n  z: [[1, 2], [no, b]]\n"
    expected = yaml.safe_load(text.replace("no", "'no'"))
    found = load(text)
    assert found["a"] == {"x": 1, "y": [2, "no"]} | {"y": ["2", "no"]}
    assert found["b"]["z"] == expected["b"]["z"]
