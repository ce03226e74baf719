"""Routes unary calls to the shards of an installation, and merges the replies of calls over several of them."""
