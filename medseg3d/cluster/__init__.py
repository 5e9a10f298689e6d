"""Many machines: a part of the cases each, or jobs for the workers of dask.distributed."""

from medseg3d.cluster.runner import Cluster
from medseg3d.cluster.shard import Shard, parse_shard

__all__ = ["Cluster", "Shard", "parse_shard"]
