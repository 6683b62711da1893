"""Domain-free procedures: train, evaluate, predict, report."""
