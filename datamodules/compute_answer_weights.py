"""Answer weights of a training split: `python -m datamodules.compute_answer_weights --train_csv FILE`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from datamodules.questions.answer_weights import METHODS, weigh_answers
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import OnMissing, read_questions
from datamodules.questions.types import Language, check_language
from datamodules.questions.vocabulary import count_answers
from datamodules.questions.vqa_csv import VQACsv
from datamodules.questions.vqa_v2 import VQA_TYPES
from datamodules.questions.vqa_v2_files import read_annotated_answers, read_pair
from eomt.errors import UserError, shortened
from eomt.utils.files import write_file
from eomt.utils.output import lasting_output
from eomt.utils.paths import expand

# fields of VQACsv that make its training split another one than the whole file, or are needed to read it
SPLIT_FIELDS: dict[str, type] = {
    "val_csv": Path,
    "test_csv": Path,
    "image_folder": Path,
    "val_fraction": float,
    "test_fraction": float,
    "split_seed": int,
    "splits": Path,
    "on_leak": str,
    "question_types": str,
}
# the same of VQAv2
PAIR_FIELDS = ("train_questions", "train_images")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a file of answer weights, whole or not at all, and print a line about it.

    Args:
        arguments: Words of the command line; None for those of the process.

    Raises:
        UserError: A file or a value cannot be used.
    """
    given = vars(_parser().parse_args(arguments))
    for name, path in given.items():
        if name != "output" and isinstance(path, Path) and expand(path).resolve() == expand(given["output"]).resolve():
            raise UserError(f"output: {shortened(str(path), 80)} is --{name}, and would be replaced; give another file")
    answers = _answers_of_pair(given) if given["train_annotations"] is not None else _answers_of_csv(given)
    counts = count_answers(answers, given["min_count"], given["language"])
    weights = weigh_answers(counts, given["method"], given["beta"], given["cap"], given["min_count"])
    _write(expand(given["output"]), weights.to_json())
    least, most = min(weights.weights.values()), max(weights.weights.values())
    print(
        f"{given['output']}: {len(weights.counts)} answers of {sum(weights.counts.values())} training rows, "
        f"weights {least:.3f} to {most:.3f}"
    )


def _answers_of_csv(given: dict[str, Any]) -> list[str]:
    if wrong := [name for name in PAIR_FIELDS if given[name] is not None]:
        raise UserError(f"{wrong[0]}: belongs to --train_annotations, not to --train_csv; leave it out")
    fields = {name: given[name] for name in (*SPLIT_FIELDS, "on_missing") if given[name] is not None}
    if fields:
        data = VQACsv(given["train_csv"], language=given["language"], **fields)
        return [row.answer for row in data.rows("train")]
    rows = read_questions(expand(given["train_csv"]), Path, None).rows
    check_language([row.question for row in rows], given["language"], str(given["train_csv"]))
    return [row.answer for row in rows]


def _answers_of_pair(given: dict[str, Any]) -> list[str]:
    if wrong := [name for name in SPLIT_FIELDS if given[name] is not None]:
        raise UserError(f"{wrong[0]}: belongs to --train_csv, not to --train_annotations; leave it out")
    annotations = expand(given["train_annotations"])
    questions, images = (expand(given[name]) for name in PAIR_FIELDS)
    if given["on_missing"] is None and questions is None and images is None:
        return read_annotated_answers(annotations)
    if questions is None or images is None:
        raise UserError("train_questions, train_images: one is missing; give both, or neither and no on_missing")
    on_missing: OnMissing = given["on_missing"] or "error"
    return [row.answer for row in read_pair(questions, annotations, ImageFinder(images), VQA_TYPES, on_missing).rows]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datamodules.compute_answer_weights", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--train_csv", type=Path, help="training rows, as of VQACsv")
    source.add_argument("--train_annotations", type=Path, help="training annotations, as of VQAv2")
    parser.add_argument("--language", choices=get_args(Language), default="en", help="of the data: of equal answers")
    parser.add_argument("--method", choices=METHODS, default="sqrt_inverse", help="formula, by falling count")
    parser.add_argument("--beta", type=float, default=0.99, help="of the effective number")
    parser.add_argument("--cap", type=float, default=10.0, help="largest weight")
    parser.add_argument("--min_count", type=int, default=1, help="min_answer_count of the data")
    parser.add_argument("--output", type=Path, default=Path("answer_weights.json"), help="file to write")
    parser.add_argument("--on_missing", choices=get_args(OnMissing), help="of the data: skip rows without their image")
    splits = parser.add_argument_group("fields of VQACsv, where its training split is not the whole of train_csv")
    for name, kind in SPLIT_FIELDS.items():
        splits.add_argument(f"--{name}", type=kind, nargs="+" if name == "question_types" else None)
    pair = parser.add_argument_group("fields of VQAv2, where questions are left out for want of their image")
    for name in PAIR_FIELDS:
        pair.add_argument(f"--{name}", type=Path)
    return parser


def _write(file: Path, text: str) -> None:
    if not file.absolute().parent.is_dir():
        raise UserError(f"{file}: cannot be written (no such folder); give another --output")
    write_file(file, lambda beside: beside.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    with lasting_output():
        try:
            main()
            sys.stdout.flush()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
