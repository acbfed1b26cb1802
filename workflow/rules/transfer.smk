# Networks whose weights are built from trained ones, without training. They are evaluated at transfer.


rule transfer:
    """All networks grown from several branches to more."""
    input:
        all_of("transfer"),


rule transfer_run:
    """Add branches to a network: three to five."""
    input:
        stamp_of("transfer"),
        of("transfer", made_from),
    output:
        records_of("transfer"),
    log:
        log_of("transfer"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("transfer", threads_of)
    resources:
        gpu=of("transfer", gpus_of),
    params:
        study=STUDY.name,
        key=of("transfer", key_of),  # the job stops if params.yaml was edited before it began
    message:
        OF_RUN
    shell:
        TRANSFER


rule expand:
    """All networks expanded from one branch."""
    input:
        all_of("expand"),


rule expand_run:
    """Expand a one-branch network to several branches."""
    input:
        stamp_of("expand"),
        of("expand", made_from),
    output:
        records_of("expand"),
    log:
        log_of("expand"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("expand", threads_of)
    resources:
        gpu=of("expand", gpus_of),
    params:
        study=STUDY.name,
        key=of("expand", key_of),  # the job stops if params.yaml was edited before it began
    message:
        OF_RUN
    shell:
        TRANSFER


rule merge:
    """All merged and combined networks."""
    input:
        all_of("merge"),


rule merge_run:
    """Merge one-branch networks on one trunk, or combine them under one gate."""
    input:
        stamp_of("merge"),
        of("merge", made_from),
    output:
        records_of("merge"),
    log:
        log_of("merge"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("merge", threads_of)
    resources:
        gpu=of("merge", gpus_of),
    params:
        study=STUDY.name,
        key=of("merge", key_of),  # the job stops if params.yaml was edited before it began
    message:
        OF_RUN
    shell:
        TRANSFER


rule ensemble:
    """All plain ensembles."""
    input:
        all_of("ensemble"),


rule ensemble_run:
    """Combine trained networks in a plain ensemble: the mean of their logits."""
    input:
        stamp_of("ensemble"),
        of("ensemble", made_from),
    output:
        records_of("ensemble"),
    log:
        log_of("ensemble"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("ensemble", threads_of)
    resources:
        gpu=of("ensemble", gpus_of),
    params:
        study=STUDY.name,
        key=of("ensemble", key_of),  # the job stops if params.yaml was edited before it began
    message:
        OF_RUN
    shell:
        TRANSFER
