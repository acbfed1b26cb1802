# One rule per dataset, because the path of a checkpoint names it.
for dataset in STUDY.datasets():

    # Training and evaluation are one job: half as many for Snakemake to plan and for a cluster to queue.
    rule:
        name:
            f"train_{dataset}"
        input:
            stamps.of_run(WORKSPACE, STUDY, "{experiment}", "{seed}"),
            lambda wildcards: stamps.origins(WORKSPACE, STUDY, run_of(wildcards)),
        output:
            # Its records alone: they are written last and hold the digests of its other files, for which the stamp speaks.
            # Not deleted beforehand: the trainer replaces what differs, at once and only when it has something better.
            update(
                f"checkpoints/{dataset}/{STUDY.name}/{{experiment}}/seed{{seed}}/model.json"
            ),
            [
                update(f"results/{STUDY.name}/{{experiment}}/seed{{seed}}/{record}")
                for record in ("run.json", "metrics.json")
            ],
        log:
            f"{LOGS}/train/{{experiment}}-seed{{seed}}.log",
        wildcard_constraints:
            experiment=experiments_on(dataset),
        conda:
            "../envs/coopnet.yaml"
        threads: lambda wildcards: STUDY.threads if trains(wildcards) else 1
        resources:
            gpu=lambda wildcards: int(STUDY.device == "cuda" and trains(wildcards)),
        params:
            study=STUDY.name,
            # If params.yaml is edited before the job begins, the job refuses.
            key=lambda wildcards: run_of(wildcards).key,
            limit=time_limit,
        shell:
            "coopnet train {params.study} {wildcards.experiment} {wildcards.seed} --evaluate --key {params.key} "
            "{params.limit} > {log} 2>&1"
