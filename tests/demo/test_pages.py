"""The functions behind the pages, without a browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")

import gradio as gr

from eomt.demo.models import BASE, Models
from eomt.demo.pages.classes import ClassPage
from eomt.demo.pages.faces import MorphPage, ReconstructionPage
from eomt.demo.pages.objects import ObjectPage
from eomt.demo.pages.of_predictors import page_of
from eomt.demo.pages.page import answered
from eomt.demo.pages.prompted import PromptedPage
from eomt.demo.pages.questions import QuestionPage
from eomt.demo.pages.segmentation import SegmentationPage, thinned
from eomt.demo.prompted import INCLUDE
from eomt.demo.sessions import MOST_KEPT
from eomt.demo.work import shown_size
from eomt.errors import UserError
from eomt.predictors.answers import AnswerPredictor
from eomt.predictors.classes import ClassPredictor
from eomt.predictors.faces import MorphPredictor, ReconstructionPredictor
from eomt.predictors.objects import InstancePredictor, PanopticPredictor
from eomt.predictors.of_tasks import EoMTQueries
from eomt.predictors.predictor import Predictor
from eomt.results import SegmentationResult
from tests.demo_server import CLASSES, CPU, adapted, picture, prompted_models, segmentation_models
from tests.tiny import make_eomt
from tests.tiny_classification import make_classifier
from tests.tiny_morph import make_detector, make_mae


class Answerer:
    """In place of a network that answers."""

    img_size = (8, 8)

    def answer(self, images: Any, ids: Any, *_: Any, **__: Any) -> list[str]:
        return [f"<i>{len(row)}</i>" for row in ids]


class Tokens:
    """In place of a table of tokens."""

    padding_id = 0

    def __init__(self) -> None:
        self.ids: dict[str, list[int]] = {}

    def add(self, questions: Any) -> None:
        self.ids |= {question: [1] * len(question) for question in questions}


def test_segmentation_shows_classes_shares_and_anomalies(tmp_path: Path) -> None:
    page = page_of(segmentation_models(), tmp_path)
    assert isinstance(page, SegmentationPage)
    image = picture(tmp_path)
    drawn, legend, anomaly, files = page.opened(page.answer)("key", str(image), "trained", "rba", 0.6)
    with page.work.models.using("trained") as predictor:
        expected = predictor.predict(image, anomaly=["rba"])  # type: ignore[attr-defined]
    shown = expected.draw(0.6).resize(drawn.size, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(shown))
    assert anomaly.size == drawn.size
    assert files["visible"] is False
    # the name of a class is text, and no HTML
    assert "<b>" not in legend
    assert all(f"{100 * share:.1f} %" in legend for share in expected.shares().values() if share)
    (pair,) = page.compare("key", BASE, True, "trained", "rba", 1.0)
    assert np.abs(np.asarray(pair[0]).astype(int) - np.asarray(pair[1])).max() > 0
    assert page.compare("key", BASE, False, "trained", "rba", 1.0) == (None,)
    (made,) = page.make_files("key", "trained", "rba", 0.6)
    assert [Path(path).name for path in made["value"]] == ["street.png", "street.csv", "street.json"]
    assert all(Path(path).is_relative_to(tmp_path) for path in made["value"])
    for score in ("msp", "energy", "void"):
        page.answer("key", "trained", score, 0.6)
    assert len(page.work.sessions.of("key").results) == MOST_KEPT


@pytest.mark.parametrize("kind", [InstancePredictor, PanopticPredictor])
def test_objects_are_listed_and_follow_the_threshold(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_eomt(num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        for parameter in (network.class_head.weight, network.q.weight, network.mask_head[4].weight):
            torch.nn.init.normal_(parameter, std=0.5)
    given = {"overlap_threshold": 0.0} if kind is PanopticPredictor else {}
    predictor = kind(EoMTQueries(network), CLASSES, CPU, score_threshold=0.1, **given)
    page = page_of(Models(network, lambda _: predictor, "trained"), tmp_path)
    assert isinstance(page, ObjectPage)
    assert isinstance(page.blocks(), gr.Blocks)
    image = picture(tmp_path)
    (model,) = page.work.models.names
    drawn, legend, files = page.opened(page.answer)("key", str(image), model, 0.1, 0.5)
    expected = predictor.predict(image, threshold=0.1)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected.draw(0.5).resize(drawn.size, 0)))
    assert legend.count("<tr>") == len(expected) > 1
    # the name of a class is text, and no HTML
    assert "<b>" not in legend
    assert files["visible"] is False
    _, fewer, _ = page.answer("key", model, 1.0, 0.5)
    assert fewer == "<p>Nothing above the threshold.</p>"
    (made,) = page.make_files("key", model, 0.1, 0.5)
    assert [Path(path).name for path in made["value"]] == ["street.png", "street.csv", "street.json"]


def test_a_large_result_is_thinned_before_it_is_drawn() -> None:
    classes = np.arange(3300 * 10).reshape(10, 3300) % 3
    image = np.repeat(classes[..., None], 3, 2).astype(np.uint8)
    found = thinned(SegmentationResult(image, classes, CLASSES, {"rba": classes.astype(np.float32)}))
    assert found.size == (5, 1650)
    np.testing.assert_array_equal(found.class_map, found.image[..., 0])
    np.testing.assert_array_equal(found.class_map, found.anomaly["rba"])
    assert thinned(found) is found
    found.draw()
    found.draw_anomaly()


def test_a_click_on_the_picture_is_a_click_on_the_image(tmp_path: Path) -> None:
    page = page_of(prompted_models(), tmp_path)
    assert isinstance(page, PromptedPage)
    asked = ("trained", False, 0.6)
    empty, _, _ = page.opened(page.answer)("key", str(picture(tmp_path)), *asked)
    times = empty.width // 48
    masked, table, _ = page.click("key", [20 * times + 3, 10 * times + 5], INCLUDE, *asked)
    assert page.work.drawing("key").marks.objects[0].points == ((20, 10, 1),)
    assert "expected IoU" in table
    assert np.asarray(masked).tobytes() != np.asarray(empty).tobytes()
    page.click("key", [10**6, -5], INCLUDE, *asked)
    assert page.work.drawing("key").marks.objects[0].points[-1] == (47, 0, 1)
    page.take_back("key", *asked)
    assert np.asarray(page.take_back("key", *asked)[0]).tobytes() == np.asarray(empty).tobytes()


def test_a_drag_over_the_picture_is_a_box_of_the_image(tmp_path: Path) -> None:
    page = page_of(prompted_models(), tmp_path)
    assert isinstance(page, PromptedPage)
    image = picture(tmp_path)
    width, height = Image.open(image).size
    page.opened(page.answer)("key", str(image), "trained", False, 0.6)
    times = shown_size(width, height)[0] / width
    # from the lower right corner, beyond the edge, to a pixel
    page.drag("key", f"[99999, 99999, {3.5 * times}, {2.5 * times}, 1]", "trained", False, 0.6)
    marked = page.work.drawing("key").marks.objects[-1]
    assert marked.box == (3, 2, width - 1, height - 1)
    for bad in ("", "[1, 2, 3]", "{}", "[1, 2, NaN, 4, 1]", "[1, 2, [], 4, 1]", "[1, 2, 1e999, 4, 1]", "null"):
        with pytest.raises(UserError, match="draw it again"):
            page.drag("key", bad, "trained", False, 0.6)
    assert page.work.drawing("key").marks.objects[-1] == marked


def test_the_verdict_on_a_face_follows_the_threshold(tmp_path: Path) -> None:
    def predictor(network: Any) -> Predictor[Any]:
        return MorphPredictor(network, 0.25, CPU)

    page = page_of(Models(make_detector().eval(), predictor, "trained"), tmp_path)
    assert isinstance(page, MorphPage)
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 15:] = 200
    Image.fromarray(half).save(tmp_path / "half.png")
    _, low, _ = page.opened(page.answer)("key", str(tmp_path / "half.png"), "trained", 0.0)
    assert "a morph" in low
    assert "bona fide" in page.answer("key", "trained", 1.0)[1]
    score = page.work.result("key", "trained").score
    exact = float(np.nextafter(score, 1))
    page.work.models.first.threshold = exact  # type: ignore[attr-defined]
    assert "bona fide" in page.answer("key", "trained", round(exact, 3))[1]
    page.work.models.first.threshold = score  # type: ignore[attr-defined]
    assert "a morph" in page.answer("key", "trained", round(score, 3))[1]
    Image.new("RGB", (40, 40), "gray").save(tmp_path / "gray.png")
    assert "one color" in page.opened(page.answer)("key", str(tmp_path / "gray.png"), "trained", 0.5)[1]


def test_the_likeliest_classes_stand_beside_a_photo(tmp_path: Path) -> None:
    def predictor(network: Any) -> Predictor[Any]:
        return ClassPredictor(network, ["<b>ape</b>", "bee", "cat"], CPU)

    page = page_of(Models(make_classifier().eval(), predictor, "trained"), tmp_path)
    assert isinstance(page, ClassPage)
    shown, verdict, classes, _ = page.opened(page.answer)("key", str(picture(tmp_path)), "trained")
    result = page.work.result("key", "trained")
    assert f"probability {result.score:.3f}" in verdict
    assert classes.count("<tr>") == 3
    # names are text and no page
    assert "<b>ape" not in classes + verdict
    assert "&lt;b&gt;ape" in classes
    assert shown.width % 48 == 0


def test_a_reconstruction_follows_its_seed(tmp_path: Path) -> None:
    def predictor(network: Any) -> Predictor[Any]:
        return ReconstructionPredictor(network, CPU)

    page = page_of(Models(make_mae().eval(), predictor, "trained"), tmp_path)
    assert isinstance(page, ReconstructionPage)
    first = page.opened(page.answer)("key", str(picture(tmp_path)), "trained", 0)
    again, other = page.answer("key", "trained", 0), page.answer("key", "trained", 1)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[0].tobytes() != other[0].tobytes()
    assert page.answer("key", "trained", None)[0].tobytes() == first[0].tobytes()
    (made,) = page.make_files("key", "trained", 0)
    assert [Path(path).suffix for path in made["value"]] == [".png", ".csv"]


def test_a_question_is_answered_as_text_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predictor(network: Any) -> Predictor[Any]:
        return AnswerPredictor(Answerer(), Tokens(), CPU)  # type: ignore[arg-type]

    page = page_of(Models(adapted(make_mae()), predictor, "trained"), tmp_path)
    assert isinstance(page, QuestionPage)
    image = str(picture(tmp_path))
    assert page.opened(page.show)("key", image, "trained", "")[1] == ""
    html = page.answer("key", "trained", " what? ")[0]
    assert "&lt;i&gt;5&lt;/i&gt;" in html
    assert "<i>" not in html
    assert BASE in html
    for question in ("", "  ", None, "a" * 301):
        with pytest.raises(UserError, match="question"):
            page.answer("key", "trained", question)
    monkeypatch.setattr("eomt.demo.pages.questions.MOST_QUESTIONS", 3)
    for number in range(9):
        page.answer("key", "trained", f"what {number}?")
    assert len(page.work.models.first.tokens.ids) <= 3  # type: ignore[attr-defined]


def test_a_refusal_is_told_and_a_failure_names_no_path(caplog: pytest.LogCaptureFixture) -> None:
    request = gr.Request(session_hash="key")

    def refuses(key: str, text: str) -> tuple[Any, ...]:
        raise UserError(f"image: {text}")

    def fails(key: str, text: str) -> tuple[Any, ...]:
        raise OSError(2, "no such file", "/srv/secret")

    found, message = answered(refuses, request, ("<script>",))
    assert found is None
    assert "&lt;script&gt;" in message
    found, message = answered(fails, request, ("",))
    assert found is None
    assert "Something went wrong" in message
    assert "secret" not in message


def test_a_model_without_a_page_is_refused(tmp_path: Path) -> None:
    models = Models(make_mae(), lambda network: Predictor(), "trained")
    with pytest.raises(UserError, match="there is no page for Predictor"):
        page_of(models, tmp_path)


@pytest.mark.parametrize("size", [(48, 32), (1, 97), (4000, 3000), (960, 10), (1599, 1601), (8000, 1)])
def test_a_picture_is_shown_in_its_proportions(size: tuple[int, int]) -> None:
    shown = shown_size(*size)
    assert max(shown) <= 1600
    assert min(shown) >= 1
    assert abs(shown[0] / size[0] - shown[1] / size[1]) < 1 or min(shown) == 1
