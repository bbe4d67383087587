"""Exact causal attention: an oracle, and a tiled form that stays in cache."""

from ntk_jax.attention.blockwise import blockwise_attention
from ntk_jax.attention.reference import reference_attention

__all__ = ['blockwise_attention', 'reference_attention']
