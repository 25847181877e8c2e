"""BuildKit's wire: gRPC over connections that a client turned over (``/grpc``, ``/session``)."""
