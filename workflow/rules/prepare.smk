rule prepare:
    """The canonical arrays of all datasets of the study."""
    input:
        [file for dataset in STUDY.datasets() for file in prepared(dataset)],


rule prepare_dataset:
    """Canonical arrays of a dataset, from its default source.

    From Parquet shards instead: `coopnet prepare DATASET --source parquet --root FOLDER` beforehand.
    """
    output:
        prepared("{dataset}"),
    log:
        f"{LOGS}/prepare/{{dataset}}.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    message:
        "{rule}: {wildcards.dataset}"
    shell:
        "coopnet prepare {wildcards.dataset} > {log} 2>&1"
