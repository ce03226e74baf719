"""The shard: a pure, single-threaded state machine of tasks, queues and leases.

Functions here change the memory of a `Shard` and collect row changes in its current batch; they never wait, never look
at a clock and draw no random numbers. Time and randomness are arguments, and rows are read through the port
`RowReader`. Only the standard library and the generated row messages are imported.
"""
