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
    threads: 1
    message:
        "{rule}: {wildcards.dataset}"
    shell:
        "coopnet prepare {wildcards.dataset} > {log} 2>&1"
