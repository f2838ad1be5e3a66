"""The audit of files: adapters and merged weights on disk, with or without the base that they are for."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eomt.errors import UserError, counted
from eomt.utils.module_paths import collapse_paths
from eomt.utils.tables import size_text, text_table
from eomt.verification.findings import AuditReport, Finding
from eomt.verification.stored.adapter import StoredAdapter, read_adapter
from eomt.verification.stored.base import fits, origin, read_base, relative_change
from eomt.verification.stored.changes import (
    base_findings,
    copied_findings,
    merged_findings,
    rounding_findings,
    size_findings,
)
from eomt.verification.stored.pairs import pair_findings, stored_pairs
from eomt.verification.stored.settings import settings_findings

# rows of the table, and findings of one kind, that are printed; the JSON has all
MOST_ROWS = 40
MOST_OF_A_KIND = 3
MOST_NOTES = 6


@dataclass(frozen=True)
class LayerUpdate:
    """The update of one layer.

    Attributes:
        path: Path of the layer.
        adapter: Name of the adapter, where the file has several.
        rank: Of the pair.
        factor: alpha / rank, or alpha / sqrt(rank) with rsLoRA; None where the file does not say.
        norm: Frobenius norm of factor * B A; NaN where values are not finite.
        relative: ||W' - W|| / ||W||; None without a base.
    """

    path: str
    adapter: str
    rank: int
    factor: float | None
    norm: float
    relative: float | None = None


@dataclass(frozen=True)
class FileReport:
    """What an audit of files found.

    Attributes:
        source: The file or folder.
        base: The base, if one was given.
        layout: Whose way of naming it has.
        size: Bytes of the files that were read.
        parameters: Values in pairs.
        in_full: Values in other tensors.
        layers: The updates, in the order of the file.
        findings: What was found.
        notes: What was measured beside, a line each.
    """

    source: Path
    base: Path | None
    layout: str
    size: int
    parameters: int
    in_full: int
    layers: list[LayerUpdate]
    findings: list[Finding]
    notes: list[str]

    @property
    def is_sound(self) -> bool:
        """Whether there is no fault."""
        return not any(finding.severity == "fault" for finding in self.findings)

    @property
    def status(self) -> int:
        """Exit status of a program that audits: 0 without faults, else 1."""
        return 0 if self.is_sound else 1

    def require(self, warn: bool = False) -> None:
        """Stop if there are faults.

        Args:
            warn: Log a warning in place of the error.

        Raises:
            AuditError: If there are; the message has the first one and how many more there are.
        """
        AuditReport(tuple(self.findings)).require(warn)

    @property
    def verdict(self) -> str:
        """The report in a line."""
        counts = {kind: sum(finding.severity == kind for finding in self.findings) for kind in ("fault", "warning")}
        said = ", ".join(counted(count, kind) for kind, count in counts.items() if count)
        ranks = sorted({layer.rank for layer in self.layers})
        what = f"{counted(len(self.layers), 'adapter')} of rank {_listed(ranks)}" if self.layers else "no adapters"
        if not self.layers and self.notes:
            what = self.notes[0].rstrip(".")
        return f"{'sound' if self.is_sound else 'not sound'}: {what}{f'; {said}' if said else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON, in which NaN has no place."""
        return {
            "source": str(self.source),
            "base": None if self.base is None else str(self.base),
            "sound": self.is_sound,
            "verdict": self.verdict,
            "layout": self.layout,
            "bytes": self.size,
            "adapter_parameters": self.parameters,
            "parameters_in_full": self.in_full,
            "findings": [finding.to_dict() for finding in self.findings],
            "layers": [{name: _plain(value) for name, value in vars(layer).items()} for layer in self.layers],
            "notes": self.notes,
        }

    def __str__(self) -> str:
        """Return it as lines for a person: the verdict, then findings, then the table."""
        lines = [self.verdict, f"{self.source}: {self.layout}, {size_text(self.size)}, {self._numbers()}"]
        shown: dict[tuple[str, str], list[Finding]] = {}
        for finding in _collapsed(self.findings):
            shown.setdefault((finding.severity, finding.kind), []).append(finding)
        for (severity, kind), findings in sorted(shown.items()):
            lines += [f"{severity} {kind}: {finding}" for finding in findings[:MOST_OF_A_KIND]]
            if len(findings) > MOST_OF_A_KIND:
                lines.append(f"{severity} {kind}: and {len(findings) - MOST_OF_A_KIND} more (--json has all)")
        left = len(self.notes) - MOST_NOTES
        more = [f"and {left} more lines (--json has all)"] if left > 0 else []
        return "\n".join([*lines, *self.notes[:MOST_NOTES], *more, *self._table()])

    def _numbers(self) -> str:
        full = f", {self.in_full:,} values in full" if self.in_full else ""
        return f"{self.parameters:,} values in adapters{full}"

    def _table(self) -> list[str]:
        groups: dict[tuple[str, ...], list[LayerUpdate]] = {}
        for layer in self.layers:
            factor = "-" if layer.factor is None else f"{layer.factor:g}"
            key = (_without_numbers(dotted(layer.path)), layer.adapter, str(layer.rank), factor)
            groups.setdefault(key, []).append(layer)
        has_base = any(layer.relative is not None for layer in self.layers)
        names = any(layer.adapter for layer in self.layers)
        head = [
            "layers",
            *(["adapter"] if names else []),
            "rank",
            "factor",
            "||s B A||",
            *(["of W"] if has_base else []),
        ]
        rows = [head]
        for (_, adapter, rank, factor), layers in groups.items():
            by_path = {dotted(layer.path): layer for layer in layers}
            texts = list(collapse_paths(list(by_path)))
            norms = _range([layer.norm for layer in layers])
            shares = _range([layer.relative for layer in layers if layer.relative is not None], "{:.2%}")
            cells = [*([adapter] if names else []), rank, factor, norms, *([shares] if has_base else [])]
            rows.append([texts[0] if len(texts) == 1 else f"{texts[0]} and {len(layers)} in all", *cells])
        left = len(rows) - 1 - MOST_ROWS
        table = text_table(rows[: MOST_ROWS + 1], numbers=range(2 if names else 1, len(head))) if groups else []
        return table + ([f"  and {left} rows more (--json has all)"] if left > 0 else [])


def _collapsed(findings: list[Finding]) -> list[Finding]:
    """Return findings of which those that differ only in the number of the layer are one."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.kind, finding.seen, finding.severity, _without_numbers(dotted(finding.where)))
        groups.setdefault(key, []).append(finding)
    return [
        replace(group[0], where=text)
        for group in groups.values()
        for text in collapse_paths(list(dict.fromkeys(dotted(finding.where) for finding in group)))
    ]


def _without_numbers(path: str) -> str:
    """Return what paths have in common that `collapse_paths` can put together."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", path)


def dotted(path: str) -> str:
    """Return a path with dots around its numbers, which kohya's names have underscores for."""
    if not path.startswith("lora_") or "." in path:
        return path
    return re.sub(r"_(\d+)(?=_|$)", r".\1.", path).replace("._", ".").rstrip(".")


def audit_files(adapter: str | Path, base: str | Path | None = None) -> FileReport:
    """Return what is in a file or folder of adapters, and what is wrong with it.

    Args:
        adapter: An adapter folder, a checkpoint, or weights; of a model that was merged, with its base.
        base: Weights that it is for: a file, or a folder in Hugging Face layout.

    Raises:
        UserError: If a file is missing or cannot be read, or weights without adapters come without a base.
    """
    stored = read_adapter(Path(adapter))
    pairs, findings = stored_pairs(stored)
    if not stored.parts and stored.config is None and base is None:
        raise UserError(f"{adapter}: holds no adapters; give an adapter, or the base it was made from with --base")
    notes: list[str] = []
    findings += pair_findings(stored, pairs) + settings_findings(stored, pairs)
    relative: dict[int, float | None] = {}
    opened, found = None, dict[str, str]()
    if base is not None:
        weights = [f"{pair.path}.weight" for pair in pairs]
        spans = (stored.config or {}).get("layer_replication")
        names = {name: origin(name, spans) for name in [*weights, *stored.full, *stored.base_copies]}
        opened = read_base(Path(base), [names[name] for name in weights])
        there = opened.find(dict.fromkeys(names.values()))
        found = {name: there[taken] for name, taken in names.items() if taken in there}
        if stored.parts:
            more, notes = base_findings(stored, pairs, opened, found)
        else:
            more, notes = merged_findings(stored, opened, found)
        findings += more
        notes += _other_names(weights, found)
        for index, pair in enumerate(pairs):
            weight = opened.tensors.get(found.get(f"{pair.path}.weight", ""))
            if weight is not None and pair.is_finite() and fits(pair, weight):
                relative[index] = relative_change(pair, weight)
        known = {pairs[index].path: value for index, value in relative.items() if value is not None}
        findings += rounding_findings(known, opened, found) + size_findings(known)
    findings += copied_findings(pairs, opened, found)
    layers = [
        LayerUpdate(
            pair.path,
            pair.adapter,
            pair.rank // len(pair.blocks),
            pair.factor,
            pair.norm() if pair.is_finite() else math.nan,
            relative.get(index),
        )
        for index, pair in enumerate(pairs)
    ]
    return FileReport(
        source=Path(adapter),
        base=None if base is None else Path(base),
        layout=stored.layout,
        size=sum(file.stat().st_size for file in stored.files),
        parameters=sum(pair.parameters for pair in pairs),
        in_full=_values_in_full(stored),
        layers=layers,
        findings=findings,
        notes=notes,
    )


def _values_in_full(stored: StoredAdapter) -> int:
    return sum(stored.tensors[name].numel() for names in (stored.full, stored.base_copies) for name in names.values())


def _other_names(weights: list[str], found: dict[str, str]) -> list[str]:
    """Return a line where names differ from the base's: what loads by name alone would find none of them."""
    other = next((name for name in weights if found.get(name, name) != name), None)
    return [f"{other} in the file is {found[other]} in the base."] if other else []


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _listed(ranks: list[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _range(values: list[float], form: str = "{:.3g}") -> str:
    """Return the least and the most of some values."""
    if not values:
        return "-"
    texts = [form.format(value) for value in (min(values), max(values))]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} - {texts[1]}"
