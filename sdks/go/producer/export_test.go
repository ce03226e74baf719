package producer

// PendingCount returns the number of creates that are in no frame.
func PendingCount(p *Producer) int { return p.creates.count() }

// Encoded returns a task as a field of ProduceRequest.
func Encoded(task Task) ([]byte, error) { return task.encoded() }
