"""The claims ledger: which statements about cooperative networks hold, by how much, and how sure that is.

`claims.yaml` states them (`entries`), the plan says which runs speak to each (`pairing`), `outcomes` reads what those
runs got right, `bootstrap` resamples it, `decisions` turns estimates and intervals into verdicts, and `ledger` puts
it all together.
"""
