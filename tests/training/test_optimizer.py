"""The optimiser: orthogonalisation, step sizes, and its saved state."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerflow.training.optimizer import MIN_SIDE, MuonAdamW, orthogonalise, parameter_groups


@settings(max_examples=20, deadline=None)
@given(st.integers(MIN_SIDE, 80), st.integers(MIN_SIDE, 80), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_orthogonalised_matrices_have_singular_values_near_one(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    matrix = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(orthogonalise(matrix[None], steps=10)[0].float())
    assert values.max() < 1.35
    # A square Gaussian matrix has a few singular values near zero, which ten steps may not have lifted yet.
    assert values.median() > 0.6


def test_orthogonalisation_keeps_the_direction() -> None:
    matrix = torch.randn(40, 70, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(orthogonalise(matrix[None])[0].float().flatten(), (u @ v).flatten(), dim=0) > 0.97


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 48), nn.LayerNorm(48), nn.Linear(48, 2))


def test_large_matrices_alone_go_to_muon() -> None:
    model = network()
    groups = parameter_groups(model.named_parameters(), 0.01)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    muon = {id(p) for g in groups if g["muon"] for p in g["params"]}
    assert muon == {id(model[0].weight), id(model[2].weight)}
    assert all(p.ndim < 2 for g in groups if not g["weight_decay"] for p in g["params"])


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (model(x) - x.mean((2, 3))[:, :2]).square().mean()


def test_other_weights_are_stepped_like_adamw() -> None:
    model = network()
    other = copy.deepcopy(model)
    ours = MuonAdamW([{"params": list(model.parameters()), "muon": False, "weight_decay": 0.1}], lr=1e-2)
    theirs = torch.optim.AdamW(other.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    for seed in range(5):
        for net, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            loss_of(net, seed).backward()
            optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_muon_step_size() -> None:
    weight = nn.Parameter(torch.zeros(64, 40))
    optimizer = MuonAdamW([{"params": [weight], "muon": True, "weight_decay": 0.0}], lr=0.1)
    weight.grad = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    # 0.2 of root mean square for a matrix whose orthogonal factor has singular values near one (they are 0.7 to 1.2).
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.25)


def test_saved_state_resumes_bit_for_bit() -> None:
    model = network()
    optimizer = MuonAdamW(parameter_groups(model.named_parameters(), 0.01), lr=3e-3)

    def run(net: nn.Module, optimizer: MuonAdamW, seeds: range) -> None:
        for seed in seeds:
            optimizer.zero_grad()
            loss_of(net, seed).backward()
            optimizer.step()

    before = float(loss_of(model, 99).detach())
    run(model, optimizer, range(5))
    other, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    again = MuonAdamW(parameter_groups(other.named_parameters(), 0.01), lr=3e-3)
    again.load_state_dict(state)
    run(model, optimizer, range(5, 30))
    run(other, again, range(5, 30))
    assert float(loss_of(model, 99).detach()) < 0.6 * before
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
