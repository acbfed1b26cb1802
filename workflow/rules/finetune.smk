# Networks that are trained further: those built by a transfer, and the controls.


rule finetune:
    """All fine-tuned networks."""
    input:
        all_of("finetune"),


rule finetune_run:
    """Train and evaluate a network built by a transfer, or a control: a trained network without a transfer."""
    input:
        stamp_of("finetune"),
        of("finetune", made_from),
    output:
        records_of("finetune"),
    log:
        log_of("finetune"),
    conda:
        "../envs/coopnet.yaml"
    threads: of("finetune", threads_of)
    resources:
        gpu=of("finetune", gpus_of),
    params:
        study=STUDY.name,
        key=of("finetune", key_of),  # the job stops if params.yaml was edited before it began
        limit=time_limit,
    message:
        OF_RUN
    shell:
        TRAIN
