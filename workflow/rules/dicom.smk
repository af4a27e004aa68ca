# From files as found to de-identified, checked series.
from pipeline.dicom.indexing.archives import folder_of

if CONFIG.phantom:

    rule phantom:
        output:
            directory(PHANTOM_FOLDER),
        log:
            "<logs>/phantom.log",
        benchmark:
            "<benchmarks>/phantom.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=lambda wildcards, attempt: 2000 * attempt,
            runtime=30,
        params:
            settings=CONFIG.section("phantom"),
            code=fingerprint("pipeline.stages.phantom"),
        shell:
            "python -m pipeline phantom --settings {params.settings:q} --output {output:q} --log {log:q}"


rule ingest:
    input:
        # The folder or archive, never its files: their names may identify, and Snakemake keeps names of inputs.
        PHANTOM_FOLDER if CONFIG.phantom else CONFIG.ingest.source,
    output:
        instances="<results>/restricted/instances.parquet",
        rejected="<results>/restricted/rejected.tsv",
        rejections="<results>/rejections.tsv",
        flow="<results>/flow/ingest.tsv",
    log:
        "<logs>/ingest.log",
    benchmark:
        "<benchmarks>/ingest.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=240,
    params:
        settings=CONFIG.section("ingest"),
        files=lambda wildcards: "" if CONFIG.phantom else tree_state(folder_of(CONFIG.ingest.source)),
        code=fingerprint("pipeline.stages.ingest"),
        key=KEY,
    shell:
        "python -m pipeline ingest --settings {params.settings:q} --key {params.key:q}"
        " --instances {output.instances:q} --rejected {output.rejected:q} --rejections {output.rejections:q}"
        " --flow {output.flow:q} --threads {threads} --log {log:q}"


rule deidentify:
    input:
        instances="<results>/restricted/instances.parquet",
    output:
        dicom=directory("<results>/dicom"),
        series="<results>/series.tsv",
        pseudonyms="<results>/restricted/pseudonyms.tsv",
        quarantine="<results>/quarantine.tsv",
        blanked="<results>/blanked.tsv",
        receipt="<results>/receipt.tsv",
        flow="<results>/flow/deidentify.tsv",
    log:
        "<logs>/deidentify.log",
    benchmark:
        "<benchmarks>/deidentify.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=480,
    params:
        settings=CONFIG.section("deidentify"),
        code=fingerprint("pipeline.stages.deidentify"),
        source=CONFIG.ingest.source,
        key=KEY,
    shell:
        "python -m pipeline deidentify --settings {params.settings:q} --source {params.source:q}"
        " --key {params.key:q} --instances {input.instances:q} --dicom {output.dicom:q} --series {output.series:q}"
        " --pseudonyms {output.pseudonyms:q} --quarantine {output.quarantine:q} --blanked {output.blanked:q}"
        " --receipt {output.receipt:q} --flow {output.flow:q}"
        " --threads {threads} --log {log:q}"


rule check_quality:
    input:
        series="<results>/series.tsv",
        dicom="<results>/dicom",
    output:
        quality="<results>/quality.tsv",
        flow="<results>/flow/check_quality.tsv",
    log:
        "<logs>/check_quality.log",
    benchmark:
        "<benchmarks>/check_quality.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=240,
    params:
        settings=CONFIG.section("check_quality"),
        code=fingerprint("pipeline.stages.check_quality"),
    shell:
        "python -m pipeline check_quality --settings {params.settings:q} --series {input.series:q}"
        " --dicom {input.dicom:q} --quality {output.quality:q} --flow {output.flow:q}"
        " --threads {threads} --log {log:q}"
