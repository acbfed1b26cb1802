"""The cooperative network, its loss, and the surgery that builds one trained network out of others."""
