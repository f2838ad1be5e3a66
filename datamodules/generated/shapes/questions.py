"""Questions about a drawn scene, with answers that nobody can guess from the question."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from numpy.random import Generator

from datamodules.generated.shapes.scenes import COLORS, MOST_THINGS, SHAPES, SIDES, Scene, Thing

QUESTION_TYPES = ("shape", "colour", "count", "location", "yes/no")
NUMBERS = tuple(str(number) for number in range(MOST_THINGS + 1))
ANSWERS = (*SHAPES, *COLORS, *NUMBERS, *SIDES, "yes", "no")

SHAPE_TEMPLATES = ("what shape is the {} thing?", "which shape is {}?", "what is the {} thing?")
COLOUR_TEMPLATES = ("what colour is the {}?", "which colour does the {} have?", "the {} is of which colour?")
COUNT_TEMPLATES = ("how many {} are there?", "how many {} do you see?", "what is the number of {}?")
LOCATION_TEMPLATES = ("where is the {}?", "on which side is the {}?", "where do you see the {}?")
EXISTENCE_TEMPLATES = ("is there a {}?", "do you see a {}?")
PROPERTY_TEMPLATE = "is the {} {}?"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Asked:
    """A question with its answer and its type, one of `QUESTION_TYPES`."""

    question: str
    answer: str
    question_type: str


def ask(scene: Scene, number: int, random: Generator) -> list[Asked]:
    """Return different questions about a scene.

    No type is asked twice, but yes/no where the scene has no clear question of another type.

    Args:
        scene: What is asked about.
        number: Of questions, 1 to 5.
        random: Source of the choice.
    """
    order = [QUESTION_TYPES[index] for index in random.permutation(len(QUESTION_TYPES))]
    # whether the number is asked for may not depend on it: one of three alike leaves fewer other questions
    spare = [kind for kind in order[number:] if kind != "count"]
    asked: list[Asked] = []
    for kind in order[:number] + spare:
        found = ASKERS[kind](scene, random)
        if found and len(asked) < number:
            asked.append(found)
    while len(asked) < number:
        asked.append(_ask_another(scene, {one.question for one in asked}, random))
    return asked


def question_words() -> list[str]:
    """Return every word and mark that questions and answers use, sorted."""
    text = " ".join([*_all_templates(), *SHAPES, *map(_plural, SHAPES), *COLORS, *ANSWERS])
    return sorted(set(re.findall(r"\w+|[^\w\s{}]", text)))


def _all_templates() -> Iterator[str]:
    for templates in (SHAPE_TEMPLATES, COLOUR_TEMPLATES, COUNT_TEMPLATES, LOCATION_TEMPLATES, EXISTENCE_TEMPLATES):
        yield from templates
    yield PROPERTY_TEMPLATE
    yield "things"


def _ask_shape(scene: Scene, random: Generator) -> Asked | None:
    thing = _choose([thing for thing in scene.things if _number(scene, thing.color) == 1], random)
    if thing is None:
        return None
    return Asked(_pick(SHAPE_TEMPLATES, random).format(thing.color), thing.shape, "shape")


def _ask_colour(scene: Scene, random: Generator) -> Asked | None:
    thing = _choose([thing for thing in scene.things if _number(scene, thing.shape) == 1], random)
    if thing is None:
        return None
    return Asked(_pick(COLOUR_TEMPLATES, random).format(thing.shape), thing.color, "colour")


def _ask_count(scene: Scene, random: Generator) -> Asked:
    # only of this word is every number equally likely
    word = scene.counted
    counted = _plural(word) if word in SHAPES else f"{word} things"
    return Asked(_pick(COUNT_TEMPLATES, random).format(counted), str(_number(scene, word)), "count")


def _ask_location(scene: Scene, random: Generator) -> Asked | None:
    thing = _choose([thing for thing in scene.things if thing.side], random)
    if thing is None or thing.side is None:
        return None
    names = [f"{thing.color} {thing.shape}"]
    if _number(scene, thing.shape) == 1:
        names.append(thing.shape)
    if _number(scene, thing.color) == 1:
        names.append(f"{thing.color} thing")
    return Asked(_pick(LOCATION_TEMPLATES, random).format(_pick(names, random)), thing.side, "location")


def _ask_yes_no(scene: Scene, random: Generator) -> Asked:
    # the answer is drawn first, so that both are equally likely whatever is asked
    return _ask_whether(scene, random.random() < 0.5, random)


def _ask_another(scene: Scene, known: set[str], random: Generator) -> Asked:
    """Return a question of yes or no that was not asked yet."""
    truth = random.random() < 0.5
    while True:
        asked = _ask_whether(scene, truth, random)
        if asked.question not in known:
            return asked


def _ask_whether(scene: Scene, truth: bool, random: Generator) -> Asked:
    answer = "yes" if truth else "no"
    single = _choose([thing for thing in scene.things if _number(scene, thing.shape) == 1], random)
    if single is not None and random.random() < 0.3:
        color = single.color if truth else _pick([color for color in COLORS if color != single.color], random)
        return Asked(PROPERTY_TEMPLATE.format(single.shape, color), answer, "yes/no")
    shape, color = _present(scene, random) if truth else _absent(scene, random)
    named = " ".join(word for word in (color, shape or "thing") if word)
    return Asked(_pick(EXISTENCE_TEMPLATES, random).format(named), answer, "yes/no")


def _present(scene: Scene, random: Generator) -> tuple[str, str]:
    """Return shape and colour of a thing, one of them mostly left out."""
    thing = _pick(scene.things, random)
    kind = random.integers(3)
    return (thing.shape if kind != 0 else ""), (thing.color if kind != 1 else "")


def _absent(scene: Scene, random: Generator) -> tuple[str, str]:
    """Return shape and colour of what is not there, though half of it may be."""
    kind = random.integers(3)
    if kind == 0:
        return "", _pick([color for color in COLORS if not _number(scene, color)], random)
    if kind == 1:
        return _pick([shape for shape in SHAPES if not _number(scene, shape)], random), ""
    there = {(thing.shape, thing.color) for thing in scene.things}
    near = [pair for pair in _pairs() if pair not in there and any(_shares(pair, thing) for thing in scene.things)]
    return _pick(near, random)


def _pairs() -> list[tuple[str, str]]:
    return [(shape, color) for shape in SHAPES for color in COLORS]


def _shares(pair: tuple[str, str], thing: Thing) -> bool:
    return pair[0] == thing.shape or pair[1] == thing.color


def _number(scene: Scene, word: str) -> int:
    """Return how many things have a shape or colour."""
    return sum(word in (thing.shape, thing.color) for thing in scene.things)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _pick(items: Sequence[Item], random: Generator) -> Item:
    return items[int(random.integers(len(items)))]


def _choose(things: list[Thing], random: Generator) -> Thing | None:
    return _pick(things, random) if things else None


ASKERS: dict[str, Callable[[Scene, Generator], Asked | None]] = {
    "shape": _ask_shape,
    "colour": _ask_colour,
    "count": _ask_count,
    "location": _ask_location,
    "yes/no": _ask_yes_no,
}
