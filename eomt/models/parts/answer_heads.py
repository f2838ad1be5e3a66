"""The classification heads of a question answering network: one for answers, one for types of questions."""

from torch import nn

from eomt.errors import UserError
from eomt.models.parts.gated_fusion import DROPOUT
from eomt.models.weights.vqa import AnswerHead


def check_heads(answer_head: AnswerHead, answers: list[str] | None, question_types: list[str] | None) -> None:
    """Check the arguments that decide about heads, before anything is built.

    Args:
        answer_head: Generative or classification.
        answers: Answers that classification chooses from.
        question_types: Types of questions; None for no type head.

    Raises:
        UserError: If the kind of head is unknown, or a head has nothing to choose from.
    """
    if answer_head not in ("generative", "classification"):
        raise UserError(f"answer_head: {answer_head!r}; must be generative or classification")
    if answer_head == "classification" and not answers:
        raise UserError(f"answers: {answers!r}; classification needs at least one (with a config from the data)")
    if question_types is not None and not question_types:
        raise UserError("question_types: []; must be at least one, or null for no type head")


def make_classifier(width: int, num_answers: int) -> nn.Sequential:
    """Return a classifier of answers, (B, width) to (B, num_answers), with one hidden layer."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(width, num_answers)
    )


def make_type_head(width: int, num_types: int) -> nn.Sequential:
    """Return a linear classifier of question types, (B, width) to (B, num_types)."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_types))
