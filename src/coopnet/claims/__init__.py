"""The claims ledger: which statements about cooperative networks hold, by how much, and how sure that is.

`claims.yaml` states them (`entries`), the plan says which runs speak to each (`pairing`), `outcomes` reads what those
runs got right, `inference` says how sure a difference is, `decisions` turns that into verdicts and says how
`claims.json` holds them, and `ledger` puts it all together.
"""
