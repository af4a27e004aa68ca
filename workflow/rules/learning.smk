# What frozen blocks make of every image, for all folds; only for studies with a strategy that reads it.
rule bank:
    input:
        images="<results>/images.tsv",
        pixels="<results>/images/pixels.npy",
        weights=WEIGHTS,
    output:
        manifest="<results>/bank.json",
    log:
        "<logs>/bank.log",
    benchmark:
        "<benchmarks>/bank.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=480,
        gpu=0 if CONFIG.train.device == "cpu" else 1,
    params:
        settings=CONFIG.section("bank"),
        # Of the training, only what the values depend on: another number of epochs needs no other bank.
        train=CONFIG.section(
            "train", "strategy", "compare", "backbone", "volumes", "weights", "augmentation", "device", "precision"
        ),
        code=fingerprint("pipeline.stages.bank"),
        seed=CONFIG.seed,
        # Shards are no declared output: Snakemake deletes outputs when a job starts again.
        state=f"{RESULTS}/state/bank",
    shell:
        "python -m pipeline bank --settings {params.settings:q} --train {params.train:q} --seed {params.seed}"
        " --images {input.images:q} --pixels {input.pixels:q} --state {params.state:q}"
        " --manifest {output.manifest:q} --threads {threads} --log {log:q}"


# One job fine-tunes one fold, with every strategy of the study on the same images.
rule train:
    input:
        images="<results>/images.tsv",
        pixels="<results>/images/pixels.npy",
        folds="<results>/folds.tsv",
        bank=rules.bank.output.manifest if CONFIG.banked else [],
        weights=WEIGHTS,
    output:
        checkpoint="<results>/folds/{fold}/checkpoint.safetensors",
        history="<results>/folds/{fold}/history.tsv",
        predictions="<results>/folds/{fold}/predictions.tsv",
        training="<results>/folds/{fold}/training.tsv",
    log:
        "<logs>/train/{fold}.log",
    benchmark:
        "<benchmarks>/train/{fold}.tsv"
    conda:
        "../../environment.yml"
    # Fixed, not "as many as there are": the order of floating-point sums, and so the last digits, depend on it.
    threads: 2 * DEVICES
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * DEVICES * attempt,
        runtime=480,
        gpu=0 if CONFIG.train.device == "cpu" else DEVICES,
    params:
        settings=CONFIG.section("train"),
        code=fingerprint("pipeline.stages.train"),
        seed=CONFIG.seed,
        classes=CLASSES,
        kind=CONFIG.label.kind,
        bank=f"{RESULTS}/bank.json",
        # Resumable state is no declared output: Snakemake deletes outputs when a job starts again.
        state=f"{RESULTS}/state/train/{{fold}}",
    shell:
        "python -m pipeline train --settings {params.settings:q} --seed {params.seed}"
        " --images {input.images:q} --pixels {input.pixels:q} --folds {input.folds:q}"
        " --bank {params.bank:q} --classes {params.classes:q} --kind {params.kind} --fold {wildcards.fold} --state {params.state:q}"
        " --checkpoint {output.checkpoint:q} --history {output.history:q} --predictions {output.predictions:q}"
        " --training {output.training:q} --threads {threads} --gpus {resources.gpu} --log {log:q}"
