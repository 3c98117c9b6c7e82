"""Training art of the mini: packages with free pictures, and the atlas that is built of them.

The art itself is no part of LayerFlow. `packages` fetches it, a module for each source turns it into sprites and
backgrounds, and `build` writes the atlas that `layerflow.mini.world.atlas` reads.
"""
