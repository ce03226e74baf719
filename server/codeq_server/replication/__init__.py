"""Makes decided batches durable: in the local store of a single node, or on a majority of members."""
