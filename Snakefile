# The flow of a study: data → training → transfer → fine-tuning → tables → claims → report.
#   snakemake --cores 8 --resources gpu=1       the full study (params.yaml)
#   snakemake --cores 2 --config study=demo     another study (studies/demo.yaml)
#   snakemake --cores 8 transfer                one phase and its prerequisites; phases are the rules below


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/report.smk"


# On a cluster these rules run where Snakemake runs: `prepare` may need the network, the others take seconds.
localrules:
    prepare,
    prepare_dataset,
    train_baseline,
    train_one,
    distil,
    transfer,
    expand,
    merge,
    ensemble,
    finetune,
    tables,
    claims,
    report,
    timing,


onstart:
    gc.enable()


onsuccess:
    handlers.on_success(WORKSPACE, STUDY)


onerror:
    handlers.on_error(WORKSPACE, STUDY)


rule all:
    default_target: True
    input:
        rules.report.output,
        rules.timing.output,
    message:
        f"{{rule}}: study {STUDY.name} is made"
