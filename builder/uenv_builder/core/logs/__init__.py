"""The output of jobs: what its known messages mean."""
