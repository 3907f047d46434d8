"""The commands of the `layersmith` program, one file per command or pair of commands."""
