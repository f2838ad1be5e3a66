"""The images of a tested batch, each with a figure of its own and a way to draw it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from callbacks.evaluation import EvaluatedBatch
from callbacks.pictures.objects import object_pictures, shows_objects
from callbacks.pictures.predictions import at_size, errors, shown_classes, with_prompts
from callbacks.results.best_and_worst import Candidate, Drawn
from callbacks.results.class_answers import ClassAnswer
from eomt.metrics.answer_scores import soft_accuracy
from eomt.metrics.image_quality import image_quality
from eomt.pictures.colors import PAPER
from eomt.pictures.masks import overlay
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import class_names_of
from eomt.tasks.image_classification import ImageClassification
from eomt.tasks.morph_detection import MorphDetection
from eomt.tasks.object_segmentation import ObjectSegmentation, crowds_of
from eomt.tasks.visual_question_answering import VisualQuestionAnswering
from eomt.utils.images import shown_channels
from eomt.utils.labels import IGNORE_INDEX

# pixels of one of the four pictures of a map, and of a small image that is enlarged
CELL_WIDTH, CARD_WIDTH = 238, 320
# size of texts in them, in widths of a picture: the page shows cards smaller than they are
CARD_TEXT_SHARE = 1 / 16
# between the pictures of a sheet
GAP = 4
# from this ratio of its sides on, a picture is too flat for half a card
WIDE = 3


@dataclass(frozen=True)
class Kind:
    """What examples of a task are ordered by, and what their pictures show."""

    caption: str
    picture: str


MAPS = Kind(
    "By the IoU of each image, the mean over the classes that occur in its truth or its prediction.",
    "image, truth, prediction and wrong pixels, in reading order",
)
OBJECTS = Kind(
    "By the panoptic quality of each image over all its classes: the sum of the IoU of matches (0.5 and more), "
    "divided by their number and half of the wrong and the missed objects.",
    "image, true objects, found objects with their scores, and wrong pixels, in reading order",
)
IMAGES = Kind("By the probability that the network gave to the truth.", "the image")
ANSWERS = Kind("By the accuracy of each answer; among equals, by a hash of their names.", "the image")


def kind_of(task: LightningModule) -> Kind:
    """Return what examples of a task are ordered by."""
    if isinstance(task, MorphDetection | ImageClassification):
        return IMAGES
    if isinstance(task, ObjectSegmentation):
        return OBJECTS
    return ANSWERS if isinstance(task, VisualQuestionAnswering) else MAPS


def candidates(trainer: Trainer, task: LightningModule, evaluated: EvaluatedBatch) -> Iterator[Candidate]:
    """Yield the images or questions of a tested batch that are no padding and have a figure of their own.

    Args:
        trainer: That tests.
        task: Whose answers these are: MorphDetection, ImageClassification, VisualQuestionAnswering, or one that returns
            `prediction`, maps of class ids, and maybe objects, as `PredictionPictures` takes them; others yield none.
        evaluated: The batch.
    """
    if isinstance(task, MorphDetection):
        yield from _faces(evaluated, task.threshold)
    elif isinstance(task, ImageClassification):
        yield from _classified(evaluated, class_names_of(trainer), task.network.multi_label)
    elif isinstance(task, VisualQuestionAnswering):
        yield from _answers(evaluated, task.language)
    elif shows_objects(evaluated.batch, evaluated.outputs):
        yield from _objects(trainer, evaluated)
    elif isinstance(evaluated.outputs, Mapping) and "prediction" in evaluated.outputs:
        yield from _maps(trainer, task, evaluated)


def image_iou(prediction: Tensor, truth: Tensor, has_background: bool) -> float:
    """Return the mean IoU of the classes of one image.

    Args:
        prediction: Class ids, int `(H, W)`.
        truth: Class ids alike; 255 is not looked at.
        has_background: Whether 0 is no class.

    Returns:
        In [0, 1]; nan where neither truth nor prediction has a class.
    """
    size = IGNORE_INDEX + 1
    cells = (truth.long() * size + prediction.long()).flatten()
    # rows are the truth; that of ignored pixels is the last
    counts = cells.bincount(minlength=size**2).view(size, size)[:-1]
    shared = counts.diagonal()
    union = counts.sum(0)[:-1] + counts.sum(1) - shared
    found = union > 0
    if has_background:
        found[0] = False
    return float((shared[found] / union[found]).mean()) if found.any() else math.nan


def _maps(trainer: Trainer, task: LightningModule, evaluated: EvaluatedBatch) -> Iterator[Candidate]:
    batch, outputs = evaluated.batch, evaluated.outputs
    truths = outputs.get("mask", batch.get("mask"))
    if truths is None:
        return
    has_background = isinstance(task, AdaptationTask) and task.has_background
    _, colors = shown_classes(trainer)
    for place in evaluated.real():
        iou = image_iou(outputs["prediction"][place], truths[place], has_background)
        if math.isnan(iou):
            continue

        def draw(place: int = place, iou: float = iou) -> Drawn:
            truth, prediction = truths[place].cpu(), outputs["prediction"][place].cpu()
            image = at_size(shown_channels(batch["image"][place]).cpu(), truth.shape)
            cells = [
                with_prompts(image, outputs, place),
                overlay(image, truth, colors),
                overlay(image, prediction, colors),
                errors(image, truth, prediction),
            ]
            return Drawn(sheet_of([to_pil_image(cell) for cell in cells]), [f"IoU {iou:.4f}"])

        yield Candidate(batch["name"][place], iou, draw)


def _objects(trainer: Trainer, evaluated: EvaluatedBatch) -> Iterator[Candidate]:
    batch, outputs = evaluated.batch, evaluated.outputs
    names, _ = shown_classes(trainer)
    for place in evaluated.real():
        found, truth = outputs["found"][place], (batch["masks"][place], batch["labels"][place])
        quality, numbers = image_quality(found.masks, found.labels, *truth, crowds_of(batch)[place])
        if math.isnan(quality):
            continue

        def draw(place: int = place, quality: float = quality, numbers: Mapping[str, int] = numbers) -> Drawn:
            pictures = object_pictures(batch, outputs["found"][place], place, len(names) - 1, CARD_TEXT_SHARE)
            image = shown_channels(batch["image"][place]).cpu()
            maps = outputs["mask"][place].cpu(), outputs["prediction"][place].cpu()
            cells = [image, *pictures, errors(image, *maps)]
            counted = ", ".join(f"{number} {what}" for what, number in numbers.items())
            return Drawn(sheet_of([to_pil_image(cell) for cell in cells]), [f"quality {quality:.4f}: {counted}"])

        yield Candidate(batch["name"][place], quality, draw)


def _faces(evaluated: EvaluatedBatch, threshold: float) -> Iterator[Candidate]:
    batch, scores = evaluated.batch, evaluated.outputs["scores"].tolist()
    for place in evaluated.real():
        score, is_morph = scores[place], bool(batch["label"][place])

        def draw(place: int = place, score: float = score, is_morph: bool = is_morph) -> Drawn:
            truth = f"morph, {batch['attack'][place]}" if is_morph else "bona fide"
            said = "" if math.isnan(threshold) else f", called {'morph' if score >= threshold else 'bona fide'}"
            lines = [f"truth: {truth}", f"probability of a morph {score:.4f}{said}"]
            return Drawn(_card(batch["image"][place]), lines)

        yield Candidate(f"{batch['dataset'][place]}/{batch['name'][place]}", score if is_morph else 1 - score, draw)


def _classified(evaluated: EvaluatedBatch, names: list[str], several: bool) -> Iterator[Candidate]:
    batch, probabilities = evaluated.batch, evaluated.outputs["probabilities"]
    for place in evaluated.real():
        answer = ClassAnswer.of(probabilities[place], batch["label"][place], names, several)

        def draw(place: int = place, answer: ClassAnswer = answer) -> Drawn:
            lines = [f"truth: {answer.truth}", f"answer: {answer.label}, {answer.confidence:.3f}"]
            return Drawn(_card(batch["image"][place]), lines)

        yield Candidate(batch["name"][place], answer.of_truth, draw)


def _answers(evaluated: EvaluatedBatch, language: Any) -> Iterator[Candidate]:
    batch, answers = evaluated.batch, evaluated.outputs["predicted"]
    for place in evaluated.real():
        accuracy = soft_accuracy(answers[place], batch["answers"][place], language)

        def draw(place: int = place, accuracy: float = accuracy) -> Drawn:
            lines = [
                batch["question"][place],
                f"truth: {batch['answer'][place]}",
                f"answer: {answers[place] or '(nothing)'}, accuracy {accuracy:.2f}",
            ]
            return Drawn(_card(batch["image"][int(batch["image_index"][place])]), lines)

        yield Candidate(batch["name"][place], accuracy, draw)


def _card(image: Tensor) -> Image.Image:
    """Return an image, enlarged by whole pixels where it is small."""
    picture = to_pil_image(shown_channels(image).cpu())
    factor = max(1, CARD_WIDTH // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def sheet_of(cells: list[Image.Image]) -> Image.Image:
    """Return pictures of one size as rows of two; those that are much wider than high, one below the other."""
    columns = 1 if cells[0].width > WIDE * cells[0].height else 2
    width = CELL_WIDTH * 2 // columns
    height = max(1, round(cells[0].height * width / cells[0].width))
    method = Image.Resampling.NEAREST if cells[0].width < width else Image.Resampling.BOX
    rows = -(-len(cells) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, PAPER)
    for number, cell in enumerate(cells):
        place = (number % columns * (width + GAP), number // columns * (height + GAP))
        sheet.paste(cell.resize((width, height), method), place)
    return sheet
