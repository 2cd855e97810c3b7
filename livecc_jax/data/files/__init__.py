"""Files that annotations name: local or in buckets, cached copies, timestamps."""
