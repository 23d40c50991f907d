"""Measuring: what lungsound takes beside what others take for the same work, and beside what the machine can do."""
