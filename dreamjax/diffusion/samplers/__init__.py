"""One file per sampler: its table, one row a call of the network, and the formulas that the rows come from."""
