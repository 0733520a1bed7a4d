"""Evaluation of encoders: zero-shot classification, k-NN, linear probe, with intervals."""
