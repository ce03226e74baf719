"""Authentication and authorization: token validators, tenants from claims, access rules of RPCs from the protos.

Knows nothing about tasks, gRPC or HTTP: both front ends pass the header to the `Authenticator` unchanged.
"""
