"""The command `lungsound`: arguments and printing."""
