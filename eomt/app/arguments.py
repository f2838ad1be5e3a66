"""The arguments of a command before they are parsed: what is given counts wherever it stands, or is refused."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from eomt.app.shipped import config_path
from eomt.errors import UserError
from eomt.utils.paths import check_text, expand_name
from eomt.utils.yaml_bounds import YAML_ERRORS

log = logging.getLogger("eomt")

CONFIG_OPTIONS = ("--config", "-c")
# paths that are used before the arguments are parsed; a shell leaves the ~ in --config=~/my.yaml
PATH_OPTIONS = (*CONFIG_OPTIONS, "--ckpt_path", "--trainer.default_root_dir")
# may be given several times, each time with one value or more
LIST_OPTIONS = ("--adapter", "--grid")
# true where they stand alone
FLAGS = ("--learning_curve",)
# values that switch a component off
OFF = ("null", "None", "~", "false", "False")
COMMANDS = ("fit", "validate", "test", "predict", "inspect", "merge", "export", "demo", "sweep")
# those that make no run and need no configuration
SMALL_COMMANDS = ("configs", "completion", "push")


def in_order(args: list[str]) -> list[str]:
    """Return the arguments of a command in an order in which each counts.

    Of two equal settings the later one counts. So the command comes first, then configurations, and an option that
    sets a whole component (`--trainer FILE`) before those of its parts (`--trainer.max_steps 9`).

    Raises:
        UserError: If an option contradicts another, or is not looked at by the command; or if an argument, or the name
            of the folder where the command runs, is no text.
    """
    for text in (*args, os.getcwd()):
        check_text(text)
    groups = [_expanded(group) for group in _groups(args)]
    command = _take_command(groups)
    _refuse_parts_of_null(groups)
    _refuse_new_images(groups, command)
    configs = [group for group in groups if _name(group) in CONFIG_OPTIONS]
    others: list[list[str]] = []
    for group in groups:
        if group in configs:
            continue
        name = _name(group)
        parts = [place for place, other in enumerate(others) if _name(other).startswith(f"{name}.")]
        is_first = all(_name(other) != name for other in others)
        others.insert(parts[0] if parts and is_first else len(others), group)
    return [*command, *(arg for group in configs + others for arg in group)]


def option_values(args: list[str], *names: str) -> list[str]:
    """Return the values of an option, by any of its names, in arguments that are not parsed yet."""
    return [value for group in _groups(args) if _name(group) in names and (value := _value(group)) is not None]


def option_value(args: list[str], *names: str) -> str | None:
    """Return the value of an option that counts, the last; None if it is not given."""
    return next(reversed(option_values(args, *names)), None)


def refuse_adapters(args: list[str]) -> None:
    """Check that no adapters are asked for beside a merged folder, which has none; say which weights are not read.

    Raises:
        UserError: If some are.
    """
    for group in _groups(args):
        name = _name(group)
        if name.startswith("--model.lora_config") and _value(group) not in OFF:
            raise UserError(
                f"{name[2:]}: --ckpt_path is a merged folder, which has no adapters; leave it out, or start from that "
                "folder with --model.network.pretrained in place of --ckpt_path"
            )
        if name.startswith("--model.network") and name.endswith(".pretrained"):
            log.info("%s: not read, since the merged folder in --ckpt_path holds all weights", name[2:])


def without_other_data(args: list[str], read: Callable[[Path], dict[str, Any]]) -> list[str]:
    """Return the arguments, so that data are forgotten where a later configuration or option names another class.

    jsonargparse hands the fields that both classes have on from one to the other: a share of the images that one splits
    off for validation would be missing in the test set of the other.

    Args:
        args: Arguments of a command, in order.
        read: Reads a configuration.
    """
    kept: list[str] = []
    before: str | None = None
    for group in _groups(args):
        after = _data_class(group, read)
        if before and after and after != before:
            log.info("data: %s in place of the config's %s, of whose fields none is kept", after, before)
            kept.append("--data=null")
        before = after or before
        kept += group
    return kept


def _data_class(group: list[str], read: Callable[[Path], dict[str, Any]]) -> str | None:
    """Return the name, without its modules, of the class of data that an option names; None if it names none."""
    value, is_config = _value(group), _name(group) in CONFIG_OPTIONS
    if value is None or value in OFF or not (is_config or _name(group) in ("--data", "--data.class_path")):
        return None
    found: Any = value
    if "\n" in value or value.lstrip().startswith("{"):
        try:
            found = yaml.safe_load(value)
        except YAML_ERRORS:
            # the parser says what is wrong with it
            return None
    elif is_config or value.endswith((".yaml", ".yml", ".json")):
        found = read(Path(value))
    if is_config:
        found = found.get("data")
    found = found.get("class_path") if isinstance(found, dict) else found
    return found.rpartition(".")[2] if isinstance(found, str) else None


def _groups(args: list[str]) -> list[list[str]]:
    """Return each option with its values; what stands before the first is a group of its own."""
    groups: list[list[str]] = []
    for arg in args:
        # argparse takes -1e-3 for an option, so that a negative number must be one with its option
        if re.fullmatch(r"-(\d|\.\d).*", arg) and groups and re.fullmatch(r"--[^=]+", groups[-1][-1]):
            groups[-1][-1] += f"={arg}"
        elif re.fullmatch(r"-c[^=]+", arg):
            groups.append(["-c", arg[2:]])
        elif arg.startswith("-") or not groups:
            groups.append([arg])
        else:
            groups[-1].append(arg)
    return groups


def _expanded(group: list[str]) -> list[str]:
    """Return an option of a path with the home folder in place of the `~` that it begins with, and a config's file."""
    if _name(group) in LIST_OPTIONS:
        # the parser adds to a list where the name ends so, and else takes the last value alone
        given = [group[0].partition("=")[2], *group[1:]]
        return [f"{_name(group)}+={value}" for value in given if value]
    if group[0] in FLAGS and len(group) == 1:
        return [f"{group[0]}=true"]
    if _name(group) not in PATH_OPTIONS:
        return group
    name, equals, value = group[0].partition("=")
    # ~ alone is YAML's null
    values = [entry if entry in OFF else expand_name(entry) for entry in (value, *group[1:])]
    if name in CONFIG_OPTIONS and _value(group) not in (None, *OFF):
        place = 0 if equals else 1
        values[place] = config_path(values[place])
    return [name + equals + values[0], *values[1:]]


def _name(group: list[str]) -> str:
    return group[0].partition("=")[0]


def _value(group: list[str]) -> str | None:
    _, equals, value = group[0].partition("=")
    return value if equals else group[1] if len(group) > 1 else None


def _take_command(groups: list[list[str]]) -> list[str]:
    """Remove the command from the arguments, and return it; a list, empty where there is none."""
    for group in groups:
        for place, arg in enumerate(group):
            # the first value of an option is its own
            if arg in COMMANDS and (place != 1 or "=" in group[0] or not group[0].startswith("-")):
                del group[place]
                if not group:
                    groups.remove(group)
                return [arg]
    return []


def _refuse_parts_of_null(groups: list[list[str]]) -> None:
    """Check that no option is switched off while a part of it is set.

    Raises:
        UserError: If one is.
    """
    for group in groups:
        whole = _name(group)
        parts = [_name(other) for other in groups if _name(other).startswith(f"{whole}.")]
        if whole.startswith("--") and parts and _value(group) in OFF:
            raise UserError(f"{whole[2:]}: {_value(group)}, and {parts[0]} is given too; leave one of them out")


def _refuse_new_images(groups: list[list[str]], command: list[str]) -> None:
    """Check that new images, which have no truth, and prompts are given to `predict` alone.

    Raises:
        UserError: If another command is given some, which it would not look at.
    """
    of_predict = ("--data.predict_", "--data.prompts")
    option = next((_name(group) for group in groups if group[0].startswith(of_predict)), None)
    if option and command != ["predict"]:
        raise UserError(f"{option[2:]}: is for predict alone; leave it out, or run predict")
