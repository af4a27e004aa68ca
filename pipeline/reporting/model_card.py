"""The model card: one Markdown page about the fitted networks, for whoever finds the weights without the report."""

import json
import re
from pathlib import Path
from typing import Any

from pipeline.reporting import vocabulary
from pipeline.reporting.document import Report
from pipeline.reporting.formatting import confidence, day, sentence
from pipeline.reporting.sections.accountability import ALWAYS, BY_SITE, REGULATION
from pipeline.reporting.sections.summary import SYNTHETIC, transfer_verdict, what_was_done

_TEMPLATES = Path(__file__).with_name("templates")
# Of each finding; all others stand in the report.
_OF_FINDINGS = frozenset({"auroc", "auprc", "sensitivity", "specificity"})
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#!|~$])")


def model_card(report: Report, digest: str) -> bytes:
    """Set the model card.

    Parameters
    ----------
    report
        The study.
    digest
        SHA-256 of ``report.json``.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Markdown is not HTML: texts are escaped by the filter `md`, values of the YAML header by `yaml`.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=False)
    text = environment.get_template("model_card.md.jinja").render(**_values(report, digest))
    return text.encode()


def escape_markdown(text: str) -> str:
    r"""Make a text mean itself in Markdown, on one line and not at its beginning.

    Examples
    --------
    >>> escape_markdown("a*b <i>")
    'a\\*b &lt;i&gt;'
    """
    escaped = _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _values(report: Report, digest: str) -> dict[str, Any]:
    evaluation = report.evaluation
    main = vocabulary.own(evaluation)
    estimates = [item for item in main.estimates if item.fold is None and item.level == "patient"]
    if evaluation.kind == "findings":
        estimates = [item for item in estimates if item.metric.partition(":")[0] in _OF_FINDINGS]
    return {
        "report": report,
        "digest": digest,
        "date": day(evaluation.created),
        "done": what_was_done(evaluation),
        "question": sentence(report.text.question) or "Not stated in the configuration.",
        "data_source": sentence(report.text.data_source) or "Not stated in the configuration.",
        "synthetic": SYNTHETIC if report.text.is_synthetic else "",
        "first": main.training[0] if main.training else None,
        "weights": vocabulary.weights(main.training[0].weights_source) if main.training else "",
        "strategy": vocabulary.strategy(evaluation, main.strategy),
        "level": confidence(estimates[0].confidence) if estimates else "Interval",
        "rows": [
            (vocabulary.overall_title(item.metric), vocabulary.value_of(item), vocabulary.interval_of(item))
            for item in estimates
        ],
        "verdict": " ".join(transfer_verdict(evaluation).text),
        "limits": [*map(sentence, (*evaluation.warnings, *report.text.limitations)), *_general(report)],
        "regulation": REGULATION,
    }


def _general(report: Report) -> tuple[str, ...]:
    return (BY_SITE, *ALWAYS[1:]) if report.text.is_split_by_site else ALWAYS
