"""A fleet of real workers that repair real images, under the decisions of the simulator."""

import os

# Before gRPC is first used, here and in workers: otherwise it prints lines about ended connections.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
