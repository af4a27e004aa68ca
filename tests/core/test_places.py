"""What stands at a path, told where nobody may look as well."""

import os
from pathlib import Path

import pytest

from pipeline.core.places import standing_at

TOO_LONG = Path("x" * 300)  # the system refuses to look it up, for the superuser too


def test_each_kind_is_told(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {name: standing_at(tmp_path / name) for name in ("file", "link", "dangling", "pipe", "none", "file/below")}
    assert found == {
        "file": "file",
        "link": "file",
        "dangling": "nothing",
        "pipe": "other",
        "none": "nothing",
        "file/below": "nothing",
    }
    assert standing_at(tmp_path) == "folder"
    assert standing_at(Path("zero\0byte")) == "nothing"


def test_what_the_system_will_not_look_up_is_closed(tmp_path):
    assert standing_at(tmp_path / TOO_LONG) == "closed"
    (tmp_path / "round").symlink_to("round")
    assert standing_at(tmp_path / "round") == "closed"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may enter every folder")
def test_a_folder_that_may_not_be_entered_is_closed(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o000)
    assert standing_at(tmp_path / "locked" / "file") == "closed"
