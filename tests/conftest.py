"""Shapes are checked at run time in every test: the import hook goes in before the package."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("spex_mech", "beartype.beartype")

import torch  # noqa: E402

_DATA = Path(os.environ.get("SPEX_MECH_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Path:
    """Real and ground-truth models, which are not part of the project."""
    if not _DATA.is_dir():
        pytest.skip(f"no models to measure on: set SPEX_MECH_DATA ({_DATA} is missing)")
    return _DATA


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
