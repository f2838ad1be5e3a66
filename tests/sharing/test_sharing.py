"""Shared weights open anywhere with the same answers, here and in other libraries, and tell nothing of this machine."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import eomt
from datamodules import SteelStrips
from eomt.cli import main
from eomt.sharing import bases
from eomt.sharing.card import Shared, model_card
from eomt.sharing.folder import find_weights, write_shared
from tests.cli_runs import Workspace
from tests.hub import Hub, local_hub
from tests.tiny_sam2 import tiny_folder

BASE = "bases/tiny-sam2"
NAME = "someone/steel-lora"
BOX = [[8.0, 4.0, 60.0, 28.0]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("sharing")
    data = {"path": str(folder / "strips"), "num_images": 20, "strip_size": [32, 96], "img_size": None}
    SteelStrips(**{**data, "img_size": 64}).prepare_data()  # type: ignore[arg-type]
    network = {"class_path": "eomt.models.SAM2", "init_args": {"pretrained": tiny_folder(), "img_size": 64}}
    lora = {"rank": 2, "target_modules": ["attn", "mask_decoder.transformer"], "freeze_base_model": True}
    task = {"lr": 3e-3, "sampling": {"correction_clicks": 1}, "network": network, "lora_config": lora}
    config: dict[str, Any] = {
        "model": {"class_path": "eomt.tasks.PromptedSegmentation", "init_args": task},
        "data": {"class_path": "datamodules.SteelStrips", "init_args": data | {"batch_size": 4}},
        "trainer": {"max_steps": 4, "num_sanity_val_steps": 0},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return Workspace(folder)


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("steel")


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the base has the name that it has on the hub."""
    shutil.copytree(tiny_folder(), tmp_path / BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hub, str]]:
    """A stand-in of the hub, and its address, which the hub's client asks."""
    with local_hub() as (hub, address):
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
        settings = {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(tmp_path / "hub")}
        for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, **settings}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        yield hub, address


@pytest.fixture(scope="module")
def strip(workspace: Workspace) -> Path:
    return next((workspace.folder / "strips" / "train_images").iterdir())


def code_in(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_adapters_open_from_their_folder_alone_with_the_same_answers(run: Path, away: Path, strip: Path) -> None:
    write_shared(run, away / "shared", NAME, base=BASE)
    expected = eomt.load(run, "cpu").predict(strip, boxes=BOX)
    found = eomt.load(away / "shared", "cpu").predict(strip, boxes=BOX)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    assert list(found.class_names) == list(expected.class_names)


def test_nothing_in_the_folder_tells_where_it_was_made(run: Path, away: Path) -> None:
    write_shared(run, away / "shared", NAME, base=BASE)
    for file in (path for path in (away / "shared").rglob("*") if path.is_file()):
        content = file.read_bytes()
        for told in (str(run.parent.parent), str(Path.home()), os.sep + "tmp"):
            assert told.encode() not in content, file
    config = yaml.safe_load((away / "shared" / "config.yaml").read_text())
    assert "path" not in config["data"]["init_args"]
    assert config["model"]["init_args"]["network"]["init_args"]["pretrained"] == BASE
    assert set(config) == {"seed_everything", "model", "data", "audit"}


def test_the_code_in_the_card_opens_adapters_here_and_in_peft(
    run: Path, away: Path, strip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    # the tiny base is not of the released size
    monkeypatch.setattr(bases, "SAM2_SIDE", 64)
    write_shared(run, away / NAME, NAME, base=BASE)
    ours, theirs = code_in((away / NAME / "README.md").read_text())
    # the box of the card lies inside of it
    with Image.open(strip) as small:
        small.resize((320, 240)).save(away / "image.jpg")
    names: dict[str, Any] = {}
    exec(ours, names)
    assert (away / "result.png").is_file()
    exec(theirs, names_of_theirs := {})
    image = torch.rand(1, 3, 64, 64)
    network = eomt.load(run, "cpu").model
    points, labels = torch.tensor([[[[20.0, 30.0]]]]), torch.ones(1, 1, 1, dtype=torch.int32)
    with torch.no_grad():
        expected = network.decode(network.encode(image), points, labels, multimask=False).mask_logits
        given = {"pixel_values": network.normalize(image), "input_points": points, "input_labels": labels}
        found = names_of_theirs["model"](**given, multimask_output=False).pred_masks
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_card_of_a_merged_model_opens_it_in_transformers(run: Path, away: Path, strip: Path) -> None:
    (merged,) = run.glob("best_merged_*")
    write_shared(merged, away / NAME, NAME)
    _, theirs = code_in((away / NAME / "README.md").read_text())
    names: dict[str, Any] = {}
    exec(theirs, names)
    assert type(names["model"]).__name__ == "Sam2Model"
    # its base is a folder of this machine, which is no repository
    assert "base_model" not in yaml.safe_load((away / NAME / "README.md").read_text().split("---")[1])
    expected = eomt.load(merged, "cpu").predict(strip, boxes=BOX)
    found = eomt.load(away / NAME, "cpu").predict(strip, boxes=BOX)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def test_the_card_says_what_was_measured(run: Path, away: Path) -> None:
    shared = write_shared(run, away / "shared", NAME, base=BASE, license="apache-2.0")
    card = (away / "shared" / "README.md").read_text()
    assert card == model_card(shared)
    header = yaml.safe_load(card.split("---")[1])
    summary = json.loads((run / "training_summary.json").read_text())
    assert header["base_model"] == BASE
    assert header["library_name"] == "peft"
    assert header["license"] == "apache-2.0"
    assert header["pipeline_tag"] == "mask-generation"
    metrics = header["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == pytest.approx(summary["best"])
    for said in (summary["audit"], "LoRA of rank 2", f"| these weights | {summary['best']:.4f} |", "images: "):
        assert said in card


@pytest.mark.parametrize(
    ("base", "license"),
    [
        ("facebook/sam2.1-hiera-large", "apache-2.0"),
        ("vit_small_patch14_dinov2", "apache-2.0"),
        ("facebook/dinov3-vits16", "other"),
        ("facebook/vit-mae-base", "cc-by-nc-4.0"),
        ("someone/dinov2-of-mine", None),
        ("configs/quickstart/sam2_base", None),
    ],
)
def test_the_licence_of_released_weights_is_known(run: Path, base: str, license: str | None) -> None:
    folder = find_weights(run).path
    shared = Shared.of(NAME, "adapter", {}, None, folder, base, None)
    assert shared.license == license
    assert ("not known" in model_card(shared)) == (license is None)


def test_names_in_a_card_are_no_markup(run: Path, away: Path) -> None:
    summary = json.loads((run / "training_summary.json").read_text())
    copied = away / "run"
    shutil.copytree(run, copied)
    summary["notes"] = ["<script>alert(1)</script> | [x](javascript:1)"]
    (copied / "training_summary.json").write_text(json.dumps(summary))
    write_shared(copied, away / "shared", NAME, base=BASE)
    card = (away / "shared" / "README.md").read_text()
    assert "<script>" not in card
    assert "\\<script\\>" in card


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("lost", {}, "does not exist"),
        ("run", {}, "model.network.pretrained is .* on this machine"),
        ("empty", {}, "is no run, adapter folder or merged folder"),
        ("unsaved", {"base": BASE}, "no best checkpoint yet"),
        ("alone.ckpt", {"base": BASE}, "neither an adapter folder nor a merged one"),
    ],
)
def test_what_cannot_be_shared_is_said(run: Path, away: Path, path: str, options: dict[str, Any], said: str) -> None:
    for name in ("empty", "unsaved"):
        (away / name).mkdir()
    for name in ("config.yaml", "training.log"):
        shutil.copy(run / name, away / "unsaved")
    (away / "alone.ckpt").write_bytes(b"")
    with pytest.raises(eomt.UserError, match=said) as caught:
        write_shared(run if path == "run" else away / path, away / "shared", NAME, **options)
    assert "\n" not in str(caught.value)
    assert not (away / "shared").exists()


def test_merge_uploads_what_it_wrote(
    run: Path, tmp_path: Path, online: tuple[Hub, str], capsys: pytest.CaptureFixture[str]
) -> None:
    hub, address = online
    given = ["merge", "--ckpt_path", str(next(run.glob("best_lora_*.ckpt"))), "--data", "null", "--hub", NAME]
    main([*given, "--output", str(tmp_path / "merged")])
    assert capsys.readouterr().out.splitlines()[-1] == f"{address}/{NAME}"
    written = {path.name for path in (tmp_path / "merged").iterdir()}
    assert set(hub.files[NAME]) - {".gitattributes"} == written | {"README.md", "eomt.json"}
    hub.refuses = True
    with pytest.raises(SystemExit):
        main([*given, "--output", str(tmp_path / "kept")])
    error = capsys.readouterr().err
    assert "was not uploaded" in error
    assert error.endswith(f"{tmp_path / 'kept'} is kept: eomt push {tmp_path / 'kept'} {NAME}\n")
    assert (tmp_path / "kept" / "model.safetensors").is_file()


def test_fit_uploads_its_best(workspace: Workspace, online: tuple[Hub, str]) -> None:
    hub, _ = online
    # without adapters there is a merged model, which needs no base
    settings = ["--model.lora_config", "null", "--model.lr", "1e-4", "--trainer.max_steps", "2"]
    run = workspace.fit("uploaded", *settings, "--hub", NAME)
    (merged,) = run.glob("best_merged_*")
    assert hub.files[NAME]["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert yaml.safe_load((run / "config.yaml").read_text()).get("hub") is None


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("fit", ["--hub", NAME], "hub: adapters of .* is on this machine only"),
        ("fit", ["--hub", "alone", "--model.lora_config", "null"], "hub: 'alone' has no owner"),
        ("fit", ["--hub", NAME, "--trainer.fast_dev_run", "true"], "hub: trainer.fast_dev_run leaves no weights"),
        ("validate", ["--hub", NAME], "hub: validate makes nothing to upload"),
        ("merge", ["--hub", NAME, "--output", "sam2.pt"], "hub: sam2.pt is a pickle"),
    ],
)
def test_what_cannot_be_uploaded_is_said_before_anything_is_made(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str], command: str, options: list[str], said: str
) -> None:
    before = sorted(workspace.runs.iterdir())
    checkpoint = [] if command == "fit" else ["--ckpt_path", str(next(run.glob("best_lora_*.ckpt")))]
    with pytest.raises(SystemExit):
        workspace.run(command, *checkpoint, *options)
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.count("\n") == 1
    assert sorted(workspace.runs.iterdir()) == before


def test_a_folder_with_something_else_is_not_replaced(run: Path, away: Path) -> None:
    write_shared(run, away / "shared", NAME, base=BASE)
    write_shared(run, away / "shared", NAME, base=BASE)
    (away / "mine").mkdir()
    (away / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(eomt.UserError, match="exists and is not what would be written"):
        write_shared(run, away / "mine", NAME, base=BASE)
    assert (away / "mine" / "thesis.txt").read_text() == "mine"
    assert find_weights(run).kind == "adapter"


def test_what_is_pushed_is_loaded_from_the_hub(run: Path, away: Path, strip: Path, online: tuple[Hub, str]) -> None:
    """Against a stand-in of the hub on loopback, by the hub's own client."""
    hub, address = online
    expected = eomt.load(run, "cpu").predict(strip, boxes=BOX)
    assert eomt.push(run, NAME, base=BASE) == f"{address}/{NAME}"
    assert hub.private == {NAME}
    assert set(hub.files[NAME]) >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "config.yaml"}
    # never code or pickles
    hub.files[NAME] |= {"evil.py": b"raise SystemExit(7)", "pytorch_model.bin": b"\x80\x04."}
    found = eomt.load(NAME, "cpu").predict(strip, boxes=BOX)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    eomt.load(f"{NAME}@main", "cpu")
    assert not any("evil.py" in request or "pytorch_model.bin" in request for request in hub.requests)
    with pytest.raises(eomt.UserError, match="no repository on the hub that you may see"):
        eomt.load("someone/nothing")
    (away / "lost").mkdir()
    # `lost` is a folder here, so the name is a path
    with pytest.raises(eomt.UserError, match="lost/model does not exist"):
        eomt.load("lost/model")
    hub.refuses = True
    with pytest.raises(eomt.UserError, match="hub: someone/steel-lora was not uploaded"):
        eomt.push(run, NAME, base=BASE)


@pytest.mark.parametrize("name", ["steel", "a/b/c", "a b/c", "../etc"])
def test_a_name_that_is_no_repository_is_refused(run: Path, name: str) -> None:
    with pytest.raises(eomt.UserError, match="name: "):
        eomt.push(run, name, base=BASE)
    with pytest.raises(eomt.UserError, match="base: "):
        eomt.push(run, NAME, base=name)


def test_the_command_writes_what_would_be_uploaded(run: Path, away: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["push", str(run), NAME, "--base", BASE, "--dry_run", "shared"])
    assert capsys.readouterr().out == f"shared: what would be uploaded to {NAME}\n"
    assert (away / "shared" / "README.md").is_file()
    for given, said in ((["push"], "required: PATH, USER/NAME"), (["push", str(run), "x"], "has no owner")):
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
