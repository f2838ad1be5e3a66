"""Which weights and which run folder a command line means."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule

from eomt.errors import UserError
from eomt.lora.files import is_adapter_folder

CONFIG = "config.yaml"
WORDS = ("latest", "best")
SETTINGS = r"(r\d+_a[^_]+|full|probe)_lr[^_]+_\d{8}-\d{6}(_\d+)?"
FORMS = "give a .ckpt file, an adapter or merged folder, latest or best"


@dataclass(frozen=True)
class Checkpoint:
    """Weights given by `--ckpt_path`, and the run folder that they belong to, if they lie in one."""

    path: Path
    kind: Literal["ckpt", "adapter", "merged"]
    run: Path | None


def find_checkpoint(given: str | None, root: Path, run_name: str | None, stem: str) -> Checkpoint | None:
    """What `--ckpt_path` names; nothing there is an error, never a fresh start.

    Args:
        given: a .ckpt file, an adapter folder, a merged folder, "latest" or "best".
        root: the folder of runs, for the two words.
        run_name: the run that the words are about; None takes the newest of the config.
        stem: name of the config.

    Raises:
        UserError: if it does not exist or is none of these.
    """
    if given is None:
        return None
    path = find_word(given, root, run_name, stem) if given in WORDS else Path(given)
    if not path.exists():
        raise UserError(f"ckpt_path: {path} does not exist; {FORMS}")
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
        raise UserError(f"ckpt_path: {path} holds neither adapter_config.json nor model.safetensors")
    # absolute() rather than resolve(): a linked run keeps the name it was given by
    parent = path.parent if path.name else path.absolute().parent
    return Checkpoint(path, kind, parent if (parent / CONFIG).is_file() else None)


def load_checkpoint(task: LightningModule, path: Path) -> None:
    """Fills a task from a .ckpt with the checks of a fit.

    Raises:
        UserError: if it was trained otherwise, or on another base.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])


def step_of(path: Path) -> int:
    """The step at which a .ckpt was saved.

    Raises:
        UserError: if the file cannot be read, or is no checkpoint of a task.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(checkpoint["global_step"])
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"ckpt_path: {path} is no checkpoint that can be read ({reason[:80]}); give another") from error


def with_saved_config(args: list[str]) -> list[str]:
    """Adds the configuration beside `--ckpt_path` to a command that gives none."""
    given = option(args, "--ckpt_path")
    if not args or args[0].startswith("-") or not given or option(args, "--config") or option(args, "-c"):
        return args
    path = Path(given)
    if given in WORDS:
        root = Path(option(args, "--trainer.default_root_dir") or "runs")
        path = find_word(given, root, option(args, "--run_name"), None)
    # given twice, the later one counts: the word is replaced by what it stands for
    return [args[0], "--config", str(config_beside(path)), *args[1:], "--ckpt_path", str(path)]


def option(args: list[str], name: str) -> str | None:
    """The value of an option in the arguments of a command, before they are parsed."""
    for position, arg in enumerate(args):
        if arg == name and position + 1 < len(args):
            return args[position + 1]
        if arg.startswith(name + "="):
            return arg.removeprefix(name + "=")
    return None


def config_beside(path: Path) -> Path:
    """The configuration that was saved with a checkpoint: in its own folder (merged models) or beside it.

    Raises:
        UserError: if there is none.
    """
    for folder in (path, path.absolute().parent):
        if (folder / CONFIG).is_file():
            return folder / CONFIG
    if not path.exists():
        raise UserError(f"ckpt_path: {path} does not exist; {FORMS}")
    raise UserError(f"ckpt_path: there is no {CONFIG} in or beside {path}; give the run's configuration with --config")


def make_run_name(stem: str, model: Any) -> str:
    """`<config name>_r8_a16_lr1e-3_<timestamp>`; full and probe instead of rank and alpha where there is no adapter."""
    arguments = model.get("init_args", {})
    lora = arguments.get("lora_config")
    if lora is None:
        adapters = "full"
    else:
        lora = lora.get("init_args", lora)
        adapters = f"r{lora.get('rank')}_a{lora.get('lora_alpha')}" if lora.get("enabled", True) else "probe"
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{stem}_{adapters}_lr{short_number(arguments.get('lr') or arguments.get('base_lr') or 0.0)}_{now}"


def claim(folder: Path, is_made_up: bool) -> Path:
    """Makes the folder of a new run; two runs that start in one second get two folders.

    Raises:
        UserError: if a folder of a given name exists, or none can be made.
    """
    number = 1
    while True:
        claimed = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            claimed.mkdir(parents=True)
            return claimed
        except FileExistsError as error:
            if not is_made_up or not claimed.is_dir():
                raise UserError(
                    f"run_name: {claimed} exists; choose another name, "
                    f"or resume it: --ckpt_path latest --run_name {claimed.name}"
                ) from error
            number += 1
        except OSError as error:
            raise UserError(
                f"trainer.default_root_dir: {claimed} cannot be made ({error.strerror}); choose another folder"
            ) from error


def short_number(value: float) -> str:
    """1e-3, 2.5e-4, 0: without the padding of Python's notation."""
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def find_word(word: str, root: Path, run_name: str | None, stem: str | None) -> Path:
    """The newest checkpoint of that kind in the named run, or else in the newest run of the config (any, if None).

    Raises:
        UserError: if that run has none, even if an older one does: nobody resumes another run than they think.
    """
    if run_name is not None:
        runs = [root / run_name]
    else:
        name = re.compile(f"{re.escape(stem) if stem else '.+'}_{SETTINGS}")
        candidates = root.iterdir() if root.is_dir() else []
        runs = sorted((run for run in candidates if name.fullmatch(run.name)), key=lambda run: _time(run.name))
    if not runs:
        raise UserError(f"ckpt_path: there is no run {stem or '*'}_... in {root}; was it started elsewhere?")
    found = sorted(runs[-1].glob(f"{word}_lora_step*.ckpt"), key=_step)
    if found:
        return found[-1]
    older = [run.name for run in runs[:-1] if any(run.glob(f"{word}_lora_step*.ckpt"))]
    hint = f"; an older run has: --run_name {older[-1]}" if older else "; was the run started elsewhere?"
    raise UserError(f"ckpt_path: there is no {word}_lora_step*.ckpt in {runs[-1]}{hint}")


def _step(path: Path) -> int:
    return int(re.findall(r"_step(\d+)", path.name)[0])


def _time(name: str) -> str:
    """The timestamp at the end of a made-up name, with the number that tells two of one second apart."""
    return name[name.rindex("_lr") :].partition("_")[2].partition("_")[2]
