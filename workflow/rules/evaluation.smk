# From the folds' predictions to numbers with intervals, and from numbers to documents.
FLOW_STAGES = ("ingest", "deidentify", "check_quality", "preprocess", "label", "split")
FINDINGS = ("rejections", "quarantine", "quality", "unreadable", "unlabelled", "duplicates")


rule evaluate:
    input:
        series="<results>/series.tsv",
        images="<results>/images.tsv",
        labels="<results>/labels.tsv",
        folds="<results>/folds.tsv",
        flow=expand("<results>/flow/{stage}.tsv", stage=FLOW_STAGES),
        findings=expand("<results>/{table}.tsv", table=FINDINGS),
        predictions=expand("<results>/folds/{fold}/predictions.tsv", fold=FOLDS),
        history=expand("<results>/folds/{fold}/history.tsv", fold=FOLDS),
        training=expand("<results>/folds/{fold}/training.tsv", fold=FOLDS),
    output:
        calibrated="<results>/predictions.tsv",
        estimates="<results>/estimates.tsv",
        evaluation="<results>/evaluation.json",
    log:
        "<logs>/evaluate.log",
    benchmark:
        "<benchmarks>/evaluate.tsv"
    conda:
        "../../environment.yml"
    resources:
        # Every finding has predictions of its own.
        mem_mb=lambda wildcards, attempt: (4000 + 1000 * len(CLASSES) * (CONFIG.label.kind == "findings")) * attempt,
        runtime=60,
    params:
        settings=CONFIG.section("evaluate"),
        code=fingerprint("pipeline.stages.evaluate"),
        study=CONFIG.study,
        seed=CONFIG.seed,
        classes=CLASSES,
        kind=CONFIG.label.kind,
    shell:
        "python -m pipeline evaluate --settings {params.settings:q} --study {params.study:q}"
        " --seed {params.seed} --classes {params.classes:q} --kind {params.kind} --series {input.series:q} --images {input.images:q}"
        " --labels {input.labels:q} --folds {input.folds:q} --flow {input.flow:q} --findings {input.findings:q}"
        " --predictions {input.predictions:q} --history {input.history:q} --training {input.training:q}"
        " --calibrated {output.calibrated:q} --estimates {output.estimates:q} --evaluation {output.evaluation:q}"
        " --log {log:q}"


rule report:
    input:
        evaluation="<results>/evaluation.json",
        receipt="<results>/receipt.tsv",
        blanked="<results>/blanked.tsv",
    output:
        html=report("<reports>/report.html", caption="../report/report.rst", category="Report"),
        pdf=report("<reports>/report.pdf", caption="../report/report.rst", category="Report"),
        figures=report(
            directory("<reports>/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
        ),
        tables=directory("<reports>/tables"),
        json="<reports>/report.json",
        card=report("<reports>/model_card.md", caption="../report/model_card.rst", category="Report"),
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        settings=CONFIG.model_dump_json(),
        code=fingerprint("pipeline.stages.report"),
        folder=subpath(output.json, parent=True),
    shell:
        "python -m pipeline report --settings {params.settings:q} --evaluation {input.evaluation:q}"
        " --receipt {input.receipt:q} --blanked {input.blanked:q} --output {params.folder:q} --log {log:q}"
