"""What clients can call: one thin class per proto service, the calls both fronts share, and the streams."""
