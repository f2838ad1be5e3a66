"""Division of people into blocks such that few morphs have their two people in different ones."""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

Weights = Mapping[str, Mapping[str, float]]

# people of a block that are looked at for an exchange, those with most to gain first
CANDIDATES = 30
# beyond so many people with morphs, exchanges take minutes
MOST_PEOPLE = 4000


def pair_weights(groups: Iterable[Iterable[str]]) -> dict[str, dict[str, float]]:
    """Return for each person the number of morphs with each other one.

    Args:
        groups: The people of each morph.
    """
    weights: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for group in groups:
        for first, second in combinations(sorted(set(group)), 2):
            weights[first][second] += 1
            weights[second][first] += 1
    return {node: dict(others) for node, others in weights.items()}


def divide_people(
    sizes: Mapping[str, Mapping[str, int]], members: Mapping[str, Sequence[str]], weights: Weights, seed: int
) -> dict[str, str]:
    """Return a block for each person: each block gets its number of people of each kind, whatever the pairs are.

    A block is filled from a person drawn by the seed, always with whoever has the largest share of morphs in it
    already; then people of two blocks change places as long as more morphs are whole (Kernighan and Lin, Bell System
    Technical Journal 1970). Morphs in small blocks weigh more, or the largest would draw all of them.

    Args:
        sizes: By block, the number of people of each kind.
        members: The people of each kind.
        weights: See `pair_weights`.
        seed: Of the draw; the order of `members` does not matter.
    """
    kind_of = {node: kind for kind, nodes in members.items() for node in nodes}
    order = sorted(kind_of, key=lambda node: hashlib.sha256(f"{seed}/{node}".encode()).hexdigest())
    totals = {block: sum(of_kind.values()) for block, of_kind in sizes.items()}
    block_of: dict[str, str] = {}
    for block in sorted(sizes, key=lambda block: (totals[block], block)):
        _fill(block, Counter(sizes[block]), order, kind_of, weights, block_of)
    if len(weights) <= MOST_PEOPLE:
        worth = {block: max(1, total) ** -0.5 for block, total in totals.items()}
        _exchange([node for node in order if node in weights], kind_of, weights, block_of, worth)
    return block_of


def _fill(
    block: str,
    room: Counter[str],
    order: Sequence[str],
    kind_of: Mapping[str, str],
    weights: Weights,
    block_of: dict[str, str],
) -> None:
    place = {node: index for index, node in enumerate(order)}
    # of a person, the morphs: many, where everybody is morphed with everybody
    totals = {node: sum(others.values()) for node, others in weights.items()}
    pull: Counter[str] = Counter()
    near: list[tuple[float, int, str]] = []
    fresh = iter(order)
    while room.total():
        node = heapq.heappop(near)[2] if near else next(fresh)
        if node in block_of or not room[kind_of[node]]:
            continue
        block_of[node] = block
        room[kind_of[node]] -= 1
        for other, weight in weights.get(node, {}).items():
            if other not in block_of:
                pull[other] += weight  # type: ignore[assignment]
                share = pull[other] / totals[other]
                heapq.heappush(near, (-share, place[other], other))


def _exchange(
    nodes: Sequence[str],
    kind_of: Mapping[str, str],
    weights: Weights,
    block_of: dict[str, str],
    worth: Mapping[str, float],
) -> None:
    place = {node: index for index, node in enumerate(nodes)}
    inside: dict[str, Counter[str]] = {node: Counter() for node in nodes}
    for node in nodes:
        for other, weight in weights[node].items():
            inside[node][block_of[other]] += weight  # type: ignore[assignment]

    def gain(node: str, block: str) -> float:
        own = block_of[node]
        return worth[block] * inside[node][block] - worth[own] * inside[node][own]

    def best_exchange(first: str, second: str) -> tuple[float, str, str] | None:
        found = None
        for kind in sorted(set(kind_of.values())):
            sides = [
                heapq.nsmallest(
                    CANDIDATES,
                    (node for node in nodes if block_of[node] == own and kind_of[node] == kind),
                    key=lambda node, to=to: (-gain(node, to), place[node]),  # type: ignore[misc]
                )
                for own, to in ((first, second), (second, first))
            ]
            for one in sides[0]:
                for other in sides[1]:
                    between = weights[one].get(other, 0) * (worth[first] + worth[second])
                    value = gain(one, second) + gain(other, first) - between
                    if value > 1e-9 and (found is None or value > found[0]):
                        found = value, one, other
        return found

    # each exchange makes the sum of worth larger, so this ends
    changed = True
    while changed:
        changed = False
        for first, second in combinations(sorted(worth), 2):
            while (best := best_exchange(first, second)) is not None:
                changed = True
                for node, own, to in ((best[1], first, second), (best[2], second, first)):
                    block_of[node] = to
                    for other, weight in weights[node].items():
                        inside[other][own] -= weight  # type: ignore[assignment]
                        inside[other][to] += weight  # type: ignore[assignment]
