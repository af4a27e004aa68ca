"""Ingestion against the best C++ converter, and how its cost grows with the archive.

``python benchmarks/ingest.py [--data DIR ...] [--threads N] [--scaling 1000 10000 100000]`` runs ours and dcm2niix
(a test dependency) in turns, five times each, on the same files, and compares the medians. Without ``--data`` the
files are synthetic CT series. The second half runs the stage twice on generated trees of tiny files, each time afresh,
and draws ``docs/images/ingest-scaling.png``.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from synthetic_ct import write_series

from pipeline.config import IngestSettings
from pipeline.core.records import Instance, MultiFrameInstance
from pipeline.dicom.decoding.pixels import PixelReadError
from pipeline.dicom.indexing.scan import Scan, scan
from pipeline.dicom.reading.files import LARGEST_PIXEL_BYTES
from pipeline.dicom.slices.triage import triage
from pipeline.imaging.nifti import compress
from pipeline.phantom.cohort import Order, write_cohort
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import write_proved

ROUNDS = 5
MODALITIES = ("CT", "MR", "PT", "CR", "DX", "XA", "MG", "OT")
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "ingest-scaling.png"
GIGABYTE = 1e9
MOST_GIGABYTES = 1.5
# How much more one file of the largest tree may cost than one of the second largest, for time to be called linear.
MOST_GROWTH = 1.5


def main() -> None:
    """Print the tables and one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders of DICOM files (default: synthetic)")
    parser.add_argument("--threads", type=int, default=1, help="processes of our scan (dcm2niix uses one)")
    parser.add_argument("--scaling", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="sizes of the trees")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--only-scan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_scan:
        _measure_scan(options.only_scan, options.threads)
        return
    with tempfile.TemporaryDirectory(prefix="ingest-benchmark-") as name:
        work = Path(name)
        for folder in options.data or [write_series(work / "clinical CT"), _phantoms(work / "phantoms")]:
            _compare(folder, work, options.threads)
        if options.scaling:
            _scaling(options.scaling, work, options.threads, options.figure)


def _phantoms(folder: Path) -> Path:
    write_cohort(Order("volume", patients=10, prevalence=0.3, size=256, seed=7), folder)
    return folder / "dicom"


def _compare(folder: Path, work: Path, threads: int) -> None:
    """Run ours and dcm2niix in turns on one folder."""
    entries = _scanned(folder, threads)
    print(f"\n{folder.name}: {entries.entries} files, {len(entries.instances)} of them images")
    slices = _only_slices(folder, entries.instances, work)
    listed = _series(slices, _scanned(slices, threads).instances)
    ways: dict[str, Callable[[Path], object]] = {
        "scan, ours": lambda _: _scanned(folder, threads),
        "scan, dcm2niix -b o": lambda out: _dcm2niix(folder, out, "-b", "o"),
        "convert, ours": lambda out: _convert(slices, out, threads, packed=False),
        "convert, dcm2niix -z n": lambda out: _dcm2niix(slices, out, "-b", "n", "-z", "n"),
        "convert, SimpleITK": lambda out: _simpleitk(listed, out),
        "compressed, ours": lambda out: _convert(slices, out, threads, packed=True),
        "compressed, dcm2niix -z i": lambda out: _dcm2niix(slices, out, "-b", "n", "-z", "i"),
    }
    if find_spec("SimpleITK") is None:
        print("SimpleITK is not installed")
        del ways["convert, SimpleITK"]
    else:
        print("SimpleITK is told which files form a series; the others find out for themselves")
    if not listed:
        print("no slices, so no volumes: the conversion is not compared")
        ways = {name: way for name, way in ways.items() if name.startswith("scan")}
    seconds: dict[str, list[float]] = defaultdict(list)
    written: dict[str, int] = {}
    for what in ("scan", "convert", "compressed"):  # runs of one kind alternate with one another
        for _ in range(ROUNDS):
            for name, way in ways.items():
                if not name.startswith(what):
                    continue
                out = work / "out"
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                start = time.perf_counter()
                way(out)
                seconds[name].append(time.perf_counter() - start)
                written[name] = len(list(out.glob("*.nii"))) or len(list(out.glob("*.nii.gz")))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:<28} {medians[name]:8.3f} s   ({min(values):.3f} to {max(values):.3f}), {written[name]} volumes")
    for what, theirs, wanted in (
        ("scan", "scan, dcm2niix -b o", 2.0),
        ("convert", "convert, dcm2niix -z n", 1.0),
        ("compressed", "compressed, dcm2niix -z i", 5.0),
    ):
        if theirs in medians:
            _target(f"{what}_{folder.name}", medians[theirs] / medians[f"{what}, ours"], wanted)


def _dcm2niix(folder: Path, out: Path, *options: str) -> None:
    program = Path(sys.executable).with_name("dcm2niix")
    command = [str(program), *options, "-f", "%s_%p_%t", "-o", str(out), str(folder)]
    # It returns 1 for a folder with any file that it cannot convert.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _only_slices(folder: Path, instances: Sequence[Instance], work: Path) -> Path:
    """Give a folder without files that hold several slices: ours stacks those after de-identification only."""
    if not any(isinstance(one, MultiFrameInstance) for one in instances):
        return folder
    print("conversion is compared on the files of one slice each")
    target = work / f"{folder.name} of single slices"
    for paths in _series(folder, instances):
        for path in paths:
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return target


def _simpleitk(series: Sequence[Sequence[Path]], out: Path) -> None:
    import SimpleITK

    for number, paths in enumerate(series):
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in paths])
        with suppress(RuntimeError):  # slices of several sizes
            SimpleITK.WriteImage(reader.Execute(), str(out / f"{number}.nii"))


def _series(folder: Path, instances: Sequence[Instance]) -> list[list[Path]]:
    groups: dict[tuple[str, int], list[Path]] = defaultdict(list)
    single = [one for one in instances if not isinstance(one, MultiFrameInstance)]
    for one in triage(single).kept:
        if one.kind == "slice":
            groups[one.series_uid, one.part].append(folder / one.path)
    return list(groups.values())


def _scanned(folder: Path, threads: int) -> Scan:
    return scan(folder, modalities=MODALITIES, largest_bytes=LARGEST_PIXEL_BYTES, keep_shared_ids=True, threads=threads)


def _convert(folder: Path, out: Path, threads: int, *, packed: bool) -> None:
    """Scan, and do what the stage preprocess does for volumes, its proof included; compress beside it."""
    with ThreadPoolExecutor(1) as beside:
        under_way = []
        for number, paths in enumerate(_series(folder, _scanned(folder, threads).instances)):
            path = out / f"{number}.nii"
            try:
                write_proved(paths, path)
            except PixelReadError:
                continue
            if packed:
                under_way.append(beside.submit(compress, path, path.with_suffix(".nii.gz")))
        for one in under_way:
            one.result()


def _scaling(sizes: Sequence[int], work: Path, threads: int, figure: Path) -> None:
    """Run the stage on generated trees, twice, each time in a process of its own; draw time and memory."""
    print(f"\n{'files':>9} {'seconds':>9} {'us a file':>10} {'peak GB':>8} {'again':>9} {'peak GB':>8}")
    found: list[tuple[int, float, float]] = []
    for size in sorted(sizes):
        root = work / f"tree-{size}"
        _tree(root, size)
        first, again = _measured_apart(root, threads), _measured_apart(root, threads)
        shutil.rmtree(root)
        shutil.rmtree(root.with_name(f"{root.name}-results"))
        found.append((size, first.seconds, max(first.gigabytes, again.gigabytes)))
        print(f"{size:>9} {first.seconds:>9.2f} {first.seconds / size * 1e6:>10.0f} {first.gigabytes:>8.3f}", end="")
        print(f" {again.seconds:>9.2f} {again.gigabytes:>8.3f}", flush=True)
    _draw(found, figure)
    _target("memory_gb", max(gigabytes for *_, gigabytes in found), MOST_GIGABYTES, at_most=True)
    if len(found) > 1:
        (before, less, _), (after, more, _) = found[-2:]
        _target("time_growth_a_file", (more / after) / (less / before), MOST_GROWTH, at_most=True)


class Cost(NamedTuple):
    """What one run of the stage took."""

    seconds: float
    gigabytes: float


def _measured_apart(root: Path, threads: int) -> Cost:
    command = [sys.executable, __file__, "--only-scan", str(root), "--threads", str(threads)]
    words = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.split()
    return Cost(float(words[0]), float(words[1]))


def _tree(root: Path, size: int) -> None:
    """Write one small slice many times, in folders of a thousand, each with its own SOP and every folder its series."""
    pattern, content = _slice(root.with_name("pattern"))
    for index in range(size):
        folder = root / f"{index // 1000:05d}"
        if index % 1000 == 0:
            folder.mkdir(parents=True)
        patched = content
        for uid, number in ((pattern.sop_uid, index), (pattern.series_uid, index // 1000)):
            patched = patched.replace(uid.encode(), f"{uid[:-9]}1{number:08d}".encode())
        (folder / f"{index:07d}.dcm").write_bytes(patched)


def _slice(folder: Path) -> tuple[Instance, bytes]:
    if not folder.exists():
        write_cohort(Order("volume", patients=10, prevalence=0.3, size=64, seed=7), folder)
    instances = _scanned(folder / "dicom", 1).instances
    smallest = min((one for one in instances if one.kind == "slice"), key=lambda one: one.size_bytes)
    return smallest, (folder / "dicom" / smallest.path).read_bytes()


def _measure_scan(root: Path, threads: int) -> None:
    """Print the seconds of the stage (walk, headers, checks, triage, tables) and the gigabytes that it held at most."""
    import resource

    result = root.with_name(f"{root.name}-results")
    start = time.perf_counter()
    ingest(
        settings=IngestSettings(source=root, modalities=MODALITIES),
        key=result / "restricted" / "key",
        instances=result / "restricted" / "instances.parquet",
        rejected=result / "restricted" / "rejected.tsv",
        rejections=result / "rejections.tsv",
        flow=result / "flow" / "ingest.tsv",
        threads=threads,
    )
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE)


def _draw(found: Sequence[tuple[int, float, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sizes, seconds, gigabytes = zip(*found, strict=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.loglog(sizes, seconds, "o-", color="#1f5fa8", label="measured")
    left.loglog(sizes, [seconds[-1] * size / sizes[-1] for size in sizes], ":", color="#888888", label="linear")
    left.set(xlabel="files", ylabel="seconds", title="Time of ingest")
    left.legend(frameon=False)
    right.semilogx(sizes, gigabytes, "o-", color="#1f5fa8")
    right.axhline(MOST_GIGABYTES, color="#b03030", linestyle=":", label="limit")
    right.set(xlabel="files", ylabel="GB", title="Peak memory", ylim=(0, None))
    right.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _target(name: str, measured: float, wanted: float, *, at_most: bool = False) -> None:
    met = measured <= wanted if at_most else measured >= wanted
    sign = "<=" if at_most else ">="
    print(f"target {name} measured {measured:.2f} wanted {sign}{wanted} {'ok' if met else 'short'}")


if __name__ == "__main__":
    main()
