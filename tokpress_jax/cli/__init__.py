"""The commands: `tokpress <name>` is `tokpress_jax.cli.<name>.main(argv)`."""
