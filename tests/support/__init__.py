"""What several tests share: rows, videos, tiny models, whole runs, a replay of streaming."""
