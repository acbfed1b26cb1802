# Networks that are trained further: those built by a transfer, and the controls.


rule finetune:
    """All fine-tuned networks."""
    input:
        all_of("finetune"),


use rule train_baseline_run as finetune_run with:
    """Train and evaluate a network built by a transfer, or a control: a trained network without a transfer."""
    output:
        records_of("finetune"),
