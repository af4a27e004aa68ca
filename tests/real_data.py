"""Where the public data sets for tests lie; tests that need them are skipped, with the reason, if they are absent.

``docs/real-data.md`` names the sets. They are looked for below the folder of the environment variable
``IMAGING_TRANSFER_TEST_DATA``, or in the user's cache. Who sets the variable says that they are there: then a
missing set is a failure, so that a check meant to run on real data cannot pass without.
"""

import os
from pathlib import Path

import pytest


def data_set(name: str) -> Path:
    """Give the folder of a data set, or skip the test; fail it if the set was said to be there."""
    promised = os.environ.get("IMAGING_TRANSFER_TEST_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(promised or cache / "imaging-transfer-test-data") / name
    if not folder.is_dir():
        if promised:
            pytest.fail(f"IMAGING_TRANSFER_TEST_DATA names a folder without the data set {name}")
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
