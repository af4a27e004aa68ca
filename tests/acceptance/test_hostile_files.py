"""Hostile files: each costs itself alone, has its reason code, little time and little memory.

A healthy volume of another patient lies beside them and must come through. The stages run in a process of their
own, so that memory is that of this archive, and a crash or a hang is seen.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.acceptance.convert import oblique_ct, save
from tests.dicom.samples import raw_element, write

HEALTHY = 6  # slices
MOST_SECONDS = 120.0  # for all of them together, processes and imports included
MOST_BYTES = 1_500_000_000
NOT_DICOM = {"text": b"Dear colleague,\n" * 40, "zip": b"PK\3\4" + bytes(300), "zeros": bytes(4096)}


def slice_of(number: int, **elements) -> Dataset:
    """Make one slice of a series and a patient of its own."""
    (dataset,) = oblique_ct(1, series=f"1.2.9.{number}", StudyInstanceUID=f"1.2.8.{number}")
    dataset.PatientID = f"HOSTILE-{number}"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def changed(number: int, old: bytes, new: bytes, **options) -> bytes:
    content = encoded(slice_of(number), **options)
    assert content.count(old) == 1
    return content.replace(old, new)


def encoded(dataset: Dataset, **options) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return write(Path(name) / "a.dcm", dataset, **options).read_bytes()


def pixel_head(length: int) -> bytes:
    return struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, length)


def bomb() -> bytes:
    """A gigabyte of nothing in one deflated data set."""
    content = encoded(slice_of(40), syntax="deflated")
    (meta_bytes,) = struct.unpack_from("<L", content, 140)
    body = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = body.compress(raw_element(0x0009, 0x0010, "LO", b"MAKER "))
    packed += b"".join(body.compress(bytes(1 << 24)) for _ in range(64)) + body.flush()
    return content[: 144 + meta_bytes] + packed


def several(number: int, values: dict[str, object]) -> bytes:
    return encoded(slice_of(number, **values))


def lying(number: int, syntax: str) -> bytes:
    """A codestream that says it is 30 000 pixels wide."""
    content = encoded(slice_of(number), syntax=syntax)
    at = content.index(b"\xff\x4f\xff\x51") + 8
    return content[:at] + struct.pack(">2L", 30_000, 30_000) + content[at + 8 :]


def garbage(number: int, syntax: str) -> bytes:
    content = encoded(slice_of(number), syntax=syntax)
    start = content.rindex(b"\xfe\xff\x00\xe0") + 8
    noise = np.random.default_rng(number).bytes(len(content) - start - 8)
    return content[:start] + noise + content[-8:]


FILES: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "empty": (lambda: b"", {"EMPTY_FILE"}),
    **{name: ((lambda content=content: content), {"NOT_DICOM"}) for name, content in NOT_DICOM.items()},
    "without preamble": (lambda: encoded(slice_of(1))[132:], {"NOT_DICOM"}),
    "header cut": (lambda: encoded(slice_of(2))[:500], {"TRUNCATED_FILE"}),
    "preamble only": (lambda: encoded(slice_of(3))[:132], {"UNREADABLE_HEADER"}),
    "pixels cut": (lambda: encoded(slice_of(4))[:-100], {"TRUNCATED_FILE"}),
    "a report": (lambda: several(5, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}), {"NOT_AN_IMAGE"}),
    "structures": (lambda: several(6, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}), {"NOT_AN_IMAGE"}),
    "a directory": (lambda: several(7, {"SOPClassUID": "1.2.840.10008.1.3.10"}), {"NOT_AN_IMAGE"}),
    "position as text": (
        lambda: changed(8, b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00LT"),
        {"BAD_GEOMETRY", "TOO_FEW_SLICES"},  # the words are the same numbers
    ),
    "spacing no number": (lambda: changed(9, b"DS\x08\x000.8\\0.6 ", b"DS\x08\x00nan\\nan "), {"BAD_GEOMETRY"}),
    "spacing zero": (lambda: several(10, {"PixelSpacing": [0, 0]}), {"BAD_GEOMETRY"}),
    "spacing negative": (lambda: several(11, {"PixelSpacing": [-0.8, 0.6]}), {"BAD_GEOMETRY"}),
    "no rows": (lambda: several(12, {"Rows": 0}), {"BAD_DIMENSIONS"}),
    "huge": (lambda: several(13, {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 10_000}), {"BAD_DIMENSIONS"}),
    "JPEG 2000 lies": (lambda: lying(14, "JPEG 2000"), {"BAD_DIMENSIONS"}),
    "JPEG 2000 garbage": (lambda: garbage(15, "JPEG 2000"), {"BAD_DIMENSIONS"}),
    "RLE garbage": (lambda: garbage(16, "RLE"), {"TOO_FEW_SLICES", "UNDECODABLE_PIXELS"}),
    "deflate bomb": (bomb, {"BAD_DIMENSIONS", "UNREADABLE_HEADER"}),
    "deeply nested": (lambda: deep(17), {"UNREADABLE_HEADER"}),
    "large private element": (lambda: with_private(18, 50_000_000), {"TOO_FEW_SLICES"}),
    "length lies": (
        lambda: changed(19, pixel_head(48 * 64 * 2), pixel_head(0xFFFFFFF0)),
        {"TRUNCATED_FILE"},
    ),
    "length lies a little": (
        lambda: changed(20, pixel_head(48 * 64 * 2), pixel_head(48 * 64 * 2 - 2)),
        {"BAD_DIMENSIONS"},
    ),
    "identity climbs": (
        lambda: several(21, {"PatientID": "../../../x", "SeriesInstanceUID": "../../1.2"}),
        {"TOO_FEW_SLICES"},
    ),
    "identity is long": (lambda: several(22, {"PatientID": "9" * 300}), {"TOO_FEW_SLICES"}),
    "identity breaks lines": (
        lambda: several(23, {"PatientID": "a\nb\0c", "PatientName": "=cmd|'/c calc'!A0"}),
        {"TOO_FEW_SLICES"},
    ),
    "script for a description": (
        lambda: several(24, {"StudyDescription": "<script>alert(1)</script>"}),
        {"TOO_FEW_SLICES"},
    ),
    "unknown character set": (
        lambda: several(25, {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "M\xfcller"}).replace(
            b"ISO_IR 100", b"ISO_IR 999"
        ),
        {"TOO_FEW_SLICES"},
    ),
}


def deep(number: int) -> bytes:
    dataset = slice_of(number)
    content = encoded(dataset)
    at = content.index(b"\x08\x00\x60\x00CS")  # Modality: the sequence stands in order before nothing that matters
    level = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    level += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return content[:at] + level * 400 + close * 400 + content[at:]


def with_private(number: int, size: int) -> bytes:
    dataset = slice_of(number)
    dataset.private_block(0x0009, "MAKER", create=True).add_new(1, "OB", bytes(size))
    return encoded(dataset)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> tuple[Path, dict[str, set[str]]]:
    """Write everything; tell what is expected of each path."""
    root = tmp_path_factory.mktemp("hostile") / "raw"
    save(root / "healthy", oblique_ct(HEALTHY))
    expected = {str(path.relative_to(root)): {"accepted"} for path in (root / "healthy").iterdir()}
    for name, (make, codes) in FILES.items():
        path = root / "hostile" / f"{name}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make())
        expected[str(path.relative_to(root))] = codes
    os.mkfifo(root / "pipe.dcm")
    (root / "loop").symlink_to(root)
    (root / "outside.dcm").symlink_to("/etc/hostname")
    with socket.socket(socket.AF_UNIX) as endpoint:
        before = Path.cwd()
        os.chdir(root)  # names of sockets are short
        try:
            endpoint.bind("socket.dcm")
        finally:
            os.chdir(before)
    expected |= {name: {"NOT_A_REGULAR_FILE"} for name in ("pipe.dcm", "loop", "outside.dcm", "socket.dcm")}
    if os.geteuid() != 0:
        closed = write(root / "closed.dcm", slice_of(30))
        closed.chmod(0)
        expected["closed.dcm"] = {"UNREADABLE_FILE"}
    return root, expected


PROGRAM = r"""
import json, re, sys
from pathlib import Path
from tests.acceptance.convert import convert
root, results = map(Path, sys.argv[1:])
conversion = convert(root, results)
fates = conversion.fates()
volumes = [image.source_slices for image in conversion.images]
# Not getrusage: there, a process begins with what its parent held.
(most,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([fates, volumes, int(most) * 1024]))
"""


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def test_each_costs_itself_alone(archive, tmp_path):
    root, expected = archive
    before = listing(root)
    command = [sys.executable, "-c", PROGRAM, str(root), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    fates, volumes, memory = json.loads(done.stdout.splitlines()[-1])
    assert volumes == [HEALTHY]
    assert memory < MOST_BYTES
    wrong = {path: fate for path, fate in fates.items() if len(fate) != 1 or fate[0] not in expected[path]}
    assert wrong == {}
    assert set(fates) == set(expected)
    assert listing(root) == before  # nothing was written into the archive
    assert {path.name for path in tmp_path.iterdir()} == {"results"}  # nor beside the results
    for word in ("HOSTILE", "script>", "cmd|"):
        assert word not in done.stderr + done.stdout
