# Networks that are trained from random weights.


rule train_baseline:
    """All plain networks."""
    input:
        all_of("train_baseline"),


rule train_baseline_run:
    """Train and evaluate a plain network: one branch and no gate."""
    input:
        stamp_of("train_baseline"),
        of("train_baseline", made_from),
    output:
        records_of("train_baseline"),
    log:
        log_of("train_baseline"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("train_baseline", threads_of)
    resources:
        gpu=of("train_baseline", gpus_of),
    params:
        study=STUDY.name,
        key=of("train_baseline", key_of),  # the job stops if params.yaml was edited before it began
        limit=time_limit,
    message:
        OF_RUN
    shell:
        TRAIN


rule train_one:
    """All cooperative networks that start from random weights."""
    input:
        all_of("train_one"),


rule train_one_run:
    """Train and evaluate a cooperative network, whose ensemble teaches its branches during training."""
    input:
        stamp_of("train_one"),
        of("train_one", made_from),
    output:
        records_of("train_one"),
    log:
        log_of("train_one"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("train_one", threads_of)
    resources:
        gpu=of("train_one", gpus_of),
    params:
        study=STUDY.name,
        key=of("train_one", key_of),  # the job stops if params.yaml was edited before it began
        limit=time_limit,
    message:
        OF_RUN
    shell:
        TRAIN


rule distil:
    """All networks that learn from a trained teacher, or mutually."""
    input:
        all_of("distil"),


rule distil_run:
    """Train and evaluate a network that learns from a trained teacher, or branches that learn mutually."""
    input:
        stamp_of("distil"),
        of("distil", made_from),
    output:
        records_of("distil"),
    log:
        log_of("distil"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("distil", threads_of)
    resources:
        gpu=of("distil", gpus_of),
    params:
        study=STUDY.name,
        key=of("distil", key_of),  # the job stops if params.yaml was edited before it began
        limit=time_limit,
    message:
        OF_RUN
    shell:
        TRAIN
