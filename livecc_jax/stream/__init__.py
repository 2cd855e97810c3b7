"""Streaming: turns and prompts, stores of keys and values, scheduler, engine, sessions, questions."""
