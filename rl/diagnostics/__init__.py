"""Whether C can be trusted: what it claims to estimate, and the truth from simulators that are set back."""
