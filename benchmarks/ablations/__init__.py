"""Ablations on the synthetic world: what each choice of the method is worth."""
