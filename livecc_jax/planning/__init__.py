"""What training or streaming needs of a TPU slice, computed without one."""
