# One rule per dataset, because the path of a checkpoint names it.
for dataset in STUDY.datasets():

    rule:
        name:
            f"train_{dataset}"
        input:
            stamps.of_run(WORKSPACE, STUDY, "{experiment}", "{seed}"),
            lambda wildcards: stamps.origins(WORKSPACE, STUDY, run_of(wildcards)),
        output:
            # Not deleted beforehand: the trainer replaces what differs, at once and only when it has something better.
            [
                update(
                    f"checkpoints/{dataset}/{STUDY.name}/{{experiment}}/seed{{seed}}/{name}"
                )
                for name in CHECKPOINT
            ],
            [
                update(f"results/{STUDY.name}/{{experiment}}/seed{{seed}}/{name}")
                for name in RESULTS
            ],
        log:
            f"{LOGS}/train/{{experiment}}-seed{{seed}}.log",
        wildcard_constraints:
            experiment=experiments_on(dataset),
        conda:
            "../envs/coopnet.yaml"
        threads: lambda wildcards: STUDY.threads * processes_of(wildcards)
        resources:
            gpu=lambda wildcards: processes_of(wildcards) * (STUDY.device == "cuda"),
        params:
            study=STUDY.name,
            # If params.yaml is edited before the job begins, the job refuses.
            key=lambda wildcards: run_of(wildcards).key,
            limit=time_limit,
        shell:
            "coopnet train {params.study} {wildcards.experiment} {wildcards.seed} --key {params.key} {params.limit} "
            "> {log} 2>&1"


rule evaluate:
    input:
        stamps.of_step(WORKSPACE, f"{STUDY.name}/evaluate/{{experiment}}/seed{{seed}}"),
        lambda wildcards: evaluation_of(wildcards).inputs,
    output:
        [
            update(f"results/{STUDY.name}/{{experiment}}/seed{{seed}}/{name}")
            for name in EVALUATED
        ],
    log:
        f"{LOGS}/evaluate/{{experiment}}-seed{{seed}}.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    shell:
        "coopnet evaluate {params.study} {wildcards.experiment} {wildcards.seed} > {log} 2>&1"
