"""The page of a predictor."""

from pathlib import Path

from eomt.demo.models import Models
from eomt.demo.pages.faces import MorphPage, ReconstructionPage
from eomt.demo.pages.objects import ObjectPage, SegmentPage
from eomt.demo.pages.page import Page
from eomt.demo.pages.prompted import PromptedPage
from eomt.demo.pages.questions import QuestionPage
from eomt.demo.pages.segmentation import SegmentationPage
from eomt.demo.prompted import PromptedWork
from eomt.demo.work import Work
from eomt.errors import UserError
from eomt.predictors.answers import AnswerPredictor
from eomt.predictors.faces import MorphPredictor, ReconstructionPredictor
from eomt.predictors.objects import InstancePredictor, PanopticPredictor
from eomt.predictors.prompted import PromptedPredictor
from eomt.predictors.segmentation import SegmentationPredictor

PAGES = {
    SegmentationPredictor: (SegmentationPage, Work),
    InstancePredictor: (ObjectPage, Work),
    PanopticPredictor: (SegmentPage, Work),
    PromptedPredictor: (PromptedPage, PromptedWork),
    MorphPredictor: (MorphPage, Work),
    ReconstructionPredictor: (ReconstructionPage, Work),
    AnswerPredictor: (QuestionPage, Work),
}


def page_of(models: Models, folder: Path) -> Page:
    """Return the page of a model.

    Args:
        models: The model.
        folder: Of all that is sent and made.

    Raises:
        UserError: If there is no page for its task.
    """
    for predictor, (page, work) in PAGES.items():
        if isinstance(models.first, predictor):
            return page(work(models, folder))
    raise UserError(f"demo: there is no page for {type(models.first).__name__}")
