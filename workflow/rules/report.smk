MADE_TABLES = [str(WORKSPACE.tables(STUDY) / name) for name in TABLES]
TIMING = str(WORKSPACE.tables(STUDY) / "timing.csv")
PAGES = WORKSPACE.report(STUDY)


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
        MADE_TABLES,
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
        MADE_TABLES,
        str(WORKSPACE.claims(STUDY)),
    output:
        [PAGES / name for name in REPORT],
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
        PAGES / "timing.html",
    log:
        f"{LOGS}/timing.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    shell:
        "coopnet timing {params.study} > {log} 2>&1"
