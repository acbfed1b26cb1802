"""The cooperative network, its loss, and the transfer that builds one trained network out of others."""
