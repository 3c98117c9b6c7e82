"""The bundled small model: network, weights, drawn world, fitting, acceptance."""
