"""A picture of the updates of an adapter: their norms by layer, a line for each target."""

import re
from pathlib import Path

from eomt.utils.files import write_file
from eomt.verification.stored.report import FileReport, LayerUpdate, dotted

# lines with a name of their own
MOST_LINES = 16


def plot_norms(report: FileReport, file: Path) -> None:
    """Write a picture of the norms by layer.

    Args:
        report: Of an audit of files.
        file: Picture that is written; its ending says in which format.

    Raises:
        UserError: If its folder cannot be written to.
    """
    # slow to import, and only needed here
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines: dict[str, list[LayerUpdate]] = {}
    for layer in report.layers:
        lines.setdefault(re.sub(r"\.\d+(?=\.|$)", "", f".{dotted(layer.path)}").strip("."), []).append(layer)
    shared = _common_beginning(list(lines))
    is_relative = any(layer.relative is not None for layer in report.layers)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (target, layers) in enumerate(sorted(lines.items())):
        layers.sort(key=lambda layer: [int(number) for number in re.findall(r"\d+", layer.path)])
        heights = [layer.relative if is_relative else layer.norm for layer in layers]
        style = "-" if index < 10 else "--"
        label = target.removeprefix(shared) or target
        axes.plot(
            range(len(layers)),
            [float("nan") if height is None else height for height in heights],
            style,
            marker="o",
            markersize=3.5,
            linewidth=1.2,
            label=label if index < MOST_LINES else None,
        )
    axes.set_xlabel("layer, in order")
    axes.set_ylabel("||s B A|| / ||W||" if is_relative else "||s B A||")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"Updates of {report.source.name}", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if lines:
        axes.legend(
            title=shared.strip(".") or None, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    write_file(file, lambda beside: figure.savefig(beside, dpi=150))


def _common_beginning(names: list[str]) -> str:
    """Return the dotted beginning that all names share, with its last dot."""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(f"{part}." for part in shared)
