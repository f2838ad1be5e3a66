"""Heat maps of anomaly scores: which images, which colours, which files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.results.anomalies import (
    ANOMALY,
    CELL_WIDTH,
    AnomalyResults,
    ScoredImage,
    SpreadSamples,
    heat,
    heat_scale,
    row,
    scale_legend,
    score_ranges,
    small,
)
from eomt.errors import UserError
from eomt.tasks import SemanticSegmentation
from tests.tiny import make_eomt


def sample_of(number: int) -> ScoredImage:
    return ScoredImage(str(number), torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("length", [1, 3, 4, 5, 17, 100, 1000])
def test_samples_are_spread_over_a_stream_of_any_length(length: int) -> None:
    spread = SpreadSamples(4)
    for number in range(length):
        if spread.offers_place():
            spread.keep(sample_of(number))
        assert len(spread.kept) < 8
    numbers = [int(sample.name) for sample in spread.chosen()]
    assert len(numbers) == min(length, 4)
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    if length >= 8:
        # the last quarter is seen too
        assert np.diff([*numbers, length]).max() <= length / 2
        assert numbers[-1] >= 0.7 * length


def test_colors_follow_the_scores_and_stop_at_the_ends_of_the_scale() -> None:
    colors = heat(torch.tensor([[-5.0, 0.0, 0.5, 1.0, 9.0]]), 0.0, 1.0)[:, 0].T.tolist()
    assert colors[0] == colors[1] == list(heat_scale()[0])
    assert colors[3] == colors[4] == list(heat_scale()[-1])
    brightness = (
        heat(torch.linspace(0, 1, 200)[None], 0.0, 1.0).double()[:, 0].T @ torch.tensor([0.3, 0.6, 0.1]).double()
    )
    assert (brightness.diff() > -1).all()
    assert brightness[-1] > brightness[0] + 150
    assert heat(torch.zeros(2, 2), 0.0, 0.0).shape == (3, 2, 2)


def test_each_score_has_one_scale_over_all_images_of_a_set() -> None:
    first = torch.stack([torch.zeros(30, 40), torch.full((30, 40), -7.0)])
    second = torch.stack([torch.ones(30, 40), torch.full((30, 40), -6.0)])
    second[0, 0, 0] = 1000.0  # one pixel does not stretch a scale
    ranges = score_ranges([first, second])
    assert ranges.tolist() == [[0.0, 1.0], [-7.0, -6.0]]
    least, most = scale_legend(["msp", "rba"], ranges)
    assert least == ("least anomalous: msp 0, rba -7", heat_scale()[0])
    assert most == ("most: msp 1, rba -6", heat_scale()[-1])


def test_large_images_are_kept_small_and_small_ones_as_copies() -> None:
    image, maps = torch.zeros(3, 100, 2 * CELL_WIDTH, dtype=torch.uint8), torch.rand(2, 100, 2 * CELL_WIDTH)
    truth = torch.full((100, 2 * CELL_WIDTH), 255)
    kept = small("a", image, maps, truth)
    assert kept.image.shape == (3, 50, CELL_WIDTH)
    assert kept.maps.shape == (2, 50, CELL_WIDTH)
    assert kept.truth is not None
    assert kept.truth.unique().tolist() == [255]
    batch = torch.zeros(8, 3, 4, 5, dtype=torch.uint8)
    assert small("a", batch[1], maps[:, :4, :5]).image.untyped_storage().nbytes() == 60


def test_the_truth_is_painted_and_left_out_where_it_is_not_known() -> None:
    truth = torch.zeros(4, 6, dtype=torch.long)
    truth[0], truth[1] = 1, 255
    image = torch.full((3, 4, 6), 100, dtype=torch.uint8)
    sample = ScoredImage("a", image, torch.rand(1, 4, 6), truth)
    (pictures,), titles = row(sample, ["rba"], torch.tensor([[0.0, 1.0]]))
    assert titles == ["image", "truth", "rba"]
    painted = pictures[1]
    assert torch.equal(painted[:, 2:], image[:, 2:])
    assert painted[2, 0, 0] > painted[0, 0, 0] + 50  # the anomaly's blue
    assert painted[:, 1, 0].unique().numel() == 1  # grey
    assert painted[0, 1, 0] != 100
    assert ANOMALY[2] > ANOMALY[0]
    sample.truth = None
    assert row(sample, ["rba"], torch.tensor([[0.0, 1.0]]))[1] == ["image", "rba"]


def make_batch(number: int, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch of one image and what the task answers."""
    maps: list[Tensor] = [torch.rand(6, 32, 48)]
    anomaly = torch.zeros(1, 32, 48, dtype=torch.long)
    anomaly[:, :8] = 1
    image = torch.full((1, 3, 32, 48), 100, dtype=torch.uint8)
    batch = {"image": image, "anomaly": anomaly, "name": [f"{dataset}/{number}.jpg"], "dataset": [dataset]}
    return batch, {"anomaly_maps": maps}


def test_files_for_each_set_and_for_predicted_images(tmp_path: Path) -> None:
    task = SemanticSegmentation(make_eomt(num_classes=3), num_points=64)
    trainer: Any = SimpleNamespace(
        is_global_zero=True,
        default_root_dir=str(tmp_path),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    callback = AnomalyResults(num_samples=2)
    assert not task.keeps_anomaly_maps
    callback.setup(trainer, task, "test")
    assert task.keeps_anomaly_maps
    callback.on_test_epoch_start(trainer, task)
    for number in range(5):
        for dataset in ("farm", "road/../x"):
            batch, outputs = make_batch(number, dataset)
            callback.on_test_batch_end(trainer, task, outputs, batch, number)
    batch, outputs = make_batch(0, "farm")
    callback.on_test_batch_end(trainer, task, outputs, batch | {"name": [""], "dataset": ["only padding"]}, 5)
    callback.on_test_batch_end(trainer, task, {"prediction": 0}, {"name": ["mask.png"]}, 6)
    callback.on_test_epoch_end(trainer, task)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert written == [f"pictures/anomaly_{name}_{n}.png" for name in ("farm", "road_x") for n in (1, 2)]
    with Image.open(tmp_path / written[0]) as picture:
        assert picture.width > 8 * 256  # image, truth and six scores

    batch, outputs = make_batch(7, "deep")
    callback.on_predict_batch_end(trainer, task, outputs, batch, 0)
    callback.on_predict_batch_end(trainer, task, outputs, batch | {"name": [""]}, 1)
    assert [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "predictions").rglob("*.png")] == [
        "predictions/anomaly/deep/7.jpg.png"
    ]


def test_other_tasks_and_no_samples_are_refused() -> None:
    with pytest.raises(UserError, match="num_samples: 0"):
        AnomalyResults(num_samples=0)
    with pytest.raises(UserError, match="AnomalyResults is for SemanticSegmentation"):
        AnomalyResults().setup(SimpleNamespace(), torch.nn.Identity(), "test")  # type: ignore[arg-type]


@pytest.mark.parametrize("save_scores", ["npy", "hdf5"])
@pytest.mark.parametrize("stage", ["test", "predict"])
def test_scores_are_files_of_their_own_where_they_are_wanted(tmp_path: Path, save_scores: Any, stage: str) -> None:
    """15 H: .hdf5 in half precision is what SegmentMeIfYouCan's code reads."""
    task = SemanticSegmentation(make_eomt(num_classes=3), num_points=64, anomaly_scores=("rba", "void"))
    strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda: None)
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path), strategy=strategy, callbacks=[])
    callback = AnomalyResults(1, save_scores)
    callback.setup(trainer, task, stage)
    getattr(callback, f"on_{stage}_epoch_start")(trainer, task)
    (batch, outputs), end = make_batch(7, "farm"), getattr(callback, f"on_{stage}_batch_end")
    maps = outputs["anomaly_maps"][0][:2]
    end(trainer, task, {"anomaly_maps": [maps]}, batch, 0)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "scores").rglob("*.*"))
    assert files == [f"scores/{score}/farm/7.{save_scores}" for score in ("rba", "void")]
    for file, expected in zip(files, maps.numpy(), strict=True):
        if save_scores == "npy":
            assert np.array_equal(np.load(tmp_path / file), expected)
        else:
            with h5py.File(tmp_path / file) as opened:
                assert opened["value"].dtype == np.float16
                assert np.array_equal(opened["value"][:], expected.astype(np.float16))
    with pytest.raises(UserError, match=r"farm/7\.png and farm/7\.jpg would share farm/7"):
        end(trainer, task, {"anomaly_maps": [maps]}, batch | {"name": ["farm/7.png"]}, 1)
    # the longest names of images, of which one of scores would be longer by a letter
    for name in ("x" * 251, "y" + "x" * 250):
        end(trainer, task, {"anomaly_maps": [maps]}, batch | {"name": [f"farm/{name}.png"]}, 2)
    assert len(list((tmp_path / "scores" / "rba" / "farm").iterdir())) == 3


def test_frames_of_lost_and_found_have_the_names_of_the_benchmark(tmp_path: Path) -> None:
    """15 H: SegmentMeIfYouCan reads 7.hdf5, and 7_leftImg8bit.hdf5 was written."""
    task = SemanticSegmentation(make_eomt(num_classes=3), num_points=64, anomaly_scores=("rba",))
    strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda: None)
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path), strategy=strategy)
    callback = AnomalyResults(1, "hdf5")
    callback.setup(trainer, task, "test")
    callback.on_test_epoch_start(trainer, task)
    batch, outputs = make_batch(7, "LostAndFound")
    names = {"name": ["LostAndFound/7_leftImg8bit.png"]}
    callback.on_test_batch_end(trainer, task, {"anomaly_maps": [outputs["anomaly_maps"][0][:1]]}, batch | names, 0)
    files = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "scores").rglob("*.hdf5")]
    assert files == ["scores/rba/LostAndFound/7.hdf5"]
