def origins_of(wildcards):
    """What a run starts from: its parents' checkpoints, or an imported one."""
    run = run_of(wildcards)
    origins = [name for parent in run.parents for name in checkpoint_of(parent)]
    if run.row.start.kind == "imported":
        origins += [str(Path(run.row.start.path) / name) for name in CHECKPOINT]
    return origins


# One rule per dataset, because the path of a checkpoint names it.
for dataset in STUDY.datasets():

    rule:
        name:
            f"train_{dataset}"
        input:
            data=prepared(dataset),
            origins=origins_of,
        output:
            [
                f"checkpoints/{dataset}/{STUDY.name}/{{experiment}}/seed{{seed}}/{name}"
                for name in CHECKPOINT
            ],
            [
                f"results/{STUDY.name}/{{experiment}}/seed{{seed}}/{name}"
                for name in RESULTS
            ],
        log:
            f"{LOGS}/train/{{experiment}}-seed{{seed}}.log",
        wildcard_constraints:
            experiment="|".join(
                name
                for name, row in STUDY.experiments.items()
                if row.data.dataset == dataset
            ),
        threads: STUDY.threads
        resources:
            gpu=int(STUDY.device == "cuda"),
        params:
            # The key holds everything that decides the result, so Snakemake makes a run again exactly when it has to.
            key=lambda wildcards: run_of(wildcards).key,
        shell:
            "{COOPNET} train {STUDY.name} {wildcards.experiment} {wildcards.seed} --key {params.key} > {log} 2>&1"


rule evaluate:
    input:
        lambda wildcards: results_of(
            run_of(wildcards), "run.json", "logits.safetensors"
        ),
        lambda wildcards: [
            name
            for parent in run_of(wildcards).parents
            for name in results_of(parent, "run.json", "logits.safetensors")
        ],
    output:
        f"results/{STUDY.name}/{{experiment}}/seed{{seed}}/metrics.json",
    log:
        f"{LOGS}/evaluate/{{experiment}}-seed{{seed}}.log",
    threads: 1
    shell:
        "{COOPNET} evaluate {STUDY.name} {wildcards.experiment} {wildcards.seed} > {log} 2>&1"
