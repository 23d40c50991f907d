"""Attacks on lungsound with what is damaged, cut, killed, full or hostile: see README.md."""
