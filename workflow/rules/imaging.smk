# From DICOM pixels to arrays of one size and range.
rule preprocess:
    input:
        series="<results>/series.tsv",
        quality="<results>/quality.tsv",
        dicom="<results>/dicom",
    output:
        images="<results>/images.tsv",
        pixels="<results>/images/pixels.npy",
        volumes=directory("<results>/images/volumes"),
        unreadable="<results>/unreadable.tsv",
        flow="<results>/flow/preprocess.tsv",
    log:
        "<logs>/preprocess.log",
    benchmark:
        "<benchmarks>/preprocess.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=480,
    params:
        settings=CONFIG.section("preprocess"),
        code=fingerprint("pipeline.stages.preprocess"),
    shell:
        "python -m pipeline preprocess --settings {params.settings:q} --series {input.series:q}"
        " --quality {input.quality:q} --dicom {input.dicom:q} --images {output.images:q} --pixels {output.pixels:q}"
        " --volumes {output.volumes:q} --unreadable {output.unreadable:q} --flow {output.flow:q}"
        " --threads {threads} --log {log:q}"
