# The flow of a study: data → training and surgery → metrics → tables → report.
#   snakemake --cores 8 --resources gpu=1       the full study (params.yaml)
#   snakemake --cores 2 --config study=demo     another one (studies/demo.yaml)


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/report.smk"


# On a cluster these stay where Snakemake runs: the first may need the network, the others take seconds.
localrules:
    prepare,
    tables,
    claims,
    report,
    timing,


onstart:
    gc.enable()


onsuccess:
    record()


onerror:
    report_failures()
    record()


rule all:
    default_target: True
    input:
        rules.report.output,
        rules.timing.output,
