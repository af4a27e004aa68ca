"""Where the public data sets for tests lie; tests that need them are skipped, with the reason, if they are absent.

``docs/real-data.md`` names the sets. They are looked for below the folder of the environment variable
``IMAGING_TRANSFER_TEST_DATA``, or in the user's cache.
"""

import os
from pathlib import Path

import pytest


def data_set(name: str) -> Path:
    """Give the folder of a data set, or skip the test."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("IMAGING_TRANSFER_TEST_DATA") or cache / "imaging-transfer-test-data")
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"the public data set {name} is not here; docs/real-data.md says how to get it")
    return folder


@pytest.fixture(scope="session")
def imagenet_resnet18() -> Path:
    """Give a ResNet-18 trained on ImageNet, in torchvision's format."""
    return data_set("imagenet_resnet18") / "resnet18_imagenet_expanded_f32.pth"


@pytest.fixture(scope="session")
def cxr_nih() -> Path:
    """Give 400 chest radiographs of 283 patients with labels."""
    return data_set("cxr_nih_dev")
