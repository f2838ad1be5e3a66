"""Prompted segmentation: what is trained, that evaluation depends on nothing, that an image is encoded once."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers
from eomt.lora.config import LoRAConfig
from eomt.models.sam2 import default_lora
from eomt.prompts import Prompts, PromptSampling
from eomt.tasks import PromptedSegmentation
from eomt.tasks.index_maps import index_map
from eomt.tasks.prompted_segmentation import ABSENT_MASKS
from tests.tiny_sam2 import IMAGE_SIZE, make_image, make_sam2

NAMES = ["pit", "line", "scratch", "patch"]


def make_task(prompt_free: bool = False, lora: LoRAConfig | None = None, **arguments: Any) -> PromptedSegmentation:
    torch.manual_seed(0)
    network = make_sam2(prompt_free=prompt_free, num_classes=len(NAMES))
    task = PromptedSegmentation(network, lora or default_lora(prompt_free), **arguments)
    trainer: Any = SimpleNamespace(
        datamodule=SimpleNamespace(class_names=NAMES, repeats_images=True),
        num_devices=1,
        state=SimpleNamespace(fn="test"),
        precision_plugin=Precision(),
    )
    task._trainer = trainer
    task.setup("test")
    return task.eval()


def rectangle(top: int, left: int, height: int, width: int, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def samples(size: tuple[int, int] = (32, 96)) -> list[dict[str, Any]]:
    """Six images of a file's size: two objects, one, none, one of a single pixel, ..."""
    masks = [
        [rectangle(4, 10, 12, 20, size), rectangle(20, 50, 6, 30, size)],
        [rectangle(0, 0, 5, 5, size)],
        [],
        [rectangle(31, 95, 1, 1, size)],
        [rectangle(8, 8, 16, 70, size), rectangle(2, 2, 4, 4, size), rectangle(25, 70, 5, 20, size)],
        [rectangle(10, 30, 10, 10, size)],
    ]
    ids = [[0, 3], [2], [], [1], [0, 1, 2], [3]]
    images = make_image(len(masks))
    return [
        {
            "image": images[i],
            "masks": torch.stack(own) if own else torch.zeros(0, *size, dtype=torch.bool),
            "class_ids": torch.tensor(ids[i], dtype=torch.int64),
            "name": f"{i}.png",
        }
        for i, own in enumerate(masks)
    ]


def collate(chosen: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [sample[name] for sample in chosen] for name in chosen[0]}
    return batch | {"image": torch.stack(batch["image"])}


@torch.no_grad()
def figures(task: PromptedSegmentation, batch_size: int, order: list[int] | None = None) -> dict[str, float]:
    chosen = [samples()[i] for i in order or range(6)]
    task.setup("test")
    for start in range(0, len(chosen), batch_size):
        task._evaluate(collate(chosen[start : start + batch_size]))
    found = {
        f"{mode}_{name}": value for mode, metric in task.metrics.items() for name, value in metric.compute().items()
    }
    return found | {"loss": float(task.evaluation_loss.compute())}


@pytest.mark.parametrize("prompt_free", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_every_adapter_acts_and_learns(prompt_free: bool, full: bool) -> None:
    task = make_task(prompt_free, LoRAConfig(enabled=False) if full else None)
    assert task.audit(task.synthetic_batch(2)).faults == ()
    task.train()
    task.losses(task.synthetic_batch(2))[0]["loss"].backward()
    encoder = {path: layer for path, layer in lora_layers(task.network).items() if "vision_encoder" in path}
    assert full or encoder
    assert all(layer.lora_b.grad is not None and layer.lora_b.grad.any() for layer in encoder.values())


def test_classes_that_are_never_answered_are_a_fault_at_the_end() -> None:
    """With a dead gate all adapters act and learn, and every answer is empty."""
    task = make_task(prompt_free=True)
    presence = task.network.presence
    assert presence is not None
    for layer in lora_layers(task.network).values():
        nn.init.normal_(layer.lora_b, std=0.02)
    batch = task.synthetic_batch(2) | {"image": make_image(2)}
    for bias, kinds in ((9.0, set()), (-9.0, {"dead_gate"})):
        presence.bias.data.fill_(bias)
        report = task.audit(batch, stage="end")
        assert {finding.kind for finding in report.findings} == kinds, report
        assert task.audit(batch).is_sound
    batch["masks"] = [masks[:0] for masks in batch["masks"]]
    batch["class_ids"] = [ids[:0] for ids in batch["class_ids"]]
    assert task.audit_answers(task.network, batch) == {}


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("clicks", [0, 2])
def test_the_loss_is_the_sum_over_clicks_and_falls(probability: float, clicks: int) -> None:
    sampling = PromptSampling(probability, correction_clicks=clicks)
    task = make_task(sampling=sampling).train()
    calls: list[Tensor] = []
    task.criterion.register_forward_hook(lambda module, inputs, output: calls.append(output["loss"]))
    batch = task.synthetic_batch(2)
    losses = task.losses(batch)[0]
    assert len(calls) == clicks + 1
    torch.testing.assert_close(losses["loss"], torch.stack(calls).sum())
    optimizer = torch.optim.Adam([p for p in task.network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(25):
        torch.manual_seed(0)
        loss = task.losses(batch)[0]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.8 * float(losses["loss"].detach())


def test_memory_is_estimated_on_the_image_with_the_most_objects() -> None:
    """Of images with one and with four objects, a second image seemed to cost seven objects."""
    task = make_task(sampling=PromptSampling(max_objects=4))
    batch = task.synthetic_batch(3)
    for name in ("masks", "class_ids"):
        batch[name] = [batch[name][0][:1], batch[name][1][:3], batch[name][2][:0]]
    for size in (1, 2):
        first = task.first_samples(batch, size)
        assert [len(masks) for masks in first["masks"]] == [3] * size
        assert first["image"].equal(batch["image"][[1] * size])
        assert first["name"] == ["synthetic 1"] * size
        task.losses(first)


def test_a_click_gets_three_masks_and_everything_else_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for probability, first in ((0.0, True), (1.0, False)):
        task = make_task(sampling=PromptSampling(probability, correction_clicks=2))
        asked: list[tuple[bool, bool]] = []
        decode = task.network.decode

        def spy(*args: Any, decode: Any = decode, asked: list = asked, **arguments: Any) -> Any:
            asked.append((arguments["multimask"], arguments.get("masks") is not None))
            return decode(*args, **arguments)

        monkeypatch.setattr(task.network, "decode", spy)
        task.losses(task.synthetic_batch(1))
        assert asked == [(first, False), (False, True), (False, True)]


@pytest.mark.parametrize("prompt_free", [False, True])
def test_an_image_is_encoded_once_for_all_modes(prompt_free: bool) -> None:
    task = make_task(prompt_free)
    calls: list[int] = []
    task.network.model.vision_encoder.backbone.patch_embed.register_forward_hook(lambda *args: calls.append(1))
    task._evaluate(collate(samples()[:4]))
    assert len(calls) == 1
    assert set(task.metrics) == {"box", "centre", "points", "none"}


@pytest.mark.parametrize("prompt_free", [False, True])
def test_figures_depend_on_neither_batch_nor_order_nor_random_state(prompt_free: bool) -> None:
    task = make_task(prompt_free)
    expected = figures(task, 1)
    torch.manual_seed(99)
    for others in (figures(task, 4), figures(task, 3, [5, 3, 1, 0, 4, 2])):
        assert others.keys() == expected.keys()
        for name, value in others.items():
            # another batch sums some 64 x 64 pixels in another order, each rounded by 1.2e-7 of itself
            assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-6, nan_ok=True), name
    assert expected["box_n_evaluated"] == 8
    assert expected["box_n_images"] == 6
    assert expected["box_n_skipped"] == 0


def test_masks_are_measured_at_the_size_of_the_file() -> None:
    task = make_task()
    sizes = [tuple(mask.shape) for mask in task._evaluate(collate(samples()))["prediction"]]
    assert sizes == [(32, 96)] * 6


def test_a_perfect_answer_scores_one_and_an_empty_one_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(prompt_free=True)
    for fill, expected in ((None, 1.0), (-9.0, 0.0)):

        def found(prediction: Any, truths: Any, mode: str, fill: Any = fill) -> list[Tensor]:
            return [masks if fill is None else torch.zeros_like(masks) for masks, _ in truths]

        monkeypatch.setattr(task, "_found", found)
        measured = figures(task, 2)
        for mode in task.modes:
            assert (
                measured[f"{mode}_iou"] == measured[f"{mode}_pooled_dice"] == measured[f"{mode}_macro_iou"] == expected
            )
        assert measured["none_kaggle_dice"] == (1.0 if fill is None else pytest.approx(16 / 24))
        assert measured["none_kaggle_dice_all_empty"] == pytest.approx(16 / 24)


def logged(task: PromptedSegmentation, stage: str = "test", command: str = "test") -> dict[str, float]:
    """What a stage over all samples logs."""
    found: dict[str, float] = {}
    task._trainer.state.fn = command  # type: ignore[union-attr,assignment]
    vars(task).update(log=lambda name, value, **_: found.update({name: float(value)}))
    vars(task).update(log_dict=lambda values, **_: found.update(values))
    task.setup("test")
    with torch.no_grad():
        task._evaluate(collate(samples()))
    task._log_metrics(stage)
    return found


def test_what_the_prompt_alone_gives_stands_beside_every_prompted_figure() -> None:
    """15.4: a box had IoU .563 after training, and the same box, filled, .575; nothing said so."""
    found = logged(make_task())
    # every mask is a rectangle, so that each box is its mask, and a disc is not
    assert found["test_box_filled_iou"] == found["test_box_filled_dice"] == 1.0
    for mode in ("centre", "points"):
        assert 0 < found[f"test_{mode}_disc_iou"] < found[f"test_{mode}_disc_dice"] < 1
    assert "test_none_filled_iou" not in found
    notes = make_task(watch="centre").notes(found, "test")
    assert "come from the true masks (mode centre)" in notes[0]
    assert f"test_centre_disc_iou {found['test_centre_disc_iou']:.4f}" in notes[1]


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("prompt_free", [False, True])
def test_kaggle_s_dice_is_shown_where_absent_classes_are_asked_too(prompt_free: bool, command: str) -> None:
    """15.3: of present classes alone it cannot fall below its baseline, and stood beside a contest's figure."""
    found = logged(make_task(prompt_free), command=command)
    names = {name for name in found if "kaggle" in name}
    wanted = {"test_none_kaggle_dice", "test_none_kaggle_dice_all_empty"}
    assert names == (wanted if prompt_free else set())


def test_watched_without_prompts_the_figure_that_selects_falls_with_false_alarms() -> None:
    """15.2: val_iou rose from .11 to .44 while Kaggle's Dice was .19, and .74 for an empty answer."""
    task = make_task(prompt_free=True, watch="none")
    assert task.monitor == "val_none_kaggle_dice"
    assert task.file_metrics[0] == "none_kaggle_dice"
    # all classes are absent before training
    silent = logged(task)
    assert silent["test_none_kaggle_dice"] == silent["test_none_kaggle_dice_all_empty"] == pytest.approx(16 / 24)
    assert task.network.presence is not None
    with torch.no_grad():
        task.network.presence.bias.fill_(9)
    loud = logged(task)
    assert loud["test_none_kaggle_dice"] < silent["test_none_kaggle_dice"]
    assert task.monitor.replace("val", "test") in loud
    assert make_task(watch="none").monitor == "val_iou"
    assert make_task(prompt_free=True).watch == "none"


@pytest.mark.parametrize("choice", [{"watch": "box"}, {"modes": ["box", "centre"]}])
def test_a_network_that_predicts_without_prompts_is_chosen_without_prompts(choice: dict[str, Any]) -> None:
    """15.2: box prompts chose the best of a network whose predictions were all empty, and nothing said so."""
    with pytest.raises(UserError, match="watch: "):
        make_task(prompt_free=True, **choice)


def test_masks_of_absent_classes_count_little() -> None:
    """15.2: three quarters of the class masks are of absent classes; counted in full, all masks became empty."""
    task = make_task(prompt_free=True).eval()
    batch = collate(samples())
    features = task.network.encode(batch["image"])
    truths = torch.stack([masks for masks, _ in task._truths(batch, "none")])
    valid = truths.new_ones(truths.shape[:2])
    answer = task.network.decode_classes(features)
    found = task._with_class_losses({"loss": torch.zeros(())}, features, batch)["loss"]
    assert found == task.criterion(*answer, truths, valid, ABSENT_MASKS)["loss"]
    assert found != task.criterion(*answer, truths, valid)["loss"]


def test_classes_and_images_that_get_one_answer_are_told() -> None:
    """15.2: masks of two classes overlapped by .97, every image had one object score, and the run was a success."""
    task = make_task(prompt_free=True, watch="none")
    assert task.network.class_prompts is not None
    with torch.no_grad():
        task.network.class_prompts.weight.copy_(task.network.class_prompts.weight[:1].expand(4, -1))
    figures = logged(task)
    assert figures["test_none_class_overlap"] == pytest.approx(1.0)
    assert figures["test_none_presence_spread"] == pytest.approx(0.0, abs=1e-3)
    notes = task.notes(figures, "test")
    assert [note.split(":")[0] for note in notes[1:]] == ["Classes get one answer", "Images get one answer"]
    apart = figures | {"test_none_class_overlap": 0.5, "test_none_presence_spread": 0.2}
    assert len(task.notes(apart, "test")) == 1
    assert f"{16 / 24:.4f}" in notes[0]


def test_class_masks_are_empty_where_the_image_does_not_show_the_class() -> None:
    task = make_task(prompt_free=True)
    truths = task._truths(collate(samples()), "none")
    assert [len(masks) for masks, _ in truths] == [4] * 6
    assert truths[0][0].flatten(1).any(1).tolist() == [True, False, False, True]
    assert not truths[2][0].any()


def asked_batch(size: tuple[int, int] = (32, 96)) -> dict[str, Any]:
    """What `predict` gets: a box, two clicks, and an image about which nothing is asked."""
    box = Prompts(None, None, torch.tensor([[4.0, 5, 40, 20]]))
    clicks = Prompts(torch.tensor([[[9.0, 9]], [[60.0, 30]]]), torch.ones(2, 1, dtype=torch.int32), None)
    return {
        "image": make_image(3),
        "size": [size] * 3,
        "name": ["a", "b", "c"],
        "prompts": [box, clicks, None],
        "labels": [["line"], ["pit", "patch"], []],
        "class_ids": [torch.tensor([1]), torch.tensor([0, 3]), torch.zeros(0, dtype=torch.int64)],
    }


def test_predict_needs_prompts_from_a_file_or_the_prompt_free_mode() -> None:
    """It took them from the truth."""
    for prompt_free in (False, True):
        task = make_task(prompt_free)
        data: Any = task.trainer.datamodule  # type: ignore[attr-defined]
        if prompt_free:
            task.setup("predict")
            continue
        with pytest.raises(UserError, match=r"data\.prompts: null, .*a CSV with columns file, x0.* or COCO JSON"):
            task.setup("predict")
        data.has_prompts = lambda: False
        with pytest.raises(UserError, match=r"data\.prompts: null"):
            task.setup("predict")
        data.has_prompts = lambda: True
        task.setup("predict")


@torch.no_grad()
def test_predict_answers_what_is_asked_about_each_image_and_nothing_else() -> None:
    task, batch = make_task(), asked_batch()
    outputs = task.predict_step(batch, 0)
    assert [len(found.masks) for found in outputs["objects"]] == [1, 2, 0]
    assert [tuple(found.shape) for found in outputs["prediction"]] == [(32, 96)] * 3
    assert set(outputs["prediction"][1].unique().tolist()) <= {0, 1, 4}
    assert not outputs["prediction"][2].any()
    # what is asked about one image changes nothing for another
    alone = {key: value[:1] for key, value in batch.items()}
    (found,) = task.predict_step(alone, 0)["objects"]
    assert torch.equal(found.masks, outputs["objects"][0].masks)
    torch.testing.assert_close(found.scores, outputs["objects"][0].scores, rtol=1e-5, atol=1e-5)
    # where some label is no class, the numbers of the objects
    numbered = task.predict_step(batch | {"class_ids": [None] * 3}, 0)
    assert set(numbered["prediction"][1].unique().tolist()) <= {0, 1, 2}


def test_an_image_that_is_squashed_to_a_fraction_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task()
    with caplog.at_level("WARNING", "eomt"), torch.no_grad():
        task.predict_step(asked_batch((4 * IMAGE_SIZE, 30)), 0)
        assert not caplog.messages
        for _ in range(2):
            task.predict_step(asked_batch((30, 4 * IMAGE_SIZE + 1)), 0)
    (message,) = caplog.messages
    assert "a: has 30 x 257 pixels (height x width), of which the network sees 64 x 64" in message


def test_smaller_masks_lie_on_top_of_larger_ones() -> None:
    small, large = rectangle(2, 2, 2, 2, (8, 8)), rectangle(0, 0, 6, 6, (8, 8))
    found = index_map(torch.stack([small, large]), torch.tensor([2, 0]))
    assert found[2, 2] == 3
    assert found[0, 0] == 1
    assert found[7, 7] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modes": []}, "modes"),
        ({"modes": ["box", "line"]}, "modes"),
        ({"modes": ["box"], "watch": "none"}, "watch: 'none'"),
        ({"network": nn.Linear(1, 1)}, "takes eomt.models.SAM2"),
    ],
)
def test_bad_settings_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptedSegmentation(**{"network": make_sam2()} | arguments)


def test_classes_without_prompts_are_the_union_of_their_objects() -> None:
    masks = torch.stack([rectangle(2, 2, 4, 4), rectangle(9, 9, 3, 3)])
    batch = {"masks": [masks], "class_ids": [torch.tensor([2, 2])]}
    ((truth, class_ids),) = make_task(prompt_free=True)._truths(batch, "none")
    assert torch.equal(truth[2], masks.any(0))
    assert (class_ids.tolist(), int(truth.sum())) == ([0, 1, 2, 3], int(masks.sum()))
