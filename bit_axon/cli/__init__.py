"""What a person sees and types: the console, and the `bit-axon` command."""
