"""The commands, a module for each group; heavy imports inside the functions."""
