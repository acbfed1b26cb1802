# Results computed from all runs; `steps.py` defines the inputs and outputs of each step.
TABLES = steps.tables(WORKSPACE, STUDY)
CLAIMS = steps.claims(WORKSPACE, STUDY.name)
REPORT = steps.report(WORKSPACE, STUDY.name)
TIMING = steps.timing(WORKSPACE, STUDY.name)


rule tables:
    input:
        stamps.step_stamp(WORKSPACE, TABLES.name),
        TABLES.inputs,
    output:
        [update(path) for path in TABLES.outputs],
    log:
        f"{LOGS}/tables.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    message:
        "{rule}: study {params.study}"
    shell:
        "coopnet tables {params.study} > {log} 2>&1"


rule claims:
    input:
        stamps.step_stamp(WORKSPACE, CLAIMS.name),
        CLAIMS.inputs,
    output:
        [update(path) for path in CLAIMS.outputs],
    log:
        f"{LOGS}/claims.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    message:
        "{rule}: study {params.study}"
    shell:
        "coopnet claims {params.study} > {log} 2>&1"


rule report:
    input:
        stamps.step_stamp(WORKSPACE, REPORT.name),
        REPORT.inputs,
    output:
        [update(path) for path in REPORT.outputs],
    log:
        f"{LOGS}/report.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    message:
        "{rule}: study {params.study}"
    shell:
        "coopnet report {params.study} > {log} 2>&1"


rule timing:
    input:
        stamps.step_stamp(WORKSPACE, TIMING.name),
        TIMING.inputs,
    output:
        [update(path) for path in TIMING.outputs],
    log:
        f"{LOGS}/timing.log",
    conda:
        "../envs/coopnet.yaml"
    threads: 1
    params:
        study=STUDY.name,
    message:
        "{rule}: study {params.study}"
    shell:
        "coopnet timing {params.study} > {log} 2>&1"
