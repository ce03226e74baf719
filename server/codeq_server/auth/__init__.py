"""Who calls and what they may do: validators of tokens, tenants from claims, access of RPCs from the protos.

Knows nothing of tasks, of gRPC or of HTTP: both fronts hand `Authenticator.authenticate` the header as they got it.
"""
