"""The claims ledger: which statements about cooperative networks hold, by how much, and how sure that is.

`entries` reads `claims.yaml`, `pairing` finds the runs that belong together, `outcomes` reads which images they
classify correctly, `inference` computes intervals and p values, `decisions` turns them into verdicts and defines
`claims.json`, and `ledger` decides all claims of a study.
"""
