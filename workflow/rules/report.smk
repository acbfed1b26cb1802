TABLES = [
    str(WORKSPACE.tables(STUDY) / name)
    for name in (
        "study.json",
        "runs.csv",
        "accuracy.csv",
        "step0.csv",
        "step0_mean.csv",
        "growth.csv",
        "growth_mean.csv",
        "merges.csv",
        "diversity.csv",
        "votes.csv",
        "votes_best.csv",
        "distillation.csv",
        "published.csv",
        "factors.csv",
        "history.csv",
        "provenance.csv",
        "compute.csv",
        "reliability.csv",
    )
]
TIMING = str(WORKSPACE.tables(STUDY) / "timing.csv")
REPORT = WORKSPACE.report(STUDY)


rule tables:
    input:
        STAMPS / "words",
        STAMPS / "reporting",
        WORKSPACE.published,
        [
            path
            for run in STUDY.runs.values()
            for path in results_of(
                run,
                "run.json",
                "metrics.json",
                "votes.csv",
                "history.csv",
                "timing.csv",
            )
        ],
    output:
        TABLES,
        TIMING,
    log:
        f"{LOGS}/tables.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    shell:
        "coopnet tables {params.study} > {log} 2>&1"


rule claims:
    input:
        STAMPS / "claims",
        "claims.yaml",
        str(WORKSPACE.tables(STUDY) / "compute.csv"),
        [
            path
            for run in STUDY.runs.values()
            for path in results_of(
                run, "run.json", "metrics.json", "outcomes.safetensors", "history.csv"
            )
        ],
    output:
        str(WORKSPACE.claims(STUDY)),
    log:
        f"{LOGS}/claims.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    shell:
        "coopnet claims {params.study} > {log} 2>&1"


rule report:
    input:
        STAMPS / "reporting",
        TABLES,
        str(WORKSPACE.claims(STUDY)),
    output:
        REPORT / "index.html",
        REPORT / "report.pdf",
        REPORT / "figures" / "overview.png",
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    shell:
        "coopnet report {params.study} > {log} 2>&1"


rule timing:
    input:
        STAMPS / "reporting",
        TIMING,
        WORKSPACE.tables(STUDY) / "study.json",
    output:
        REPORT / "timing.html",
    log:
        f"{LOGS}/timing.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    shell:
        "coopnet timing {params.study} > {log} 2>&1"
