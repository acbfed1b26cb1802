"""The cooperative network, its loss, and the transfers that build one network from trained ones."""
