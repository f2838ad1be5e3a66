"""Hand-made baselines of morph detection."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from callbacks.results.morph_baselines import UNIFORM, baseline_figures, texture
from datamodules.faces.folders import Face


class Faces:
    """Noise, and morphs that are smoothed noise in one attack and noise as well in the other."""

    def __init__(self) -> None:
        self.parts = {"train": self._part("own", 40), "test": self._part("own", 20), "frll": self._part("frll", 20)}

    def _part(self, dataset: str, number: int) -> list[Face]:
        attacks = ["", "", "soft", "equal"] * (number // 4)
        return [
            Face(f"{index}", None, int(bool(attack)), attack, dataset=dataset)  # type: ignore[arg-type]
            for index, attack in enumerate(attacks)
        ]

    def tested_parts(self) -> list[str]:
        return ["test", "frll"]

    def faces(self, part: str) -> list[Face]:
        return self.parts[part]

    def map_images(self, function: Callable[[Tensor], Any], part: str, title: str) -> Sequence[Any]:
        answers = []
        for index, face in enumerate(self.parts[part]):
            random = np.random.default_rng([list(self.parts).index(part), index])
            picture = ndimage.gaussian_filter(random.normal(size=(3, 24, 24)), (0, 0.7, 0.7))
            if face.attack == "soft":
                picture = ndimage.gaussian_filter(picture, (0, 1.5, 1.5))
            answers.append(function(torch.from_numpy(np.clip(128 + 300 * picture, 0, 255).astype(np.uint8))))
        return answers


def test_baselines_are_given_for_every_set_and_attack_with_intervals() -> None:
    """15.19: what a network has to beat, for every set and attack."""
    data = Faces()
    figures = baseline_figures(data, data.tested_parts())
    for baseline in ("sharpness", "texture"):
        for dataset in ("own", "frll"):
            # smoothed noise is told from noise, and noise is not
            assert figures[f"eer_{baseline}/{dataset}/soft"] <= 0.2
            assert figures[f"eer_{baseline}/{dataset}/equal"] >= 0.2
            assert figures[f"eer_{baseline}_low/{dataset}/equal"] < figures[f"eer_{baseline}_high/{dataset}/equal"]
        of_sets = [figures[f"eer_{baseline}/{dataset}"] for dataset in ("own", "frll")]
        assert figures[f"eer_{baseline}"] == pytest.approx(np.mean(of_sets))
        assert figures[f"eer_{baseline}_worst_set"] == max(of_sets)
    assert figures == baseline_figures(data, data.tested_parts())


def test_patterns_are_those_of_eight_neighbors() -> None:
    """15.19: against a loop; brightness and contrast do not matter, and 58 of 256 patterns are uniform."""
    assert len(UNIFORM) == 58
    image = torch.randint(0, 100, (3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    gray = image.float().mean(0).numpy()
    counts = np.zeros(59)
    for row in range(1, 7):
        for column in range(1, 7):
            circle = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
            bits = [gray[row + r, column + c] >= gray[row, column] for r, c in circle]
            code = sum(bit << place for place, bit in enumerate(bits))
            changes = sum(bits[k] != bits[k - 1] for k in range(8))
            counts[UNIFORM.index(code) if changes <= 2 else 58] += 1
    found = texture(image)
    np.testing.assert_allclose(found[:59] ** 2, counts / 36, atol=1e-9)
    np.testing.assert_allclose(found[:59], texture(2 * image + 10)[:59])
    assert found.shape == (59 + 18,)
