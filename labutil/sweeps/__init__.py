"""Many runs of a notebook, here or on a cluster."""
