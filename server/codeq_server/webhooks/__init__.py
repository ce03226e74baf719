"""HTTP requests to URLs of tenants: the guard, the sender, signatures, signals of subscriptions."""
