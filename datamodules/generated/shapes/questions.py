"""Questions about a drawn scene, with answers that nobody can guess from the question."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from numpy.random import Generator

from datamodules.generated.shapes.scenes import COLORS, MOST_THINGS, SHAPES, SIDES, ShapeScene, Thing

QUESTION_TYPES = ("shape", "colour", "count", "location", "yes/no")
NUMBERS = tuple(str(number) for number in range(MOST_THINGS + 1))
ANSWERS = (*SHAPES, *COLORS, *NUMBERS, *SIDES, "yes", "no")

SHAPE_TEMPLATES = ("what shape is the {} thing?", "which shape is {}?", "what is the {} thing?")
COLOR_TEMPLATES = ("what colour is the {}?", "which colour does the {} have?", "the {} is of which colour?")
COUNT_TEMPLATES = ("how many {} are there?", "how many {} do you see?", "what is the number of {}?")
LOCATION_TEMPLATES = ("where is the {}?", "on which side is the {}?", "where do you see the {}?")
EXISTENCE_TEMPLATES = ("is there a {}?", "do you see a {}?")
PROPERTY_TEMPLATE = "is the {} {}?"

Item = TypeVar("Item")


@dataclass(frozen=True)
class SceneQuestion:
    """A question with its answer and its type, one of `QUESTION_TYPES`."""

    question: str
    answer: str
    question_type: str


def make_questions(scene: ShapeScene, number: int, random: Generator) -> list[SceneQuestion]:
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
    questions: list[SceneQuestion] = []
    for kind in order[:number] + spare:
        found = QUESTION_MAKERS[kind](scene, random)
        if found and len(questions) < number:
            questions.append(found)
    while len(questions) < number:
        questions.append(_another_question(scene, {one.question for one in questions}, random))
    return questions


def question_words() -> list[str]:
    """Return every word and mark that questions and answers use, sorted."""
    text = " ".join([*_all_templates(), *SHAPES, *map(_plural, SHAPES), *COLORS, *ANSWERS])
    return sorted(set(re.findall(r"\w+|[^\w\s{}]", text)))


def _all_templates() -> Iterator[str]:
    for templates in (SHAPE_TEMPLATES, COLOR_TEMPLATES, COUNT_TEMPLATES, LOCATION_TEMPLATES, EXISTENCE_TEMPLATES):
        yield from templates
    yield PROPERTY_TEMPLATE
    yield "things"


def _shape_question(scene: ShapeScene, random: Generator) -> SceneQuestion | None:
    thing = _choose([thing for thing in scene.things if _number(scene, thing.color) == 1], random)
    if thing is None:
        return None
    return SceneQuestion(_pick(SHAPE_TEMPLATES, random).format(thing.color), thing.shape, "shape")


def _color_question(scene: ShapeScene, random: Generator) -> SceneQuestion | None:
    thing = _choose([thing for thing in scene.things if _number(scene, thing.shape) == 1], random)
    if thing is None:
        return None
    return SceneQuestion(_pick(COLOR_TEMPLATES, random).format(thing.shape), thing.color, "colour")


def _count_question(scene: ShapeScene, random: Generator) -> SceneQuestion:
    # only of this word is every number equally likely
    word = scene.counted
    counted = _plural(word) if word in SHAPES else f"{word} things"
    return SceneQuestion(_pick(COUNT_TEMPLATES, random).format(counted), str(_number(scene, word)), "count")


def _location_question(scene: ShapeScene, random: Generator) -> SceneQuestion | None:
    thing = _choose([thing for thing in scene.things if thing.side], random)
    if thing is None or thing.side is None:
        return None
    names = [f"{thing.color} {thing.shape}"]
    if _number(scene, thing.shape) == 1:
        names.append(thing.shape)
    if _number(scene, thing.color) == 1:
        names.append(f"{thing.color} thing")
    return SceneQuestion(_pick(LOCATION_TEMPLATES, random).format(_pick(names, random)), thing.side, "location")


def _yes_no_question(scene: ShapeScene, random: Generator) -> SceneQuestion:
    # the answer is drawn first, so that both are equally likely whatever is asked
    return _existence_question(scene, random.random() < 0.5, random)


def _another_question(scene: ShapeScene, known: set[str], random: Generator) -> SceneQuestion:
    """Return a question of yes or no that was not asked yet."""
    truth = random.random() < 0.5
    while True:
        made = _existence_question(scene, truth, random)
        if made.question not in known:
            return made


def _existence_question(scene: ShapeScene, truth: bool, random: Generator) -> SceneQuestion:
    answer = "yes" if truth else "no"
    single = _choose([thing for thing in scene.things if _number(scene, thing.shape) == 1], random)
    if single is not None and random.random() < 0.3:
        color = single.color if truth else _pick([color for color in COLORS if color != single.color], random)
        return SceneQuestion(PROPERTY_TEMPLATE.format(single.shape, color), answer, "yes/no")
    shape, color = _present(scene, random) if truth else _absent(scene, random)
    named = " ".join(word for word in (color, shape or "thing") if word)
    return SceneQuestion(_pick(EXISTENCE_TEMPLATES, random).format(named), answer, "yes/no")


def _present(scene: ShapeScene, random: Generator) -> tuple[str, str]:
    """Return shape and color of a thing, one of them mostly left out."""
    thing = _pick(scene.things, random)
    kind = random.integers(3)
    return (thing.shape if kind != 0 else ""), (thing.color if kind != 1 else "")


def _absent(scene: ShapeScene, random: Generator) -> tuple[str, str]:
    """Return shape and color of what is not there, though half of it may be."""
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


def _number(scene: ShapeScene, word: str) -> int:
    """Return how many things have a shape or color."""
    return sum(word in (thing.shape, thing.color) for thing in scene.things)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _pick(items: Sequence[Item], random: Generator) -> Item:
    return items[int(random.integers(len(items)))]


def _choose(things: list[Thing], random: Generator) -> Thing | None:
    return _pick(things, random) if things else None


QUESTION_MAKERS: dict[str, Callable[[ShapeScene, Generator], SceneQuestion | None]] = {
    "shape": _shape_question,
    "colour": _color_question,
    "count": _count_question,
    "location": _location_question,
    "yes/no": _yes_no_question,
}
