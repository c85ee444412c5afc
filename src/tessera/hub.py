"""The Hugging Face hub, only where it was asked for: the licence of a model that was fetched from it, and uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yaml import YAMLError

from tessera.core.errors import UserError


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload `folder` to the model repository `repo`, made when it is new, and return its address.

    Raises UserError, before anything is sent, when nobody is logged in; and for whatever the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # What the hub's client for HTTP raises, without a network too, differs by its version: it is a base of this.
    unreachable: tuple[Any, ...] = HfHubHTTPError.__bases__
    token = logged_in()
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        found = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of a run")
    except (*unreachable, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} is written, and the hub did not take it as {repo}: {reason}") from error
    return str(found.repo_url)


def logged_in() -> str:
    """The token of whoever is logged in; UserError when nobody is."""
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise UserError("--push needs a login: `hf auth login`, or the variable HF_TOKEN")
    return token


def licence_of(card: Path) -> str | None:
    """The licence that the front matter of a model's README.md names, None where there is none to read."""
    from huggingface_hub import ModelCard

    if not card.is_file():
        return None
    try:
        found = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (ValueError, YAMLError):  # no front matter, or a broken one
        return None
    return str(found) if found else None


def cached_card(repo: str, revision: str | None) -> Path | None:
    """README.md of a hub model where it lies in the local cache; no network is asked."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "README.md", revision=revision)
    return Path(found) if isinstance(found, str) else None
