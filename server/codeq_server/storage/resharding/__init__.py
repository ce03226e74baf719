"""Changes the number of shards of a server's stores while no server runs; see docs/adr/0052."""
