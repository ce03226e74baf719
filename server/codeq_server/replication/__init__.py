"""Where decided batches become durable: the seam behind which a batch goes to local RocksDB."""
