"""Paths of modules, many of them in few texts."""

import re
from typing import Any


def collapse_paths(paths: list[str]) -> dict[str, int]:
    """Return few texts such as `blocks.{0-11}.attn.qkv` that stand for many paths, each with its number of paths.

    A text stands for every combination of its numbers. Together the texts stand for exactly `paths`.

    Args:
        paths: Paths that differ only in numbers.
    """
    parts = [re.split(r"(?<=\.)(\d+)(?=\.|$)", path) for path in paths]
    places = range(1, len(parts[0]), 2)
    products: list[tuple[tuple[int, ...], ...]] = [tuple((int(part[place]),) for place in places) for part in parts]
    for position in reversed(range(len(places))):
        merged: dict[tuple[Any, ...], list[int]] = {}
        for product in products:
            rest = (product[:position], product[position + 1 :])
            merged.setdefault(rest, []).extend(product[position])
        products = [(*before, tuple(sorted(found)), *after) for (before, after), found in merged.items()]
    texts = {}
    for product in products:
        pieces, count = list(parts[0]), 1
        for place, numbers in zip(places, product, strict=True):
            pieces[place] = format_ranges(numbers)
            count *= len(numbers)
        texts["".join(pieces)] = count
    return texts


def format_ranges(numbers: tuple[int, ...]) -> str:
    """Return sorted numbers as text, such as `7`, `{0-11}` or `{0,2,4-6}`."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return "{" + ",".join(texts) + "}"
