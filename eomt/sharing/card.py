"""The model card of shared weights: what they are, how good, and how they are opened, here and in other libraries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eomt import __version__
from eomt.errors import printable
from eomt.reports.run_files import verdict
from eomt.sharing.bases import base_in_its_library
from eomt.sharing.portable import is_local
from eomt.utils.hub import CONFIG_FILE, is_repository
from eomt.utils.reading import FIELDS, read_json

# the hub's name of what a task does
PIPELINES = {
    "SemanticSegmentation": "image-segmentation",
    "InstanceSegmentation": "image-segmentation",
    "PanopticSegmentation": "image-segmentation",
    "PromptedSegmentation": "mask-generation",
    "ImageClassification": "image-classification",
    "MorphDetection": "image-classification",
    "MaskedAutoencoding": "image-feature-extraction",
    "VisualQuestionAnswering": "visual-question-answering",
}
# what a call of `predict` takes beside the image
ARGUMENTS = {
    "PromptedSegmentation": ", boxes=[[40, 40, 200, 160]]",
    "VisualQuestionAnswering": ', "What is in the picture?"',
}
# licences of released weights, by a part of their names, if these owners have them; timm's names have no owner
OWNERS = ("", "facebook", "timm")
LICENSES = {"dinov3": "other", "dinov2": "apache-2.0", "sam2": "apache-2.0", "vit-mae": "cc-by-nc-4.0"}
NEWLINE = "\n"


@dataclass(frozen=True)
class Shared:
    """What a model card says.

    Attributes:
        name: Repository of the weights.
        kind: "adapter" or "merged".
        task: Name of the task's class.
        config: The configuration that opens the weights.
        summary: What the run has measured; None where the weights lie in no run.
        base: Where the weights started from; None if it is not known.
        is_on_hub: Whether that is a repository.
        license: Licence of the weights, as the hub calls it; None if it is not known.
        transformers: Class of transformers that opens merged weights; None if there is none.
        adapter: PEFT's configuration of an adapter.
    """

    name: str
    kind: str
    task: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    base: str | None
    is_on_hub: bool
    license: str | None
    transformers: str | None
    adapter: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        config: Mapping[str, Any],
        summary: Mapping[str, Any] | None,
        folder: Path,
        base: str | None,
        license: str | None,
    ) -> "Shared":
        """Return what is known of weights; see `eomt.sharing.folder.write_shared` for the arguments."""
        settings = _fields(folder / "adapter_config.json")
        architectures = _fields(folder / CONFIG_FILE).get("architectures") or [None]
        known = base or settings.get("base_model_name_or_path") or ((summary or {}).get("base") or {}).get("id")
        if license is None and isinstance(known, str):
            owner, _, model = known.rpartition("/")
            found = (license for part, license in LICENSES.items() if part in model and owner in OWNERS)
            license = next(found, None)
        return cls(
            name=name,
            kind=kind,
            task=str((config.get("model") or {}).get("class_path", "")).rpartition(".")[2],
            config=config,
            summary=summary,
            base=known if isinstance(known, str) else None,
            is_on_hub=base is not None or (isinstance(known, str) and is_repository(known) and not is_local(known)),
            license=license,
            transformers=architectures[0] if kind == "merged" else None,
            adapter=settings,
        )

    def record(self) -> dict[str, Any]:
        """Return what programs ask: what the folder holds, and what wrote it."""
        return {"eomt": __version__, "kind": self.kind, "task": self.task, "base": self.base}


def model_card(shared: Shared) -> str:
    """Return the text of the README.md: the hub's header, and the same in words."""
    parts = [
        _what(shared),
        _results(shared),
        _opening(shared),
        _elsewhere(shared),
        _training(shared),
        _rights(shared),
    ]
    return f"---\n{_header(shared)}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _header(shared: Shared) -> str:
    summary = shared.summary or {}
    results = []
    for figure, label in (("best", ""), ("baseline", " of the base, at step 0")):
        value = summary.get(figure)
        if isinstance(value, int | float):
            results.append(
                EvalResult(
                    task_type=PIPELINES.get(shared.task, "other"),
                    dataset_type=_data_class(shared),
                    dataset_name=_data_class(shared),
                    metric_type=str(summary.get("metric")),
                    metric_name=f"{summary.get('metric')}{label}",
                    metric_value=value,
                )
            )
    library = "transformers" if shared.transformers else "peft" if shared.kind == "adapter" else "eomt"
    card = ModelCardData(
        # the hub would refuse a path of this machine
        base_model=shared.base if shared.is_on_hub else None,
        library_name=library,
        license=shared.license,
        license_name="dinov3-license" if shared.license == "other" else None,
        pipeline_tag=PIPELINES.get(shared.task),
        tags=["eomt", "lora"] if shared.kind == "adapter" else ["eomt"],
        eval_results=results or None,
        model_name=shared.name.rpartition("/")[2],
    )
    return card.to_yaml()


def _what(shared: Shared) -> str:
    on = f" on {_code(shared.base)}" if shared.base else ""
    what = "LoRA adapters" if shared.kind == "adapter" else "A merged model, without adapters,"
    return f"# {_plain(shared.name.rpartition('/')[2])}\n\n{what} for {shared.task}{on}, trained with eomt."


def _results(shared: Shared) -> str:
    summary = shared.summary
    if summary is None or summary.get("best") is None:
        return ""
    rows = [("the base as it came (step 0)", summary.get("baseline")), ("these weights", summary["best"])]
    table = [f"| | {_plain(summary.get('metric'))} |", "|---|---|"]
    table += [f"| {label} | {'not measured' if value is None else f'{value:.4f}'} |" for label, value in rows]
    notes = [f"- {_plain(note)}" for note in summary.get("notes") or []]
    counts = {split: of.get("images") for split, of in (summary.get("data") or {}).items() if isinstance(of, Mapping)}
    images = ", ".join(f"{count} {split}" for split, count in counts.items() if count is not None)
    data = f"Measured on the validation images of `{_data_class(shared)}`" + (
        f" (images: {images})." if images else "."
    )
    said = [_plain(verdict(summary)), "", *table, "", data]
    return "\n".join(["## Results", "", *said, *([""] if notes else []), *notes])


def _opening(shared: Shared) -> str:
    argument = ARGUMENTS.get(shared.task, "")
    return f"""## Use

```python
import eomt

model = eomt.load("{shared.name}")
result = model.predict("image.jpg"{argument})
result.draw().save("result.png")
```"""


def _elsewhere(shared: Shared) -> str:
    """Return how other libraries open the weights, where they do."""
    if shared.transformers:
        return f"""Without eomt, in transformers:

```python
from transformers import {shared.transformers}

model = {shared.transformers}.from_pretrained("{shared.name}").eval()
```"""
    if shared.kind != "adapter":
        return ""
    lines = base_in_its_library(shared.task, shared.config, shared.base)
    if lines is None:
        return (
            "Without eomt: these adapters are for a network that no other library builds so; a merged model may open "
            "there."
        )
    *code, inner = lines
    place = f', subfolder="{inner}"' if inner else ""
    what = f"of the part `{inner}`" if inner else "of the whole model"
    return f"""Without eomt, in PEFT, {what}:

```python
from peft import PeftModel
{NEWLINE.join(code)}
model = PeftModel.from_pretrained(base, "{shared.name}"{place}).eval()
```"""


def _training(shared: Shared) -> str:
    summary, adapter = shared.summary or {}, shared.adapter
    facts = []
    if adapter:
        targets = adapter.get("target_modules") or []
        facts.append(
            f"LoRA of rank {adapter.get('r')}, alpha {adapter.get('lora_alpha')}, dropout "
            f"{adapter.get('lora_dropout')} on {len(targets)} layers"
            + (", DoRA" if adapter.get("use_dora") else "")
            + (", rank-stabilized" if adapter.get("use_rslora") else "")
        )
        if adapter.get("modules_to_save"):
            facts.append(f"trained in full beside them: {_plain(', '.join(adapter['modules_to_save']))}")
    if summary.get("trainable_parameters") is not None:
        facts.append(f"{summary['trainable_parameters']:,} of {summary['total_parameters']:,} parameters were trained")
    if summary.get("audit"):
        facts.append(f"audit: {_plain(summary['audit'])}")
    if summary.get("merge_relative_diff") is not None:
        facts.append(f"merged against adapted: {summary['merge_relative_diff']:.1e} (relative)")
    if summary.get("merge_quantized_diff") is not None:
        kind, apart = summary["base"]["quantization"], summary["merge_quantized_diff"]
        facts.append(
            f"trained over a base in {kind}; merged into the base in full, which changes answers by {apart:.1e}"
        )
    arguments = (shared.config.get("model") or {}).get("init_args") or {}
    for name in ("lr", "base_lr", "weight_decay"):
        if arguments.get(name) is not None:
            facts.append(f"{name} {arguments[name]}")
    if summary.get("seed") is not None:
        facts.append(f"seed {summary['seed']}, {summary.get('steps')} steps")
    versions = summary.get("versions") or {"eomt": __version__}
    facts.append("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "## Training\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _rights(shared: Shared) -> str:
    if shared.license is None:
        return (
            "## Licence\n\nThe licence of the base is not known here: look it up before these weights are used, since "
            "it binds what was trained on it."
        )
    if shared.license == "other":
        return "## Licence\n\nThe DINOv3 licence of the base binds these weights."
    return f"## Licence\n\n{shared.license}."


def _data_class(shared: Shared) -> str:
    return str((shared.config.get("data") or {}).get("class_path") or "data").rpartition(".")[2]


def _fields(file: Path) -> dict[str, Any]:
    return read_json(file, FIELDS, "give another folder") if file.is_file() else {}


def _plain(text: Any) -> str:
    """Return a text that is no Markdown and no HTML."""
    found = printable(str(text))
    for letter in "\\`|<>[]*_#":
        found = found.replace(letter, "\\" + letter)
    return found


def _code(text: str) -> str:
    return "`" + printable(text).replace("`", "'") + "`"
