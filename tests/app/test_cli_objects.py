"""Instance and panoptic segmentation through the command line: files, figures, and a resumed run."""

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eomt
from eomt.models import EoMT
from eomt.results import coco_document
from tests.app.test_cli import measured
from tests.app.test_predict_forms import (
    assert_same_documents,
    assert_same_rows,
    document,
    forms,
    predicted,
    rows,
    rows_of,
)
from tests.cli_runs import Workspace, refusal
from tests.ranks import run_on_ranks
from tests.tiny_objects import NAMES, make_objects, write_workspace

KINDS = ["instance", pytest.param("panoptic", marks=pytest.mark.slow)]
MONITORS = {"instance": "map", "panoptic": "pq"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Workspace, Path]]:
    @cache
    def run_of(kind: str) -> tuple[Workspace, Path]:
        workspace = write_workspace(tmp_path_factory.mktemp(kind), kind)
        return workspace, workspace.fit("run")

    return run_of


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_names_its_best_step_by_its_figures_and_every_form_of_it_measures_alike(
    trained: Callable[[str], tuple[Workspace, Path]], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, run = trained(kind)
    figure = MONITORS[kind]
    checkpoint, _, merged = forms(run)
    assert f"_{figure}0." in checkpoint.name
    with (run / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    logged = [float(row[f"val_{figure}"]) for row in lines if row.get(f"val_{figure}")]
    assert f"_{figure}{max(logged):.4f}" in checkpoint.name
    found = []
    for form in (checkpoint, merged):
        capsys.readouterr()
        workspace.run("validate", "--ckpt_path", str(form), config=False)
        found.append(measured(capsys, "validate"))
    assert found[0][f"val_{figure}"] == pytest.approx(max(logged), abs=1e-5)
    names = NAMES if kind == "panoptic" else NAMES[:2]
    prefix = "val_pq" if kind == "panoptic" else "val_ap"
    assert {f"{prefix}/{name}" for name in names} <= found[0].keys()
    assert found[1] == pytest.approx(found[0], abs=1e-5, nan_ok=True)
    assert (run / "pictures" / "train_batch.png").is_file()
    assert list((run / "pictures").glob("val_step*.png"))


@pytest.mark.parametrize("kind", KINDS)
def test_predict_of_a_checkpoint_an_adapter_and_a_merged_folder_answers_alike(
    trained: Callable[[str], tuple[Workspace, Path]], tmp_path: Path, kind: str
) -> None:
    workspace, run = trained(kind)
    for seed, size in enumerate(((32, 48), (60, 50), (20, 90))):
        image, _, _ = make_objects(seed, size)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{seed}.png")
    files = sorted(tmp_path.iterdir())
    documents = []
    for form in forms(run):
        folder = predicted(workspace, run, form, "--data.predict_path", str(tmp_path))
        results = eomt.load(form, "cpu").predict([*files])
        assert sum(map(len, results)) > 3
        assert_same_rows(rows(folder), rows_of(results))
        documents.append(document(folder))
        assert_same_documents(documents[-1], coco_document(results))
        kind_of = {"instance": "objects", "panoptic": "segments"}[kind]
        for file, result in zip(files, results, strict=True):
            found = np.asarray(Image.open(folder / kind_of / file.name))
            assert np.array_equal(found, np.asarray(result.png()))
            classes = np.array(Image.open(folder / "masks" / file.name))
            assert classes.shape == result.size
            assert set(np.unique(classes)) <= {0, 1, 2, 3}
        if kind == "panoptic":
            # as panopticapi reads it
            panoptic = json.loads((folder / "panoptic.json").read_text())
            assert [bool(one["isthing"]) for one in panoptic["categories"]] == [True, True, False]
            for one, result in zip(panoptic["annotations"], results, strict=True):
                pixels = np.asarray(Image.open(folder / "segments" / one["file_name"])).astype(int) @ [1, 256, 65536]
                assert {info["id"] for info in one["segments_info"]} == set(np.unique(pixels)) - {0}
                assert [info["area"] for info in one["segments_info"]] == [row["pixels"] for row in result.rows()]
                names = [NAMES[info["category_id"] - 1] for info in one["segments_info"]]
                assert names == [segment.class_name for segment in result.segments]
    assert len(documents) == 3
    assert_same_documents(documents[1], documents[0])
    assert_same_documents(documents[2], documents[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_opens_as_a_network_and_says_its_classes(
    trained: Callable[[str], tuple[Workspace, Path]], kind: str
) -> None:
    workspace, run = trained(kind)
    (checkpoint,) = run.glob("best_lora_*.ckpt")
    output = workspace.folder / "merged"
    workspace.run("merge", "--ckpt_path", str(checkpoint), "--output", str(output), config=False)
    model = eomt.load(output, "cpu")
    assert model.class_names == (NAMES if kind == "panoptic" else NAMES[:2])
    if kind == "panoptic":
        assert model.stuff_classes == [2]
    image = np.asarray(Image.open(next((workspace.folder / "data" / "val2017").iterdir())))
    result = model.predict(image)
    assert len(result) > 0
    assert isinstance(model.model.network, EoMT)
    assert not any("lora" in name for name in model.model.network.state_dict())


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    trained: Callable[[str], tuple[Workspace, Path]],
) -> None:
    workspace, run = trained("instance")
    cut = json.dumps([{"class_path": "tests.cli_runs.PowerCut", "init_args": {"step": 13}}, "callbacks.LoRACheckpoint"])
    with pytest.raises(RuntimeError, match="power cut"):
        workspace.fit("cut", "--trainer.callbacks", cut)
    resumed = workspace.fit("cut", "--ckpt_path", "latest", "--trainer.callbacks", "[callbacks.LoRACheckpoint]")
    one, other = (
        torch.load(folder / "final_lora_step20.ckpt", weights_only=True)["state_dict"] for folder in (run, resumed)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_two_processes_measure_what_one_does(
    trained: Callable[[str], tuple[Workspace, Path]], kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of three and of five images: each counts once, and the last step of one process is padding."""
    workspace, run = trained(kind)
    (checkpoint,) = run.glob("best_lora_*.ckpt")
    prefix = "pq" if kind == "panoptic" else "ap"
    for command in ("validate", "test") if kind == "instance" else ("validate",):
        figures = []
        for ranks in (1, 2):
            capfd.readouterr()
            run_on_ranks(workspace, command, "--ckpt_path", str(checkpoint), ranks=ranks)
            figures.append(measured(capfd, command))
        stage = {"validate": "val", "test": "test"}[command]
        names = NAMES if kind == "panoptic" else NAMES[:2]
        assert {f"{stage}_loss", *(f"{stage}_{prefix}/{name}" for name in names)} <= figures[0].keys()
        assert 0 < figures[0][f"{stage}_{MONITORS[kind]}"] < 1
        assert figures[1] == pytest.approx(figures[0], abs=1e-6, nan_ok=True)


def test_data_of_another_kind_is_refused_by_name(
    trained: Callable[[str], tuple[Workspace, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, _ = trained("instance")
    found = refusal(capsys, workspace, "fit", "--data.target", "semantic")
    assert "data.target: semantic, but the task takes instance" in found
