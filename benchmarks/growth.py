"""How time and memory grow with the batch, the image, the queries, classes and rank, and with the entries of the data.

    python -m benchmarks.growth [PLOT]

Of each axis it prints time and memory at each point, and the exponent between the last three points, which stand in
equal ratios: of t = a + b x^p, whatever the constant a is, p is log((t3 - t2) / (t2 - t1)) / log(x3 / x2). So a part
that does not grow does not make a line look flat. `PLOT` is the name of a PNG file.
"""

import math
import os
import pickle
import resource
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.growth_data import WORK, write_data
from eomt.lora.config import LoRAConfig
from eomt.models import EoMT, ViT
from eomt.tasks import SemanticSegmentation
from eomt.verification.kept import kept_bytes

# of a step; on an axis one of them takes the values beside it
STEP = {"batch": 2, "side": 128, "queries": 50, "classes": 20, "rank": 8}
AXES: dict[str, tuple[int, ...]] = {
    "batch": (2, 4, 8),
    "side": (128, 256, 512),
    "queries": (50, 200, 800),
    "classes": (2, 20, 200),
    "rank": (3, 24, 192),
}
ENTRIES = (1_000, 10_000, 100_000)
ROUNDS = 5
# below it, and where the whole axis adds less than a share, an exponent is noise
SHARE = 0.1


class Point(NamedTuple):
    """A value on an axis, and what it cost."""

    value: int
    seconds: float
    mib: float


def step_at(batch: int, side: int, queries: int, classes: int, rank: int) -> Point:
    """Return the least CPU time of some training steps, and what autograd keeps of a forward pass.

    Other work on the machine only ever adds to a time. The value on the axis is filled in later.
    """
    torch.manual_seed(0)
    encoder = ViT("vit_tiny_patch16_224", (side, side), pretrained=False)
    lora = LoRAConfig(rank=rank, lora_alpha=rank, target_modules=["attention", "mlp"], freeze_base_model=True)
    network = EoMT(encoder, num_classes=classes, num_q=queries, num_blocks=4)
    task = SemanticSegmentation(network, lora, lr=1e-3, num_points=1024).train()
    image = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    # as many objects on every axis
    mask = (torch.arange(side) * 2 // side).repeat(batch, side, 1)
    data = {"image": image, "mask": mask, "name": [str(index) for index in range(batch)]}
    seconds, mib = [], 0.0
    # the first step also fills caches
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        loss = task.losses(data)[0]["loss"]
        mib = mib or kept_bytes(task.network, loss).total / 2**20
        loss.backward()
        seconds.append(time.process_time() - start)
    return Point(0, min(seconds[1:]), mib)


def alone(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a function returns in a process of its own, its CPU time, and the MiB by which that process grew."""
    reader, writer = os.pipe()
    if not (process := os.fork()):
        status = 1
        try:
            # bars and warnings of small sets
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()
            found = work()
            seconds = time.process_time() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump((found, seconds, grown), pipe)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if os.waitpid(process, 0)[1]:
        raise SystemExit("error: a measurement failed; see above")
    return pickle.loads(answer)


def exponent(points: Sequence[Point], values: Sequence[float]) -> str:
    """Return the exponent of what grows between the last three points, or "-" where it hardly grows."""
    first, second, third = values[-3:]
    if third - first < SHARE * max(third, 1e-9) or second <= first or third <= second:
        return "-"
    ratio = points[-1].value / points[-2].value
    return f"{math.log((third - second) / (second - first)) / math.log(ratio):.2f}"


def measure_steps() -> dict[str, list[Point]]:
    """Return the points of each axis of a step."""
    found = {}
    for axis, values in AXES.items():
        found[axis] = []
        for value in values:
            point, _, _ = alone(partial(step_at, **(STEP | {axis: value})))
            found[axis].append(point._replace(value=value))
        print_row(f"step: {axis}", found[axis])
    return found


def measure_entries() -> dict[str, list[Point]]:
    """Return the points of each kind of work over the entries of a data set."""
    found: dict[str, list[Point]] = {name: [] for name in WORK}
    for number in ENTRIES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_data(folder, number)
            for kind, work in WORK.items():
                _, seconds, mib = alone(partial(work, folder, number))
                found[kind].append(Point(number, seconds, mib))
    for kind, points in found.items():
        print_row(kind, points)
    return found


def print_row(name: str, points: Sequence[Point]) -> None:
    """Print a row of the table."""
    columns = [f"{points[0].value} -> {points[-1].value}"]
    for values, form in (
        ([point.seconds for point in points], "{:.3f}"),
        ([point.mib for point in points], "{:.0f}"),
    ):
        columns += [" / ".join(form.format(value) for value in values), exponent(points, values)]
    print(f"| {name} | {' | '.join(columns)} |", flush=True)


def draw(file: Path, steps: dict[str, list[Point]], entries: dict[str, list[Point]]) -> None:
    """Draw time and memory over each axis, in units of its first point, in logarithmic scales."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(14, 8), constrained_layout=True)
    for row, (title, of_kind) in enumerate((("a training step", steps), ("entries of a data set", entries))):
        for column, (what, field) in enumerate((("CPU seconds", "seconds"), ("MiB", "mib"))):
            panel = panels[row, column]
            most = 1.0
            for name, points in of_kind.items():
                x = [point.value / points[0].value for point in points]
                y = [max(getattr(point, field), 1e-3) for point in points]
                most = max(most, x[-1])
                panel.plot(x, y, marker="o", label=name.partition(":")[0])
            middle = statistics.median(max(getattr(points[0], field), 1e-3) for points in of_kind.values())
            panel.plot([1, most], [middle, middle * most], color="0.6", linestyle="--", label="linear")
            panel.set(xscale="log", yscale="log", xlabel="size, in units of the first point", title=f"{title}: {what}")
            panel.grid(True, which="major", color="0.9")
            panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(file, dpi=90)


def main() -> None:
    """Print the table, and draw it."""
    torch.set_num_threads(1)
    print("| what grows | from -> to | CPU s | exponent | MiB | exponent |\n|---|---|---|---|---|---|")
    steps, entries = measure_steps(), measure_entries()
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]), steps, entries)


if __name__ == "__main__":
    main()
