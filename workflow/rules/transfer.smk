# Networks whose weights are built from trained ones, without training. They are evaluated at transfer.


rule transfer:
    """All networks grown from several branches to more."""
    input:
        all_of("transfer"),


rule transfer_run:
    """Add branches to a network: three to five."""
    input:
        stamps.run_stamp(WORKSPACE, STUDY, "{phase}", "{experiment}", "{seed}"),
        made_from,
    output:
        records_of("transfer"),
    log:
        f"{LOGS}/{{phase}}/{{experiment}}-seed{{seed}}.log",
    conda:
        "../envs/coopnet.yaml"
    threads: threads_of
    resources:
        gpu=gpus_of,
    params:
        study=STUDY.name,
        key=key_of,  # the job stops if params.yaml was edited before it began
    message:
        OF_RUN
    shell:
        "coopnet transfer {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} "
        "> {log} 2>&1"


rule expand:
    """All networks expanded from one branch."""
    input:
        all_of("expand"),


use rule transfer_run as expand_run with:
    """Expand a one-branch network to several branches."""
    output:
        records_of("expand"),


rule merge:
    """All merged and combined networks."""
    input:
        all_of("merge"),


use rule transfer_run as merge_run with:
    """Merge one-branch networks on one trunk, or combine them under one gate."""
    output:
        records_of("merge"),


rule ensemble:
    """All plain ensembles."""
    input:
        all_of("ensemble"),


use rule transfer_run as ensemble_run with:
    """Combine trained networks in a plain ensemble: the mean of their logits."""
    output:
        records_of("ensemble"),
