"""Many trainings together: tables of the paper, devices and corpora left out."""
