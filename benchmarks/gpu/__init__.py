"""The benchmark for a GPU that is lent for minutes: `bash benchmarks/gpu.sh`."""
