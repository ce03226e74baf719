"""The client-facing services: one thin class per proto service, the calls shared by both front ends, the streams."""
