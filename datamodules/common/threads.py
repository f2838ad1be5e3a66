"""One function over many files, in threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.progress import track

from eomt.utils.rank import rank

PROGRESS_BAR_ABOVE = 500

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    """Return `function` of each item, in order; the first exception of any of them is raised.

    Reading files and Pillow's decoding happen outside the interpreter's lock. Many items show a bar with `title`.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(function, items)
        if len(items) > PROGRESS_BAR_ABOVE and rank() == 0:
            return list(track(results, description=title, total=len(items), transient=True))
        return list(results)
