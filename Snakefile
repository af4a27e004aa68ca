# From raw DICOM to an auditable report. Every rule calls the stage of its own name, `python -m pipeline RULE`;
# these files hold the wiring only: which file goes where, what a job needs, what makes it run again.
include: "workflow/rules/common.smk"


pathvars:
    results=RESULTS,
    reports=f"reports/{CONFIG.study}",
    logs=f"logs/{CONFIG.study}",
    benchmarks=f"{RESULTS}/benchmarks",


report: "workflow/report/workflow.rst"


include: "workflow/rules/dicom.smk"
include: "workflow/rules/imaging.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/learning.smk"
include: "workflow/rules/evaluation.smk"


# Everything the study makes and not the report alone: a job that fails takes its old results away, and Snakemake
# would call a report made from them up to date.
rule all:
    default_target: True
    input:
        rules.ingest.output,
        rules.deidentify.output,
        rules.check_quality.output,
        rules.preprocess.output,
        rules.label.output,
        rules.split.output,
        expand(rules.train.output, fold=FOLDS),
        rules.evaluate.output,
        rules.report.output,
