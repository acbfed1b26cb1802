# Networks that are trained from random weights, and the job that trains a run. Other phases derive their jobs from it.


rule train_baseline:
    """All plain networks."""
    input:
        all_of("train_baseline"),


rule train_baseline_run:
    """Train and evaluate a plain network: one branch and no gate."""
    input:
        stamps.run_stamp(WORKSPACE, STUDY, "{phase}", "{experiment}", "{seed}"),
        made_from,
    output:
        records_of("train_baseline"),
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
        limit=time_limit,
    message:
        OF_RUN
    shell:
        "coopnet train {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} "
        "{params.limit} > {log} 2>&1"


rule train_one:
    """All cooperative networks that start from random weights."""
    input:
        all_of("train_one"),


use rule train_baseline_run as train_one_run with:
    """Train and evaluate a cooperative network, whose ensemble teaches its branches during training."""
    output:
        records_of("train_one"),


rule distil:
    """All networks that learn from a trained teacher, or mutually."""
    input:
        all_of("distil"),


use rule train_baseline_run as distil_run with:
    """Train and evaluate a network that learns from a trained teacher, or branches that learn mutually."""
    output:
        records_of("distil"),
