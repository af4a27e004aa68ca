"""Sections for whoever must answer for the numbers: limits, warnings, provenance."""

from pipeline.core.records import TrainingSummary
from pipeline.core.results import Evaluation
from pipeline.reporting import vocabulary
from pipeline.reporting.blocks import (
    Block,
    Bullets,
    Callout,
    Column,
    Facts,
    Heading,
    Paragraph,
    Section,
    Table,
    not_evaluated,
)
from pipeline.reporting.document import STATUS, Report
from pipeline.reporting.formatting import MISSING, count, day, duration, joined, moment, sentence

ALWAYS = (
    "The network was tested on patients it had not been trained on, but from the same source. How it does in other "
    "hospitals, on other scanners and in other years is not known from this report.",
    "Intervals describe the chance in which patients were sampled. They do not describe what another random start of "
    "training, another choice of settings, or errors in the labels would change.",
    "The labels are taken as true.",
    "The study looks back at images already made; nobody used the network's output in care.",
)
BY_SITE = (
    "Whole sites were held out: the network was tested on sites it had not been trained on. How it does at sites "
    "that are not in this study is not known from this report."
)
REGULATION = (
    "This report supports evidence for technical documentation (for example under the EU AI Act, Annex IV) and for "
    "the reporting guidelines CLAIM, TRIPOD+AI and STARD-AI. It is not a statement of conformity with any of them, "
    "and it does not replace the judgement of the people responsible."
)


def limits(report: Report) -> Section:
    """List warnings, the authors' limitations, and the limits of every study of this kind."""
    evaluation = report.evaluation
    lead = "What these numbers cannot show. Warnings are found automatically; limitations are the authors' words."
    blocks: list[Block] = [Heading(text="Automatic warnings")]
    if evaluation.warnings:
        blocks.append(Callout(tone="warning", title="Please note", text=tuple(map(sentence, evaluation.warnings))))
    else:
        blocks.append(Paragraph(text="None of the automatic checks found anything to warn about."))
    blocks.append(Heading(text="Limitations stated by the authors"))
    if report.text.limitations:
        blocks.append(Bullets(items=tuple(map(sentence, report.text.limitations))))
    else:
        blocks.append(not_evaluated("the configuration states no limitations."))
    general = (BY_SITE, *ALWAYS[1:]) if report.text.is_split_by_site else ALWAYS
    blocks += [
        Heading(text="Limits of every study of this kind"),
        Bullets(items=general),
        Heading(text="Use and regulation"),
        Paragraph(text=f"{STATUS} {REGULATION}"),
    ]
    return Section(name="limits", title="Limits and warnings", lead=lead, blocks=tuple(blocks))


def provenance(report: Report) -> Section:
    """Say what code, libraries, seeds, devices and settings the numbers come from."""
    evaluation = report.evaluation
    lead = "Everything needed to repeat the study and to tell whether it was this one."
    blocks: list[Block] = [
        Facts(rows=_run(evaluation)),
        Heading(text="Where training ran"),
        _environments(evaluation),
        Heading(text="Software"),
        _software(evaluation),
        Heading(text="Configuration in full"),
        _configuration(report),
    ]
    return Section(name="provenance", title="Provenance", lead=lead, blocks=tuple(blocks))


def _run(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    created = moment(evaluation.created)
    return (
        ("Study", evaluation.study),
        ("Evaluated", f"{day(evaluation.created)}, {created:%H:%M:%S} UTC"),
        ("Code fingerprint", evaluation.code),
        ("Seed of the study", str(evaluation.seed)),
        ("Folds", str(evaluation.folds)),
        ("Bootstrap replicates", count(evaluation.bootstrap_replicates)),
        ("Patient from images", evaluation.aggregation),
        *_asked(evaluation),
        ("Numbers", "rounded to four significant digits in report.json"),
    )


def _asked(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    names = ", ".join(evaluation.classes)
    if evaluation.kind == "findings":
        return (("Findings", names), ("Positive class", "of each finding: present"))
    return (("Classes", names), ("Positive class", evaluation.positive_class or "none: more than two classes"))


def _environments(evaluation: Evaluation) -> Block:
    titles = ("Device", "Precision", "Threads", "Seed", "Time")
    columns = (
        Column(title="Strategy", is_wide=True),
        Column(title="Folds"),
        *(Column(title=title, align="left" if title in {"Device", "Precision"} else "right") for title in titles),
    )
    alike: dict[tuple[str, ...], list[TrainingSummary]] = {}
    for result in evaluation.strategies:
        name = vocabulary.strategy(evaluation, result.strategy)
        for item in sorted(result.training, key=lambda item: item.fold):
            key = (name, item.device, item.precision, str(item.threads), str(item.seed))
            alike.setdefault(key, []).append(item)
    rows = tuple(
        (name, joined([str(item.fold + 1) for item in items]), *rest, duration(sum(item.seconds for item in items)))
        for (name, *rest), items in alike.items()
    )
    if not rows:
        return not_evaluated("no record of training was found.")
    caption = "Device, precision, threads and seed; folds that share all of them stand in one row."
    return Table(name="environments", caption=caption, columns=columns, rows=rows)


def _software(evaluation: Evaluation) -> Block:
    """Versions at evaluation and training beside each other; folds may have run on different machines."""
    evaluated = dict(evaluation.software)
    trained: dict[str, set[str]] = {}
    for result in evaluation.strategies:
        for item in result.training:
            for name, version in item.software:
                trained.setdefault(name, set()).add(version)
    names = sorted({*evaluated, *trained}, key=lambda name: (name not in {"python", "platform"}, name))
    if not names:
        return not_evaluated("no versions were recorded.")
    rows = tuple(
        (name, ", ".join(sorted(trained.get(name, set()))) or MISSING, evaluated.get(name, MISSING)) for name in names
    )
    columns = (Column(title="Name", is_wide=True), Column(title="In training"), Column(title="In evaluation"))
    return Table(name="software", caption="Versions of the software.", columns=columns, rows=rows)


def _configuration(report: Report) -> Block:
    if not report.text.settings:
        return not_evaluated("no configuration was handed over.")
    columns = (Column(title="Key", is_code=True), Column(title="Value", is_wide=True, is_code=True))
    rows = tuple((item.key, item.value or MISSING) for item in report.text.settings)
    note = "Paths are not printed: names of folders and files may say more than they should."
    return Table(name="configuration", caption="Every setting as used.", columns=columns, rows=rows, notes=(note,))
