"""Published checkpoints to weight files of oeft_jax: fetched, read safely, converted, checked."""
