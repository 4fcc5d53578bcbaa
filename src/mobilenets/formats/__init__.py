"""Checkpoints as files that other runtimes read, written from the plan without torch."""
