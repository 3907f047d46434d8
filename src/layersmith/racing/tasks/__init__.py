"""The tasks of a race, one file each."""
