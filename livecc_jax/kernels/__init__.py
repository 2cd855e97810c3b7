"""Accelerator kernels, each with a check of where it runs and a plain equivalent."""
