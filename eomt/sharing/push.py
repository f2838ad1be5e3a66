"""Weights to the Hugging Face hub: `eomt.push`, and `push` of the command line."""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from eomt.errors import UserError, first_line
from eomt.sharing.folder import write_shared

log = logging.getLogger("eomt")


def push(
    path: str | Path,
    name: str,
    base: str | None = None,
    license: str | None = None,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Upload trained weights with a model card; `eomt.load(name)` opens them. Return their address.

    Args:
        path: A run's folder (its best weights are taken), an adapter folder or a merged folder.
        name: Repository, `user/name`; it is made if need be.
        base: Repository with the base's weights, where these are a local path.
        license: Licence, as the hub calls it; None takes that of the base if it is known.
        private: Whether a new repository can be seen by its owner alone.
        token: Of the hub; None takes the one that `hf auth login` has saved.

    Raises:
        UserError: If there is nothing to share, or the hub refuses it.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"name: {name!r} is no repository; give user/name") from error
    if name.count("/") != 1:
        raise UserError(f"name: {name!r} has no owner; give user/name")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "shared"
        write_shared(Path(path).expanduser(), folder, name, base, license)
        api = HfApi(token=token, library_name="eomt")
        try:
            address = str(api.create_repo(name, private=private, exist_ok=True))
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload weights trained with eomt")
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
            raise UserError(
                f"hub: {name} was not uploaded ({first_line(error)}); log in with: hf auth login"
            ) from error
    log.info("%s: uploaded", address)
    return address


def main(args: Sequence[str], prog: str) -> None:
    """Run `push PATH NAME`.

    Args:
        args: Arguments behind the command.
        prog: How the program is called, for its help.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Uploads trained weights to the Hugging Face hub.")
    parser.add_argument("path", type=Path, help="a run (its best weights), an adapter folder or a merged folder")
    parser.add_argument("name", help="the repository: user/name")
    parser.add_argument("--base", help="repository of the base's weights, where these are a local path")
    parser.add_argument("--license", help="licence, as the hub calls it: apache-2.0, mit, ...")
    parser.add_argument("--public", action="store_true", help="let everybody see a new repository")
    parser.add_argument("--dry_run", type=Path, metavar="FOLDER", help="write what would be uploaded, and stop there")
    given = parser.parse_args(args)
    if given.dry_run is not None:
        write_shared(given.path, given.dry_run, given.name, given.base, given.license)
        print(f"{given.dry_run}: what would be uploaded to {given.name}", flush=True)
        return
    print(push(given.path, given.name, given.base, given.license, private=not given.public), flush=True)
