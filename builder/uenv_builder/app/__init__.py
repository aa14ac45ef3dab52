"""One use case a verb: what the command line calls, without a word about flags or terminals."""
