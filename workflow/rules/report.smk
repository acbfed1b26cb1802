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
    params:
        study=STUDY.name,
        command=f"coopnet tables {STUDY.name}",
    message:
        "{rule}: study {params.study}"
    shell:
        "{params.command} > {log} 2>&1"


use rule tables as claims with:
    input:
        stamps.step_stamp(WORKSPACE, CLAIMS.name),
        CLAIMS.inputs,
    output:
        [update(path) for path in CLAIMS.outputs],
    log:
        f"{LOGS}/claims.log",
    params:
        study=STUDY.name,
        command=f"coopnet claims {STUDY.name}",


use rule tables as report with:
    input:
        stamps.step_stamp(WORKSPACE, REPORT.name),
        REPORT.inputs,
    output:
        [update(path) for path in REPORT.outputs],
    log:
        f"{LOGS}/report.log",
    params:
        study=STUDY.name,
        command=f"coopnet report {STUDY.name}",


use rule tables as timing with:
    input:
        stamps.step_stamp(WORKSPACE, TIMING.name),
        TIMING.inputs,
    output:
        [update(path) for path in TIMING.outputs],
    log:
        f"{LOGS}/timing.log",
    params:
        study=STUDY.name,
        command=f"coopnet timing {STUDY.name}",
