"""The weights and the run folder that a command line names.

What reads weights is imported where it is needed: a path that does not exist is told before torch is loaded.
"""

import logging
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from eomt.app.arguments import CONFIG_OPTIONS, option_value
from eomt.app.leftovers import is_abandoned
from eomt.errors import UserError
from eomt.utils.yaml_bounds import YAML_ERRORS

log = logging.getLogger("eomt")

CONFIG = "config.yaml"
ALIASES = ("latest", "best")
# a fit writes it first; it begins with the time at which the run began
LOG = "training.log"
# what follows the name of the configuration in a generated run name
RUN_NAME_SUFFIX = r"(r\d+_a[^_]+|full|probe)_lr[^_]+_\d{8}-\d{6}(_\d+)?"
ACCEPTED_FORMS = "give a .ckpt file, an adapter or merged folder, user/name on the hub, latest or best"


@dataclass(frozen=True)
class RunConfiguration:
    """What tells the runs of a configuration from others.

    Attributes:
        stem: File name of the configuration without its suffix, which generated names begin with.
        classes: Addresses of the task's and of the data's class, for runs whose name the user chose.
        run: The run whose own file it is; None for any other file.
    """

    stem: str
    classes: tuple[str | None, str | None]
    run: Path | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The weights that `--ckpt_path` names.

    Attributes:
        path: A .ckpt file, or an adapter or merged folder.
        kind: Which of these it is.
        run: The run folder that it lies in; None if it lies in none.
    """

    path: Path
    kind: Literal["ckpt", "adapter", "merged"]
    run: Path | None


def find_checkpoint(
    given: str | None, root: Path, run_name: str | None, configuration: RunConfiguration
) -> Checkpoint | None:
    """Return the weights that `--ckpt_path` names; a path without weights is an error and never starts anew.

    Args:
        given: A .ckpt file, an adapter folder, a merged folder, "latest" or "best"; None names nothing.
        root: Folder of all runs, for "latest" and "best".
        run_name: The run to search for them; None takes the newest run of the configuration.
        configuration: What is known of the configuration.

    Raises:
        UserError: If it does not exist or is none of these.
    """
    if given is None:
        return None
    from eomt.lora.files import is_adapter_folder

    path = resolve_alias(given, root, run_name, configuration) if given in ALIASES else local_path(given)
    if not path.exists():
        raise UserError(f"ckpt_path: {path} does not exist; {ACCEPTED_FORMS}")
    if is_run(path):
        raise UserError(f"ckpt_path: {path} is a run; give best or latest with --run_name {path.name}")
    kind: Literal["ckpt", "adapter", "merged"]
    if path.is_file():
        if path.suffix != ".ckpt":
            raise UserError(f"ckpt_path: {path} is no .ckpt file; for safetensors give the folder that holds them")
        kind = "ckpt"
    elif is_adapter_folder(path):
        kind = "adapter"
    elif (path / "model.safetensors").is_file():
        kind = "merged"
    else:
        raise UserError(f"ckpt_path: {path} holds neither adapter_config.json nor model.safetensors; {ACCEPTED_FORMS}")
    # absolute() rather than resolve(): a link to a run keeps its own name
    parent = path.parent if path.name else path.absolute().parent
    return Checkpoint(path, kind, parent if (parent / CONFIG).is_file() else None)


def saved_config(args: list[str]) -> tuple[Path, Path] | None:
    """Return the weights that `--ckpt_path` names, and the configuration saved with them, if no other is given."""
    given = option_value(args, "--ckpt_path")
    if not args or args[0].startswith("-") or not given or option_value(args, *CONFIG_OPTIONS):
        return None
    if given in ALIASES:
        root = Path(option_value(args, "--trainer.default_root_dir") or "runs")
        path = resolve_alias(given, root, option_value(args, "--run_name"), None)
    else:
        path = local_path(given)
    return path, find_saved_config(path)


def local_path(given: str) -> Path:
    """Return the path of weights, which are fetched from the hub if they are not here and the name may be one there.

    Raises:
        UserError: If the hub does not give them.
    """
    path = Path(given).expanduser()
    if path.exists() or given.count("/") != 1 or path.parent.is_dir():
        return path
    # the hub's client takes a second to load
    from eomt.utils.snapshots import fetched

    return fetched(given)


def find_saved_config(path: Path) -> Path:
    """Return the configuration that was saved with a checkpoint: inside it (a merged folder) or beside it.

    Raises:
        UserError: If there is none.
    """
    for folder in (path, path.absolute().parent):
        if (folder / CONFIG).is_file():
            return folder / CONFIG
    if not path.exists():
        raise UserError(f"ckpt_path: {path} does not exist; {ACCEPTED_FORMS}")
    raise UserError(f"ckpt_path: there is no {CONFIG} in or beside {path}; give the run's configuration with --config")


def make_run_name(stem: str, model: Any) -> str:
    """Return a run name such as `<config name>_r8_a16_lr1e-3_<timestamp>`.

    Without adapters, `full` (fine-tuning) or `probe` (frozen base) takes the place of rank and alpha.

    Args:
        stem: File name of the configuration without its suffix.
        model: The task in the configuration.
    """
    arguments = model.get("init_args", {})
    lora = arguments.get("lora_config")
    if lora is None:
        adapters = "full"
    else:
        lora = lora.get("init_args", lora)
        adapters = f"r{lora.get('rank')}_a{lora.get('lora_alpha')}" if lora.get("enabled", True) else "probe"
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{stem}_{adapters}_lr{format_number(arguments.get('lr') or arguments.get('base_lr') or 0.0)}_{now}"


def create_run_folder(folder: Path, is_generated: bool) -> Path:
    """Create the folder of a new run, and return it. What a training left that was killed too early makes room for it.

    Args:
        folder: The wanted path.
        is_generated: The name was generated, and gets a number if it is taken: two runs may start in one second.

    Raises:
        UserError: If a folder with the user's name exists, or the folder cannot be created.
    """
    number = 1
    while True:
        created = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            created.mkdir(parents=True)
            return created
        except FileExistsError as error:
            if not is_generated and is_abandoned(created):
                log.info("run_name: %s holds nothing to go on from, and is begun again", created)
                shutil.rmtree(created)
                continue
            if not is_generated or not created.is_dir():
                raise UserError(
                    f"run_name: {created} exists; choose another name, "
                    f"or resume it: --ckpt_path latest --run_name {created.name}"
                ) from error
            number += 1
        except OSError as error:
            raise UserError(
                f"trainer.default_root_dir: {created} cannot be made ({error.strerror}); choose another folder"
            ) from error


def format_number(value: float) -> str:
    """Return a number as in 1e-3, 2.5e-4 or 0, without the padding of Python's notation."""
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def resolve_alias(alias: str, root: Path, run_name: str | None, configuration: RunConfiguration | None) -> Path:
    """Return the newest checkpoint of a run that "latest" or "best" stands for.

    Args:
        alias: "latest" or "best".
        root: Folder of all runs.
        run_name: The run; None takes the newest run of the configuration, whatever its name.
        configuration: What is known of the configuration; None takes any.

    Raises:
        UserError: If that run has none, even if an older run has: another run is never taken without being named.
    """
    if run_name is not None:
        if not (root / run_name).is_dir():
            raise UserError(f"run_name: {root / run_name} does not exist; give the name of a run in {root}")
        runs = [root / run_name]
    elif configuration is not None and configuration.run is not None:
        runs = [configuration.run]
    else:
        candidates = [folder for folder in root.iterdir() if is_run(folder)] if root.is_dir() else []
        runs = sorted((run for run in candidates if _is_of(run, configuration)), key=_start)
    if not runs:
        others = sorted(candidates, key=_start)
        hint = f"--run_name, for example {others[-1].name}" if others else "--trainer.default_root_dir"
        raise UserError(
            f"ckpt_path: no run of {configuration.stem if configuration else 'any config'} in {root}; give {hint}"
        )
    if found := newest_checkpoint(runs[-1], alias):
        return found
    older = [run.name for run in runs[:-1] if any(run.glob(f"{alias}_lora_step*.ckpt"))]
    hint = (
        f"; an older run has one: --run_name {older[-1]}"
        if older
        else "; give another --run_name, or the path of a file"
    )
    raise UserError(f"ckpt_path: there is no {alias}_lora_step*.ckpt in {runs[-1]}{hint}")


def newest_checkpoint(run: Path, alias: str) -> Path | None:
    """Return the newest whole checkpoint that an alias stands for; None if there is none.

    "latest" is the newest of all: a run may be killed between its first best and its first latest checkpoint.
    """
    from eomt.app.checkpoint_files import step_of

    kinds = ("best", "final", "latest") if alias == "latest" else (alias,)
    found = [path for kind in kinds for path in run.glob(f"{kind}_lora_step*.ckpt")]
    for path in sorted(found, key=_step, reverse=True):
        try:
            step_of(path)
        except UserError as error:
            log.info("%s; the one before is taken", error)
        else:
            return path
    return None


def refuse_going_back(run: Path, path: Path) -> None:
    """Check that a training of a run goes on from its newest checkpoint.

    Args:
        run: Folder of the run.
        path: The checkpoint.

    Raises:
        UserError: If the run went on further: its later checkpoints and figures would be replaced.
    """
    from eomt.app.checkpoint_files import step_of

    newest = newest_checkpoint(run, "latest")
    if newest is not None and (last := step_of(newest)) > (step := step_of(path)):
        raise UserError(
            f"ckpt_path: {path} is of step {step}, but its run went on to step {last}, which would be replaced; give "
            "latest, or, to branch off, this path with --run_name and a new name"
        )


def run_of_config(file: Path | None) -> Path | None:
    """Return the run that a configuration was saved by; None if it is another file."""
    return file.parent if file is not None and file.name == CONFIG and is_run(file.parent) else None


def is_run(folder: Path) -> bool:
    """Return whether a fit began in a folder; other commands make folders too."""
    return (folder / CONFIG).is_file() and (folder / LOG).is_file()


def _is_of(run: Path, configuration: RunConfiguration | None) -> bool:
    """Return whether a run is of a configuration: by a generated name, else by the classes of its task and data."""
    if configuration is None:
        return True
    if re.fullmatch(f".+_{RUN_NAME_SUFFIX}", run.name):
        return re.fullmatch(f"{re.escape(configuration.stem)}_{RUN_NAME_SUFFIX}", run.name) is not None
    try:
        saved = yaml.safe_load((run / CONFIG).read_text())
        return tuple((saved[part] or {}).get("class_path") for part in ("model", "data")) == configuration.classes
    except (OSError, *YAML_ERRORS):
        return False


def _start(run: Path) -> tuple[str, str]:
    """Return when a run began, from its log: names may be chosen, and copies have new times."""
    with (run / LOG).open(errors="replace") as log:
        return log.readline()[:23], run.name


def _step(path: Path) -> tuple[int, bool]:
    # of one step, the file that was written last
    return int(re.findall(r"_step(\d+)", path.name)[0]), path.name.startswith(("latest", "final"))
