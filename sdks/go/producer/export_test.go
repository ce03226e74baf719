package producer

// PendingCount returns the number of creates that are in no frame.
func PendingCount(p *Producer) int { return p.creates.count() }
