"""The report of `inspect` on a task: its modules, sizes, memory, data, and whether every adapter learns."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from eomt.app.data_look import advising
from eomt.errors import UserError, shortened
from eomt.lora.adapter_layer import adapter_parameters, count_lora_parameters, lora_layers
from eomt.lora.config import adaptation
from eomt.lora.files import save_adapter
from eomt.lora.packed_weight import packed_layers
from eomt.lora.summary import lora_summary
from eomt.lora.targets import is_inside
from eomt.models.memory import memory_of, memory_set, settings_of
from eomt.models.network import Network
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import TaskData
from eomt.tasks.first_batch import first_supervised
from eomt.tasks.kept_features import kept_parts
from eomt.utils.modes import isolated_randomness
from eomt.utils.module_paths import collapse_paths
from eomt.utils.tables import text_table
from eomt.verification.audit import AuditReport, loaded_names, random_base_faults
from eomt.verification.kept import adapter_inputs
from eomt.verification.memory import StepMemory, TrainingMemory, step_memory

Row = tuple[str, ...]
# adapters that keep their input
NAMED = 4
# share of a GPU's memory for its context and what its allocator cannot use
RESERVED = 0.1


def module_lines(network: nn.Module) -> Iterator[str]:
    """Yield tables of the adapted, the trained and the frozen modules, then the totals.

    `{0-11}` in a path stands for twelve paths.
    """
    adapted, done = lora_layers(network), adaptation(network)
    specs = done.adapters if done else {}
    yield "Adapted modules" if adapted else "Adapted modules: none"
    rows: dict[str, Row] = {}
    for path, layer in adapted.items():
        shape = " x ".join(str(size) for size in layer.weight.shape)
        slices = f" on {', '.join(specs[path].slices)}" if specs[path].slices else ""
        settings = f"rank {specs[path].rank}, alpha {specs[path].alpha:g}{slices}"
        rows[path] = (shape, settings, f"{count_lora_parameters(layer):,} parameters")
    yield from format_table(rows)
    adapters = adapter_parameters(network)
    counts: dict[bool, dict[str, int]] = {True: {}, False: {}}
    values = {f"{path}.packed": layer.packing.numel for path, layer in packed_layers(network).items()}
    for name, parameter in network.named_parameters():
        # the table above already has the weight inside an adapted layer
        if name not in adapters and (parameter.requires_grad or not is_inside(name, adapted)):
            # only the bias of an adapted layer can be trained, so its full name is shown
            path = name if is_inside(name, adapted) else name.rpartition(".")[0] or name
            of_kind = counts[parameter.requires_grad]
            of_kind[path] = of_kind.get(path, 0) + values.get(name, parameter.numel())
    yield "Trained in full" if counts[True] else "Trained in full: none"
    yield from format_table({path: (f"{count:,} parameters",) for path, count in counts[True].items()})
    skipped = done.skipped if done else {}
    left = {path: (skipped.get(path, "no target"), f"{count:,} parameters") for path, count in counts[False].items()}
    left |= {path: (reason, "") for path, reason in skipped.items() if path not in left}
    yield "Left as it is" if left else "Left as it is: none"
    yield from format_table(left)
    # the modules that are left as they are have a table of their own above
    yield from (line for line in lora_summary(network) if not line.startswith("[LoRA] Left as it is"))


def format_table(rows: Mapping[str, Row]) -> list[str]:
    """Return aligned lines of a table.

    Paths that differ only in numbers and have equal cells share a line.

    Args:
        rows: Cells by path.
    """
    groups: dict[tuple[str, Row], list[str]] = {}
    for path, cells in rows.items():
        groups.setdefault((re.sub(r"\.\d+(?=\.|$)", ".*", path), cells), []).append(path)
    merged = [
        (text, count, cells) for (_, cells), paths in groups.items() for text, count in collapse_paths(paths).items()
    ]
    named = [(text, f"{count} x" if count > 1 else "", *cells) for text, count, cells in merged]
    return text_table(named, numbers=(1,), min_width=5)


def adapter_line(network: Network) -> str:
    """Return a line with the exact size of the adapter's files, which are written to a temporary folder."""
    if not lora_layers(network):
        return "Adapter on disk: none, there are no adapters"
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = save_adapter(network, Path(folder) / "adapter", network.base)
        except UserError as error:
            return f"Adapter on disk: none ({error})"
        files = {
            str(path.relative_to(written)): path.stat().st_size for path in sorted(written.rglob("*")) if path.is_file()
        }
    parts = ", ".join(f"{name} {size:,}" for name, size in files.items())
    return f"Adapter on disk: {sum(files.values()):,} bytes ({parts})"


def base_line(task: AdaptationTask, allow_random_base: bool) -> str:
    """Return a line that says which weights the base has.

    Args:
        task: The task.
        allow_random_base: Accept frozen weights that are random.

    Raises:
        UserError: If only a part of the frozen weights was loaded and `allow_random_base` is false.
    """
    network = task.network
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    if not loaded_names(network):
        needed = "; `fit` wants --audit.allow_random_base true" if frozen and not allow_random_base else ""
        return f"Base: random, no weights were loaded{needed}"
    if not allow_random_base:
        AuditReport(tuple(random_base_faults(network))).require()
    # without adapters, the opened file holds every weight
    whole = task.weights if adaptation(network) is None else None
    return f"Base: {whole or network.base}"


def data_lines(data: TaskData) -> Iterator[str]:
    """Yield the images per split, and the classes, of data that were set up for `fit`."""
    counts = {split: dict(count) for split, count in data.counts.items()}
    for split, names in data.split_record.items():
        # a split that `fit` does not read
        counts.setdefault(split, {"images": len(names)})
    for split, count in counts.items():
        yield f"Data: {split}: " + ", ".join(f"{name} {number}" for name, number in count.items())
    yield from (f"Data: {note}" for note in data.reading_notes)
    if data.num_classes is not None:
        yield f"Data: {data.num_classes} classes: {', '.join(data.class_names or ())}"


def missing_data_reason(datamodule: LightningDataModule) -> str | None:
    """Set the data up, and return None; if `fit` would generate it and has not, return why it cannot be used yet.

    Raises:
        UserError: For any other data that cannot be used, as in a fit.
    """
    try:
        set_up(datamodule, "fit")
    except UserError as error:
        # data that are there are wrong, whoever made them
        if (
            is_overridden("prepare_data", datamodule, LightningDataModule)
            and not cast(TaskData, datamodule).is_prepared
        ):
            return str(error)
        raise
    return None


def set_up(datamodule: LightningDataModule, stage: str) -> None:
    """Set data up that a command looks at without making any.

    Raises:
        UserError: They cannot be used, or are not those that a fit would use.
    """
    data = cast(TaskData, datamodule)
    with advising(type(datamodule), getattr(datamodule, "path", None)):
        if data.is_prepared:
            data.check_prepared()
        datamodule.setup(stage)


def first_training_batch(task: AdaptationTask, datamodule: TaskData) -> dict[str, Any]:
    """Return the first training batch that has labels to learn from."""
    with isolated_randomness():
        return first_supervised(task, datamodule.train_dataloader())


def memory_lines(
    task: AdaptationTask,
    batch: dict[str, Any],
    forward_context: Callable[[], AbstractContextManager[Any]],
    gpu_memory: int | None,
) -> Iterator[str]:
    """Yield a table of a training step's peak memory, its time, and the largest batch, for each setting of `memory`.

    Args:
        task: The task, on the device of training.
        batch: A training batch, on the same device.
        forward_context: Makes the context of the forward pass, such as autocast.
        gpu_memory: Bytes of the GPU for which the largest batch is named; None names none.
    """
    images = len(batch["image"])
    # a batch has one name for each sample, and several samples may share an image
    yield f"Peak memory of training, batch of {len(batch['name'])} on one {task.device.type} device (estimate, AdamW)"
    current, first = memory_of(task.network), None
    for setting in settings_of(task.network):
        with memory_set(task.network, setting):
            found = step_memory(task, task.unlogged_step, batch, images, forward_context, task.first_samples)
        first = first or found
        name = f"memory: {setting}{' (as set)' if setting == current else ''}"
        line = f"  {name + ':':25}{_memory_text(found.at(images))}; time {found.seconds / first.seconds:.2f}"
        if gpu_memory is not None:
            line += f"; at most {_largest(found, gpu_memory)} images in {gpu_memory / 1e9:.3g} GB"
        yield line
    if kept := inputs_line(task, batch, forward_context):
        yield kept


def _largest(found: StepMemory, gpu_memory: int) -> str:
    size = found.largest_batch(round(gpu_memory * (1 - RESERVED)))
    return "? (give a batch of two)" if size is None else f"{size:,}"


def bytes_of(text: str) -> int:
    """Return the bytes that a text such as 8GB, 24 GiB or 800MB names.

    Raises:
        UserError: If it names none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise UserError(f"gpu_memory: {shortened(text)!r}; give a number with its unit, such as 8GB or 24GiB")
    return round(float(found[1]) * (1024 if found[3] else 1000) ** ("KMGT".index(found[2].upper()) + 1))


def inputs_line(
    task: AdaptationTask, batch: dict[str, Any], forward_context: Callable[[], AbstractContextManager[Any]]
) -> str | None:
    """Return a line that names the adapters that keep their input for the backward pass; None without adapters.

    Args:
        task: The task, on the device of training.
        batch: A training batch, on the same device.
        forward_context: Makes the context of the forward pass, such as autocast.
    """
    done = adaptation(task.network)
    if done is None or not done.adapters:
        return None
    if done.backend == "peft":
        return "Inputs of adapters: PEFT's layers keep them for the backward pass; backend: native makes them again"
    sizes = adapter_inputs(task, task.unlogged_step, task.first_samples(batch, 1), forward_context)
    kept = {path.removeprefix("network."): size for path, size in sizes.items() if size}
    line = f"Inputs of adapters: the backward pass makes {len(sizes) - len(kept)} of {len(sizes)} again"
    if not kept:
        return line
    names = ", ".join([*list(kept)[:NAMED], *(["..."] if len(kept) > NAMED else [])])
    return f"{line}; kept ({_mebibytes(sum(kept.values()))} MiB an image): {names}"


def kept_line(
    task: AdaptationTask,
    batch: dict[str, Any],
    data: TaskData | None,
    forward_context: Callable[[], AbstractContextManager[Any]],
) -> str | None:
    """Return a line that names the frozen parts whose outputs are kept; None where there are none.

    Args:
        task: The task, on the device of training.
        batch: A training batch, on the same device.
        data: Its data; None without.
        forward_context: Makes the context of the forward pass, such as autocast.
    """

    def run() -> None:
        with forward_context():
            task.outputs(task.network, batch)

    parts = kept_parts(task.network, run)
    if not parts:
        return None
    names = ", ".join(f"{part} ({_mebibytes(size)} MiB a sample)" for part, size in parts.items())
    if not task.feature_cache and task.feature_folder is None:
        return f"Frozen at the start: {names}; computed each time, as feature_cache is 0"
    place = f"up to {task.feature_cache:g} GiB" if task.feature_cache else f"in {task.feature_folder}"
    line = f"Frozen at the start: {names}; kept from one epoch to the next, {place}"
    return line if data is None or data.repeats_images else f"{line}, of validation: training images are drawn anew"


def _memory_text(memory: TrainingMemory) -> str:
    parts = ("weights", "gradients", "optimizer_states", "activations")
    text = " + ".join(f"{part.replace('_', ' ')} {_mebibytes(getattr(memory, part))}" for part in parts)
    return f"{_mebibytes(memory.total)} MiB = {text}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f}" if count < 100 * 2**20 else f"{count / 2**20:,.0f}"
