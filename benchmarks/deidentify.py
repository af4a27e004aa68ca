"""De-identification against three well-known Python tools, on the same files in turns.

``python benchmarks/deidentify.py --peers VENV [--data DIR] [--files N] [--slow-files N]``. The peers live in an
environment of their own, made once::

    python -m venv VENV
    VENV/bin/pip install dicom-anonymizer==2.1.0 dicognito==0.19.0 deid==0.4.13

Every tool runs in one process, with its defaults, and only its own work is timed: start and imports are not. Without
``--data`` the files are synthetic CT slices of 0.5 MB whose headers name people in some fifty places, nested sequences
and private blocks. What the tools leave behind in the files is not compared here: see docs/deidentification.md.

Ours looks for text in the pixels of every eighth slice, which no peer does; a second row leaves that out.
"""

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pydicom
from deidentify_peers import PEERS
from synthetic_ct import write_series

from pipeline.dicom.deidentification import objects
from pipeline.dicom.deidentification.objects import ObjectRewriter, WrittenObject
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms
from pipeline.phantom.canaries import Aviary, Numbers

ROUNDS = 5
WANTED = 5.0
OURS = "ours"
HEADERS = "ours, headers alone"  # which is all that the peers look at


def main() -> None:
    """Print the table and one line for the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="virtual environment with the peers (see the top of this file)")
    parser.add_argument("--data", type=Path, help="folder of .dcm files (default: synthetic)")
    parser.add_argument("--files", type=int, default=120, help="synthetic files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        name, source, target = options.only
        print(*_ours(Path(source), Path(target), looks_at_pixels=name == OURS))
        return
    with tempfile.TemporaryDirectory(prefix="deidentify-benchmark-") as name:
        work = Path(name)
        source = options.data or _named(write_series(work / "in", series=2, slices=options.files // 2))
        files = len(list(source.rglob("*.dcm")))
        python = options.peers / "bin" / "python" if options.peers else None
        seconds = _measure(source, work, python, options.rounds)
    speeds = {tool: files / statistics.median(wall for wall, _ in times) for tool, times in seconds.items()}
    worked = {tool: 1e3 * statistics.median(cpu for _, cpu in times) / files for tool, times in seconds.items()}
    print(f"\n{files} files, {options.rounds} rounds in turns, medians\n")
    print("| tool | files/s | ours is faster by | processor ms a file | ours needs less by |\n|---|---|---|---|---|")
    for tool, speed in sorted(speeds.items(), key=lambda one: -one[1]):
        less = worked[tool] / worked[OURS]
        print(f"| {tool} | {speed:.1f} | {speeds[OURS] / speed:.1f} | {worked[tool]:.2f} | {less:.1f} |")
    if python is None:
        print("\nno --peers: nothing to compare with")
        return
    fastest = max(speed for tool, speed in speeds.items() if tool in PEERS)
    for what, tool in (("headers-as-the-peers", HEADERS), ("headers-and-pixels", OURS)):
        ratio = speeds[tool] / fastest
        verdict = "ok" if ratio >= WANTED else "short"
        print(f"\ntarget deidentify-{what}-against-fastest-peer measured {ratio:.1f} wanted >={WANTED} {verdict}")


def _measure(source: Path, work: Path, python: Path | None, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run the tools in turns."""
    here = Path(__file__).resolve()
    commands = {name: [sys.executable, str(here), "--only", name, str(source)] for name in (OURS, HEADERS)}
    if python is not None:
        script = str(here.with_name("deidentify_peers.py"))
        commands |= {name: [str(python), script, name, str(source)] for name in PEERS}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            target = work / f"{name}-{number}"
            target.mkdir()
            done = subprocess.run([*command, str(target)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            wall, worked = map(float, done.stdout.split()[-2:])
            seconds[name].append((wall, worked))
            subprocess.run(["rm", "-r", str(target)], check=True)
    return seconds


def _ours(source: Path, target: Path, *, looks_at_pixels: bool) -> tuple[float, float]:
    """De-identify every file in this process; give seconds and processor seconds."""
    if not looks_at_pixels:
        objects.is_looked_at = lambda _number: False
    rewriter = ObjectRewriter(source, target, Pseudonyms(bytes(range(32))), 3650)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.dcm"))
    for module in ("scipy.ndimage", "scipy.sparse.csgraph"):  # of the text detector, which the first file may not need
        importlib.import_module(module)
    rewriter(files[0])  # what is imported and read once
    begin, worked = time.perf_counter(), time.process_time()
    results = [rewriter(file) for file in files]
    seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    failed = [one for one in results if not isinstance(one, WrittenObject)]
    if failed:
        raise SystemExit(f"{len(failed)} files could not be de-identified: {failed[0]}")
    return seconds, worked


def _named(folder: Path) -> Path:
    """Give the slices headers like those of clinical files: names, numbers, sequences, private blocks."""
    aviary = Aviary()
    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        aviary.plant(dataset, Numbers(patient=1, study=1, site=1))
        dataset.save_as(path)
    return folder


if __name__ == "__main__":
    main()
