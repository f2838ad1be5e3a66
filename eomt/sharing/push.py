"""Weights to the Hugging Face hub: `eomt.push`, and `push` of the command line."""

import logging
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from eomt.app.log import show
from eomt.errors import UserError, first_line, shortened
from eomt.sharing.folder import write_shared
from eomt.sharing.portable import local_sources
from eomt.utils.paths import expand

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
    _checked(name)
    if base is not None:
        _checked(base, "base")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "shared"
        write_shared(expand(path), folder, name, base, license)
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


def check_shareable(config: Mapping[str, Any], name: str, is_merged: bool) -> None:
    """Check before a training or a merge that its weights could be uploaded.

    Args:
        config: The configuration that opens them.
        name: Repository, `user/name`.
        is_merged: Whether they will be a merged model, which needs no base.

    Raises:
        UserError: If the name is none, or adapters will have a base that only this machine has.
    """
    _checked(name, "hub")
    sources = [] if is_merged else local_sources(config)
    if sources:
        raise UserError(
            f"hub: adapters of {shortened(sources[0], 80)}, which is on this machine only; leave --hub out, and when "
            f"the run has ended: eomt push RUN {name} --base with the base's repository"
        )


def push_as_asked(given: Namespace) -> None:
    """Run `push` of the command line.

    Args:
        given: Its arguments, see `eomt.app.small_commands`.

    Raises:
        UserError: See `push`.
    """
    if given.dry_run is None:
        show(push(given.path, given.name, given.base, given.license, private=not given.public))
        return
    if given.base is not None:
        _checked(given.base, "base")
    write_shared(expand(given.path), expand(given.dry_run), _checked(given.name), given.base, given.license)
    show(f"{given.dry_run}: what would be uploaded to {given.name}")


def _checked(name: str, field: str = "name") -> str:
    """Return the name of a repository.

    Raises:
        UserError: If it is none.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{field}: {shortened(name)!r} is no repository; give user/name") from error
    if name.count("/") != 1:
        raise UserError(f"{field}: {shortened(name)!r} has no owner; give user/name")
    return name
