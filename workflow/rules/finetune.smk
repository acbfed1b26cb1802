# Networks that are trained on: what a transfer built, and the controls.


rule finetune:
    """All networks that are trained on."""
    input:
        all_of("finetune"),


rule finetune_run:
    """Train on and evaluate what a transfer built, or a control: a trained network with no transfer."""
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
        key=of("finetune", key_of),  # the job refuses if params.yaml was edited before it began
        limit=time_limit,
    message:
        OF_RUN
    shell:
        TRAIN
