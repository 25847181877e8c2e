"""BuildKit's messages. Each ``*_pb2`` module is compiled from the ``.proto`` file beside it by tools/protos.py."""
