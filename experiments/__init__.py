"""Commands: flags to a config, and one call into `ntk_jax`."""
