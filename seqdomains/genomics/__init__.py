"""DNA at base-pair resolution: alphabet, FASTA, simulator, windows, labels, tasks."""
