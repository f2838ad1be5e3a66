"""Which weights and which run folder a command line means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from eomt.errors import UserError
from eomt.models.adapter_io import is_adapter_folder

CONFIG = "config.yaml"
WORDS = ("latest", "best")
SETTINGS = r"(r\d+_a[^_]+|full|probe)_lr[^_]+_\d{8}-\d{6}"


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
    path = _find_word(given, root, run_name, stem) if given in WORDS else Path(given)
    if not path.exists():
        raise UserError(
            f"ckpt_path: {path} does not exist; give a .ckpt file, an adapter or merged folder, latest or best"
        )
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
    parent = path.resolve().parent
    return Checkpoint(path, kind, parent if (parent / CONFIG).is_file() else None)


def config_beside(given: str, root: Path, run_name: str | None) -> Path:
    """The configuration that was saved with a checkpoint: in its own folder (merged models) or beside it.

    Raises:
        UserError: if there is none.
    """
    path = _find_word(given, root, run_name, None) if given in WORDS else Path(given)
    for folder in (path, path.resolve().parent):
        if (folder / CONFIG).is_file():
            return folder / CONFIG
    if not path.exists():
        raise UserError(
            f"ckpt_path: {path} does not exist; give a .ckpt file, an adapter or merged folder, latest or best"
        )
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
    return f"{stem}_{adapters}_lr{short_number(arguments.get('lr') or 0.0)}_{now}"


def short_number(value: float) -> str:
    """1e-3, 2.5e-4, 0: without the padding of Python's notation."""
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def _find_word(word: str, root: Path, run_name: str | None, stem: str | None) -> Path:
    """The newest checkpoint of that kind in the named run, or else in the newest run of the config that has one."""
    if run_name is not None:
        runs = [root / run_name]
    else:
        name = re.compile(f"{re.escape(stem) if stem else '.+'}_{SETTINGS}")
        candidates = root.iterdir() if root.is_dir() else []
        runs = sorted((run for run in candidates if name.fullmatch(run.name)), key=lambda run: run.name[-15:])
    for run in reversed(runs):
        if found := sorted(run.glob(f"{word}_lora_step*.ckpt"), key=lambda path: path.stat().st_mtime):
            return found[-1]
    where = runs[0] if run_name is not None else f"{root}/{stem or '*'}_*"
    raise UserError(f"ckpt_path: there is no {word}_lora_step*.ckpt in {where}; was the run started elsewhere?")
