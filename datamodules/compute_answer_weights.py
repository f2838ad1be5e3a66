"""Writes the answer weights of a training split: `python -m datamodules.compute_answer_weights --train_csv FILE`."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datamodules.answer_vocabulary import count_answers
from datamodules.answer_weights import METHODS, weigh_answers
from datamodules.question_pairs import read_annotated_answers
from datamodules.question_rows import read_questions
from datamodules.vqa_csv import VQACsv
from eomt.errors import UserError

# fields of VQACsv that make its training split another one than the whole file
SPLIT_FIELDS: dict[str, type] = {
    "val_csv": str,
    "test_csv": str,
    "image_folder": str,
    "val_fraction": float,
    "test_fraction": float,
    "split_seed": int,
    "splits": str,
    "on_missing": str,
    "on_leak": str,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a file of answer weights, whole or not at all, and print a line about it.

    Raises:
        UserError: A file or a value cannot be used.
    """
    given = _parser().parse_args(arguments)
    split_fields = {name: value for name in SPLIT_FIELDS if (value := getattr(given, name)) is not None}
    if given.train_annotations is not None:
        answers = read_annotated_answers(Path(given.train_annotations))
    elif split_fields:
        answers = [row.answer for row in VQACsv(given.train_csv, **split_fields).rows("train")]
    else:
        answers = [row.answer for row in read_questions(Path(given.train_csv), Path, None).rows]
    counts = count_answers(answers, given.min_count)
    weights = weigh_answers(counts, given.method, given.beta, given.cap, given.min_count)
    _write(Path(given.output), weights.to_json())
    least, most = min(weights.weights.values()), max(weights.weights.values())
    print(
        f"{given.output}: {len(weights.counts)} answers of {sum(weights.counts.values())} training rows, "
        f"weights {least:.3f} to {most:.3f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datamodules.compute_answer_weights", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--train_csv", help="training rows, as of VQACsv")
    source.add_argument("--train_annotations", help="training annotations, as of VQAv2")
    parser.add_argument("--method", choices=METHODS, default="sqrt_inverse", help="formula, by falling count")
    parser.add_argument("--beta", type=float, default=0.99, help="of the effective number")
    parser.add_argument("--cap", type=float, default=10.0, help="largest weight")
    parser.add_argument("--min_count", type=int, default=1, help="min_answer_count of the data")
    parser.add_argument("--output", default="answer_weights.json", help="file to write")
    splits = parser.add_argument_group("fields of VQACsv, where its training split is not the whole of train_csv")
    for name, kind in SPLIT_FIELDS.items():
        splits.add_argument(f"--{name}", type=kind)
    return parser


def _write(file: Path, text: str) -> None:
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}): give another --output") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(beside, 0o644)
        os.replace(beside, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}): give another --output") from error
    finally:
        Path(beside).unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
