"""Scripts for the completion of commands and options in a shell."""

import argparse
from typing import Any

import shtab
from lightning.pytorch.cli import LightningArgumentParser

import datamodules
import eomt.models
import eomt.tasks
from eomt.app.command_line import CLI
from eomt.app.config import PATHS
from eomt.app.launching import LAUNCHERS, OPTIONS
from eomt.app.shipped import shipped_names
from eomt.lora.config import LoRAConfig
from eomt.models.network import Network
from eomt.utils.paths import constructor_parameters, path_fields

# options whose value is a config, and the shell's function that completes one: names that are shipped, and files
CONFIG_OPTION, CONFIG_FUNCTION = "--config", "_eomt_config_file"
FUNCTIONS = {
    "bash": f'{CONFIG_FUNCTION}() {{{{ compgen -W "{{names}}" -- "$1"; compgen -f -- "$1"; }}}}',
    "zsh": f"{CONFIG_FUNCTION}() {{{{ local -a names=({{names}}); _describe 'shipped config' names; _files; }}}}",
}


class _Made(Exception):  # noqa: N818, since it is no error
    """The parser that was made."""


class _Parsers(CLI):
    """The parsers of all commands, of which none is run."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Hand out the parser, and go no further."""
        raise _Made(parser)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes commands, options, and names of shipped configurations.

    Options are those of the program itself, and those of every task, network and data module of this package.
    jsonargparse's own script also writes out each class of each option, and has 170 MB.

    Args:
        parser: Of the small commands, which names the others; those get their options here.
        shell: bash or zsh.
    """
    small = _commands_of(parser)
    components = _component_options()
    for name, command in _commands_of(_full_parser()).items():
        actions = {option: action for action in command._actions for option in action.option_strings}
        paths = {option: option.removeprefix("--").rpartition(".")[2] in PATHS for option in actions}
        for option, is_path in sorted({**components, **paths}.items()):
            # `--trainer.callbacks+` and `--data.help` are for those who know what they want
            if not option.startswith("--") or option.endswith(("+", ".help")):
                continue
            is_flag = option in actions and actions[option].nargs == 0
            added = small[name].add_argument(option, action="store_true" if is_flag else "store")
            if option == CONFIG_OPTION:
                added.complete = {shell: CONFIG_FUNCTION}  # type: ignore[attr-defined]
            elif is_path:
                added.complete = shtab.FILE  # type: ignore[attr-defined]
    launcher, num_workers = OPTIONS
    small["fit"].add_argument(num_workers)
    for name in ("fit", "sweep"):
        choices = [action for action in small[name]._actions if launcher in action.option_strings]
        (choices[0] if choices else small[name].add_argument(launcher)).choices = LAUNCHERS
    (copied,) = (action for action in _commands_of(small["configs"])["copy"]._actions if action.dest == "name")
    copied.choices = shipped_names()
    return shtab.complete(parser, shell, preamble=FUNCTIONS[shell].format(names=" ".join(shipped_names())))


def _full_parser() -> LightningArgumentParser:
    try:
        _Parsers([])
    except _Made as made:
        return made.args[0]
    raise AssertionError("no parser was made")


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command of a parser."""
    (action,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return dict(action.choices)


def _component_options() -> dict[str, bool]:
    """Return the options that set the parts of a configuration, and whether each takes a path."""
    models = [getattr(eomt.models, name) for name in eomt.models.__all__]
    parts: dict[str, list[type]] = {
        "--model": [getattr(eomt.tasks, name) for name in eomt.tasks.__all__],
        "--model.network": [cls for cls in models if issubclass(cls, Network)],
        "--model.network.encoder": [eomt.models.ViT, eomt.models.MAEEncoder],
        "--model.lora_config": [LoRAConfig],
        "--data": [getattr(datamodules, name) for name in datamodules.__all__],
    }
    found: dict[str, bool] = {}
    for address, classes in parts.items():
        for cls in classes:
            paths = path_fields(cls)
            for name, parameter in constructor_parameters(cls).items():
                if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    found[f"{address}.{name}"] = found.get(f"{address}.{name}", False) or name in paths
    return found
