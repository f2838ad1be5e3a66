"""The folder that is shared: weights, the configuration that opens them, and the model card."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from eomt.app.reading import read_yaml
from eomt.app.runs import CONFIG, find_saved_config, is_run, newest_checkpoint
from eomt.errors import UserError
from eomt.lora.files import holds_only_adapters, is_adapter_folder
from eomt.lora.peft_format import CONFIG_FILE as ADAPTER_CONFIG
from eomt.lora.peft_format import WEIGHTS_FILE as ADAPTER_WEIGHTS
from eomt.reports.run_files import SUMMARY
from eomt.reports.schemas import REMEDY, SUMMARY_FILE
from eomt.sharing.card import Shared, model_card
from eomt.sharing.portable import portable_config
from eomt.utils.files import write_folder
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.reading import FIELDS, checked, read_json

CARD = "README.md"
# in a folder that this module wrote, so that it may be written again
MARK = "eomt.json"


@dataclass(frozen=True)
class Weights:
    """What is shared.

    Attributes:
        path: An adapter or merged folder.
        kind: Which of these it is.
        run: The run that it lies in; None if it lies in none.
    """

    path: Path
    kind: Literal["adapter", "merged"]
    run: Path | None


def find_weights(path: Path) -> Weights:
    """Return what is shared of a path.

    Args:
        path: An adapter folder, a merged folder, a `.ckpt` file with an adapter folder beside it, or a run's folder,
            of which the best adapter is taken or, after full fine-tuning, the best merged model.

    Raises:
        UserError: If there is no such folder.
    """
    if not path.exists():
        raise UserError(f"{path}: does not exist; give a run, an adapter folder or a merged folder")
    if is_run(path):
        best = newest_checkpoint(path, "best")
        if best is None:
            raise UserError(f"{path}: this run has no best checkpoint yet; let it validate once")
        path = best
    if path.suffix == ".ckpt" and path.is_file():
        best_known, adapter = path, path.with_suffix("")
        merged = path.with_name(path.stem.replace("_lora_", "_merged_", 1))
        path = adapter if is_adapter_folder(adapter) else merged
        if not path.is_dir():
            raise UserError(
                f"{best_known}: has neither an adapter folder nor a merged one beside it, and a .ckpt is not shared; "
                "write one with merge, and share that"
            )
    parent = path.absolute().parent
    run = parent if is_run(parent) else None
    if is_adapter_folder(path):
        return Weights(path, "adapter", run)
    if (path / WEIGHT_FILES[0]).is_file() and (path / CONFIG).is_file():
        return Weights(path, "merged", run)
    raise UserError(f"{path}: is no run, adapter folder or merged folder")


def write_shared(path: Path, folder: Path, name: str, base: str | None = None, license: str | None = None) -> Shared:
    """Write what `push` uploads into a folder, whole or not at all; `eomt.load` opens it.

    Args:
        path: See `find_weights`.
        folder: Folder that is written; one that was written so before is replaced.
        name: Name of its repository, for the model card.
        base: Repository with the base's weights, where these are a local path.
        license: Licence of the weights, as the hub calls it; None takes that of the base if it is known.

    Returns:
        What the model card says.

    Raises:
        UserError: If there is nothing to share, or its base is on this machine only.
    """
    weights = find_weights(path)
    config, local = portable_config(read_yaml(find_saved_config(weights.path)), base)
    summary_file = weights.run / SUMMARY if weights.run is not None else None
    summary = None
    if summary_file is not None and summary_file.is_file():
        # the whole of it, of which a part has a schema
        summary = read_json(summary_file, FIELDS, REMEDY)
        checked(summary, SUMMARY_FILE, str(summary_file), REMEDY)
    shared = Shared.of(name, weights.kind, config, summary, weights.path, base, license)

    def write(beside: Path) -> None:
        for source in sorted(weights.path.rglob("*")):
            target = beside / source.relative_to(weights.path)
            if source.is_dir():
                target.mkdir(exist_ok=True)
            elif source.name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) and weights.kind == "adapter":
                _write_adapter_file(source, target, base if local else None)
            elif source.name != CONFIG:
                shutil.copyfile(source, target)
        (beside / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        (beside / CARD).write_text(model_card(shared), encoding="utf-8")
        (beside / MARK).write_text(json.dumps(shared.record(), indent=2) + "\n", encoding="utf-8")

    if weights.kind == "adapter" and not holds_only_adapters(weights.path) and not (weights.path / MARK).is_file():
        raise UserError(f"{weights.path}: holds other files than adapters; move them elsewhere before it is shared")
    write_folder(folder, write, lambda existing: (existing / MARK).is_file())
    return shared


def _write_adapter_file(source: Path, target: Path, base: str | None) -> None:
    """Copy a file of an adapter, with the base's repository in place of its path on this machine."""
    if base is None:
        shutil.copyfile(source, target)
    elif source.name == ADAPTER_CONFIG:
        found = read_json(source, FIELDS, "give another adapter folder") | {"base_model_name_or_path": base}
        target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    else:
        with safe_open(source, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors, target, metadata | ({"base": base} if metadata.get("base") else {}))
