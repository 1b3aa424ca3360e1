"""Shapes are checked at run time in every test: the import hook goes in before the package. And a
browser, for the pages that are written."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import checked

checked.install()

import torch  # noqa: E402

# It switches pretended GPUs on for its whole process (test_pretended_gpus starts one).
collect_ignore = ["on_pretended_gpus.py"]

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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and all that went wrong or out."""

    page: Any
    wrong: list[str]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Watched]]:
    contexts = []

    def opening(path: Path, width: int = 1200, scheme: str = "light") -> Watched:
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        contexts.append(context)
        watched = Watched(context.new_page(), [])
        page, own = watched.page, path.as_uri()
        page.on("console", lambda message: watched.wrong.append(message.text))
        page.on("pageerror", lambda error: watched.wrong.append(str(error)))
        page.on("dialog", lambda dialog: (watched.wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: r.url == own or watched.wrong.append(r.url))
        page.goto(own)
        return watched

    yield opening
    for context in contexts:
        context.close()
