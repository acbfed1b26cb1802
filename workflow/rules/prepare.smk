# Images of a user's own are decoded by one process per core.
OWN = {name for name, dataset in STUDY.data.items() if dataset.own}


rule prepare:
    """The canonical arrays of all datasets of the study."""
    input:
        [file for dataset in STUDY.datasets() for file in prepared(dataset)],


rule prepare_dataset:
    """The canonical arrays of a dataset, from its default source.

    To use Parquet shards, run `coopnet prepare DATASET --source parquet --root FOLDER` first.
    """
    output:
        prepared("{dataset}"),
    log:
        f"{LOGS}/prepare/{{dataset}}.log",
    conda:
        "../envs/coopnet.yaml"
    threads: lambda wildcards: (workflow.cores or 1) if wildcards.dataset in OWN else 1
    message:
        "{rule}: {wildcards.dataset}"
    shell:
        "coopnet prepare {wildcards.dataset} --processes {threads} > {log} 2>&1"
