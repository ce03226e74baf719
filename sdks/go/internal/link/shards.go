package link

const (
	// ShardsMax is the maximum number of shards of a server.
	ShardsMax = 32
	// ShardTriesMax is the number of connections opened in a row to reach the process of a shard.
	ShardTriesMax = 16
)
