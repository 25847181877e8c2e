"""Registry client: pulls, pushes, logins.

``resolver`` says where a registry is, ``transport`` sends requests, ``auth`` answers challenges,
``client`` speaks the protocol, ``fetch``/``upload`` move blobs, ``layers`` shares work between
pulls, ``pull`` and ``push`` put it together.
"""
