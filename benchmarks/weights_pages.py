"""Tables and the figure of docs/embedded-weights.md and of the data sheet, made from what `weights.py` measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from weights_target import COHORTS, ENDS, LONGER, SIZES, across_cohorts

from pipeline.learning.weights.loading import EMBEDDED_FOLDER

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/embedded-weights.md"
SHEET = EMBEDDED_FOLDER / "phantom-resnet18.md"
FIGURE = ROOT / "docs/images/embedded-weights.png"
Rows = dict[str, dict[str, Any]]


def write_pages(rows: Rows) -> None:
    """Put every table whose rows are all there between its marks, and draw the figure."""
    for mark, text in (("study", study_table(rows)), ("curve", curve_table(rows)), ("real", real_table(rows))):
        for page in (PAGE, SHEET) if text else ():
            put(page, mark, text)
        print(f"table {mark}: {'written' if text else 'left as it is: rows are missing'}")
    if curve_table(rows):
        draw(rows, FIGURE)


def put(page: Path, mark: str, text: str) -> None:
    """Replace what stands between two marks; a page without them stays as it is."""
    start, end = f"<!-- {mark}: made by benchmarks/weights.py -->", f"<!-- end of {mark} -->"
    old = page.read_text(encoding="utf-8")
    if start in old and end in old:
        head, _, rest = old.partition(start)
        page.write_text(f"{head}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def study_table(rows: Rows) -> str:
    """Table of the cohorts of the built-in study for each number of epochs: AUROC, differences, epochs to the same."""
    found = [rows[f"study {seed}"] for seed in COHORTS if f"study {seed}" in rows]
    if len(found) < len(COHORTS):
        return ""
    tables = []
    for end, epochs in zip(ENDS, found[0]["epochs"], strict=True):
        head = [f"{epochs} epochs", "fine-tuned", "scratch", "difference: other patients", "other trainings, too"]
        lines = [
            [f"cohort {seed}", *_areas(row, end), *_differences(row, end)]
            for seed, row in zip(COHORTS, found, strict=True)
        ]
        differences = [row[f"difference{end}"][0] for row in found]
        lines.append(["mean of the cohorts", *_mean_areas(found, end), "", _interval(across_cohorts(differences))])
        if not end:
            head += ["as good as scratch's best in epoch", "scratch itself"]
            reached = [epochs_to_same(row["validation"]) for row in found]
            lines = [[*line, *epochs] for line, epochs in zip(lines, [*reached, ("", "")], strict=True)]
        tables.append(_table(head, lines))
    return "\n\n".join(tables)


def _mean_areas(found: Sequence[dict[str, Any]], end: str) -> list[str]:
    return [f"{np.mean([row[f'{run}{end}'] for row in found]):.3f}" for run in ("full", "scratch")]


def _areas(row: dict[str, Any], end: str) -> list[str]:
    return [f"{row[f'{run}{end}']:.3f}" for run in ("full", "scratch")]


def _differences(row: dict[str, Any], end: str) -> list[str]:
    return [_interval(row[f"{name}{end}"]) for name in ("difference", "over trainings")]


def _interval(found: Sequence[float]) -> str:
    value, low, high = found
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def epochs_to_same(validation: dict[str, Sequence[Sequence[float | None]]]) -> tuple[str, str]:
    """Give the first epoch at which the fine-tuned network is as good in validation as scratch ever is, and scratch's.

    Both are means over the folds in which it happens, whose number is told.
    """
    pairs = []
    for fine, scratch in zip(validation["full"], validation["scratch"], strict=True):
        values = np.array([value or 0.0 for value in scratch])
        there = [epoch for epoch, value in enumerate(fine, start=1) if (value or 0.0) >= values.max()]
        pairs += [(there[0], int(np.argmax(values)) + 1)] if there else []
    if not pairs:
        return "never", "-"
    reached, own = np.mean(pairs, axis=0)
    return f"{reached:.1f} ({len(pairs)} of {len(validation['full'])} folds)", f"{own:.1f}"


def curve_table(rows: Rows) -> str:
    """Table over the numbers of patients: means over the cohorts, and the standard error of the mean difference."""
    curves = _curves(rows)
    if not curves:
        return ""
    head = ["patients", "epochs", "fine-tuned", "scratch", "mean difference (standard error)"]
    lines = [
        [str(patients), str(found[0]["epochs"][place]), *_means(found, end)]
        for place, end in enumerate(ENDS)
        for patients, found in curves.items()
    ]
    return _table(head, lines)


def _means(found: Sequence[dict[str, Any]], end: str) -> list[str]:
    differences = [row[f"difference{end}"][0] for row in found]
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    return [*_mean_areas(found, end), f"{np.mean(differences):+.3f} ({error:.3f})"]


def real_table(rows: Rows) -> str:
    """Table of frozen features on real images: mean and spread over networks, folds or draws.

    Nothing if one of the sets or ImageNet is missing.
    """
    found: dict[str, dict[str, list[list[list[float]]]]] = {}
    for _, row in _of(rows, "real "):
        found.setdefault(row["group"], {}).setdefault(row["set"], []).append(row["scores"])
    if set(found.get("ImageNet", ())) != {"radiographs", "mednist"}:
        return ""
    (size,) = {row["size"] for _, row in _of(rows, "real ")}
    lines = [
        "| frozen features | radiographs: AUROC, block 4 | block 3 | MedNIST, 10 a class: accuracy, 4 | block 3 |",
        "|---|---|---|---|---|",
    ]
    for group, of_sets in found.items():
        cells = [_cell(of_sets.get(data, []), place) for data in ("radiographs", "mednist") for place in (0, 1)]
        count = max(len(many) for many in of_sets.values())
        lines.append(f"| {group}{f' ({count})' if count > 1 else ''} | " + " | ".join(cells) + " |")
    lines.append(
        f"\nImages of {size} pixels. Mean and standard deviation: over the networks where there are several, else over"
    )
    lines.append("three divisions into folds (radiographs) or ten draws of the images (MedNIST).")
    return "\n".join(lines)


def _cell(networks: list[list[list[float]]], place: int) -> str:
    scores = [scores[place] for scores in networks if len(scores) > place]
    if not scores:
        return "-"
    values = [np.mean(one) for one in scores] if len(scores) > 1 else scores[0]
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def draw(rows: Rows, path: Path) -> None:
    """Draw AUROC against the number of patients, a thin line for each cohort, thick ones for the means."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    curves = _curves(rows)
    sizes = list(curves)
    steps = curves[sizes[0]][0]["steps"]
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for key, colour, label in (
        ("full", "#0b6e99", "fine-tuned"),
        ("scratch", "#b5541c", "scratch"),
    ):
        for place in range(min(len(found) for found in curves.values())):
            axes.plot(sizes, [curves[size][place][key] for size in sizes], color=colour, alpha=0.25, linewidth=1)
        means = [np.mean([row[key] for row in curves[size]]) for size in sizes]
        axes.plot(sizes, means, color=colour, linewidth=2.5, marker="o", label=f"{label}, {steps} steps")
        means = [np.mean([row[f"{key} longer"] for row in curves[size]]) for size in sizes]
        axes.plot(sizes, means, color=colour, linewidth=1.5, linestyle="--", label=f"{label}, {LONGER * steps} steps")
    axes.set(
        xlabel="patients in training and validation",
        ylabel="AUROC by patient, 200 others",
        xscale="log",
        ylim=(0.45, 1),
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def _of(rows: Rows, start: str) -> list[tuple[str, dict[str, Any]]]:
    return sorted((name, row) for name, row in rows.items() if name.startswith(start))


def _curves(rows: Rows) -> dict[int, list[dict[str, Any]]]:
    """Give the rows of each number of patients, all or none."""
    names = {patients: [f"curve {patients} {seed}" for seed in COHORTS] for patients in SIZES}
    if not all(name in rows for of_size in names.values() for name in of_size):
        return {}
    return {patients: [rows[name] for name in of_size] for patients, of_size in names.items()}
