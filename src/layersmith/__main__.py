"""`python -m layersmith` is the `layersmith` program."""

from layersmith.cli import main

if __name__ == "__main__":
    main()
