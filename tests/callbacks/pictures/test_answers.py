import numpy as np
import torch

from callbacks.pictures.answers import AnswerSample, answer_sheet, by_question


def test_cards_stand_in_the_order_of_the_samples() -> None:
    grays = (200, 30, 120)
    samples = [
        AnswerSample(name, torch.full((3, 4, 4), gray, dtype=torch.uint8), "?", "", "a", "a", 1.0)
        for name, gray in zip("bca", grays, strict=True)
    ]
    pixels = np.asarray(answer_sheet(samples))
    width = pixels.shape[1] // 3
    assert tuple(int(pixels[60, width * place + width // 2, 0]) for place in range(3)) == grays
    assert [sample.name for sample in by_question(samples)] == ["a", "b", "c"]
