"""`python -m layerflow.cli`, the same as `layerflow`."""

from . import main

main()
