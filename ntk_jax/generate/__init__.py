"""Text from a model: a prompt is read in chunks, then tokens one by one."""

from ntk_jax.generate.loop import generate

__all__ = ['generate']
