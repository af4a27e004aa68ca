# Who belongs to which class, and who is tested when.
rule label:
    input:
        images="<results>/images.tsv",
        table=PHANTOM_FOLDER if CONFIG.phantom else CONFIG.label.table,
    output:
        labels="<results>/labels.tsv",
        unlabelled="<results>/unlabelled.tsv",
        flow="<results>/flow/label.tsv",
    log:
        "<logs>/label.log",
    benchmark:
        "<benchmarks>/label.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        settings=CONFIG.section("label"),
        code=fingerprint("pipeline.stages.label"),
        table=CONFIG.label.table,
        key=KEY,
    shell:
        "python -m pipeline label --settings {params.settings:q} --table {params.table:q} --key {params.key:q}"
        " --images {input.images:q} --labels {output.labels:q} --unlabelled {output.unlabelled:q}"
        " --flow {output.flow:q} --log {log:q}"


rule split:
    input:
        images="<results>/images.tsv",
        pixels="<results>/images/pixels.npy",
        labels="<results>/labels.tsv",
    output:
        folds="<results>/folds.tsv",
        duplicates="<results>/duplicates.tsv",
        flow="<results>/flow/split.tsv",
    log:
        "<logs>/split.log",
    benchmark:
        "<benchmarks>/split.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
    params:
        settings=CONFIG.section("split"),
        code=fingerprint("pipeline.stages.split"),
        seed=CONFIG.seed,
        kind=CONFIG.label.kind,
    shell:
        "python -m pipeline split --settings {params.settings:q} --seed {params.seed} --kind {params.kind}"
        " --images {input.images:q} --pixels {input.pixels:q} --labels {input.labels:q}"
        " --folds {output.folds:q} --duplicates {output.duplicates:q} --flow {output.flow:q} --log {log:q}"
