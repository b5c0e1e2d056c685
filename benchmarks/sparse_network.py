"""crossmodal_gcn as one would write it with PyG's sparse layers: what `train` is timed against."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, global_max_pool, global_mean_pool
from torch_geometric.nn.pool import SAGPooling

from mmray import config
from mmray.models.crossmodal_gcn import CrossModalGCN, GraphEncoder
from mmray.models.layers import DenseGCNLayer, TopKPool, moments
from mmray.models.system import Output, projection


class WeightedScore(GCNConv):  # type: ignore[misc]  # PyG is not typed
    """GCNConv that SAGPooling can call: it hands on no edge weights, so they are laid beside it."""

    edge_weight: Tensor | None = None

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Scores from the graph with its weights."""
        scored: Tensor = super().forward(x, edge_index, self.edge_weight)
        return scored


class SparseEncoder(nn.Module):
    """GraphEncoder on PyG's batches."""

    def __init__(self, nodes: int, width: int, model: config.Model, named: bool) -> None:
        super().__init__()
        self.nodes, self.named = nodes, named
        self.input = nn.Linear(width, model.hidden)
        self.position_NH = nn.Parameter(torch.zeros(nodes, model.hidden))
        self.convolutions = nn.ModuleList(GCNConv(model.hidden, model.hidden) for _ in range(model.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(model.hidden) for _ in range(model.layers))
        pools = model.layers if model.pooling else 0
        self.pools = nn.ModuleList(
            SAGPooling(model.hidden, ratio=model.pool_ratio, GNN=WeightedScore) for _ in range(pools)
        )
        self.dropout = nn.Dropout(model.dropout)
        self.head = projection(2 * model.hidden, model)
        seen = (nodes if named else 4) * width
        self.centre_F = nn.Parameter(torch.zeros(seen), requires_grad=False)
        self.axes_FK = nn.Parameter(torch.zeros(seen, model.components), requires_grad=False)
        self.skip = nn.Linear(model.components, model.embedding)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, data: Data) -> Tensor:
        """Each graph's vector."""
        edge, weight, batch = data.edge_index, data.edge_attr, data.batch
        graphs = int(data.num_graphs)
        x_BND = data.x.view(graphs, self.nodes, -1)
        seen_BF = (x_BND if self.named else moments(x_BND)).flatten(1)
        skip_BE = self.skip((seen_BF - self.centre_F) @ self.axes_FK)
        h_VH = self.input(data.x) + self.position_NH.repeat(graphs, 1)
        summed_BR: Tensor | float = 0.0
        for depth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h_VH = self.dropout(F.relu(norm(convolution(h_VH, edge, weight))))
            if len(self.pools):
                pool = self.pools[depth]
                assert isinstance(pool, SAGPooling)
                pool.gnn.edge_weight = weight
                h_VH, edge, weight, batch, _, _ = pool(h_VH, edge, weight, batch)
            readout_BR = torch.cat([global_mean_pool(h_VH, batch), global_max_pool(h_VH, batch)], -1)
            summed_BR = summed_BR + readout_BR
        encoded_BE: Tensor = skip_BE + self.share * self.head(summed_BR)
        return encoded_BE


class SparseNetwork(nn.Module):
    """Sparse encoders under the dense network's own fusion and heads; only what PyG replaces differs."""

    def __init__(self, dense: CrossModalGCN, shapes: dict[str, tuple[int, int]], model: config.Model) -> None:
        super().__init__()
        self.dense = dense
        self.encoders = nn.ModuleDict({m: SparseEncoder(*shape, model, m == "eeg") for m, shape in shapes.items()})
        for m, encoder in self.encoders.items():
            assert isinstance(encoder, SparseEncoder)
            original = dense.encoders[m]
            assert isinstance(original, GraphEncoder)
            _copy(original, encoder)
        del dense.encoders

    def forward(self, data: dict[str, Data], segments: int) -> Output:
        """Both paths, as System.forward."""
        dense = self.dense
        encoded = {m: self.encoders[m](data[m]) for m in dense.modalities}
        encoded = {m: z.view(len(z) // segments, segments, -1).mean(1) for m, z in encoded.items()}
        rows = len(next(iter(encoded.values())))
        present_BM = torch.ones(rows, len(dense.modalities), dtype=torch.bool)
        fused_BE, alpha_BMM, gate_BME = dense.fuse(encoded, present_BM)
        stranger_B = torch.full((rows,), -1)
        z = {m: dense.lone(m, encoded_BE, stranger_B) for m, encoded_BE in encoded.items()}
        return Output(z, dense.classify(fused_BE), alpha_BMM, gate_BME, dense.logit_scale())


@torch.no_grad()
def _copy(one: GraphEncoder, other: SparseEncoder) -> None:
    """The dense encoder's weights into the sparse one's."""
    for name in ("input", "head", "skip"):
        getattr(other, name).load_state_dict(getattr(one, name).state_dict())
    for name in ("position_NH", "centre_F", "axes_FK"):
        getattr(other, name).copy_(getattr(one, name))
    other.share.copy_(one.share)
    other.norms.load_state_dict(one.norms.state_dict())
    for dense, sparse in zip(one.convolutions, other.convolutions, strict=True):
        _copy_layer(dense, sparse)
    for pool, sparse in zip(one.pools, other.pools, strict=True):
        assert isinstance(pool, TopKPool)
        assert isinstance(sparse, SAGPooling)
        _copy_layer(pool.score, sparse.gnn)
        sparse.select.weight.fill_(1.0)  # PyG multiplies a score by the sign of a weight of its own


def _copy_layer(dense: nn.Module, sparse: nn.Module) -> None:
    assert isinstance(dense, DenseGCNLayer)
    assert isinstance(sparse, GCNConv)
    sparse.lin.weight.copy_(dense.weight_DE.T)
    sparse.bias.copy_(dense.bias_E)
