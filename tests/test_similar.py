"""Near-duplicates go, everything else stays; clusters and embeddings do what their formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sagetune.chat import Encoded
from sagetune.selection import similar
from sagetune.selection.cluster import kmeans
from sagetune.selection.embedding import centred, terms, tfidf, whitened
from sagetune.selection.similar import keep_dissimilar, unlike, without_near_duplicates
from sagetune.world import generate
from test_facility import clustered, unit_rows


def brute_force(points: torch.Tensor, limit: float) -> list[int]:
    kept: list[int] = []
    for index in range(len(points)):
        if all(float(points[index] @ points[other]) <= limit for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("block", [3, 64, 1024])
def test_a_point_stays_if_nothing_before_it_is_similar(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "BLOCK", block)
    points = clustered(200, 8).double()
    kept = keep_dissimilar(points, 0.7)
    assert kept.tolist() == brute_force(points, 0.7)
    assert 0 < len(kept) < 200
    assert keep_dissimilar(points, 0.7, num=5).tolist() == kept[:5].tolist()


def test_exact_repeats_are_near_duplicates_and_the_first_stays() -> None:
    points = unit_rows(20, 32, 0)
    assert without_near_duplicates(points[[0, 1, 0, 2, 1]], 0.99).tolist() == [0, 1, 3]
    assert without_near_duplicates(torch.eye(3)[[0, 0, 1]], 1.0).tolist() == [0, 2]


def test_repeats_are_found_at_a_similarity_of_1_and_so_are_empty_samples() -> None:
    points = unit_rows(400, 256, 2)
    assert without_near_duplicates(torch.cat([points, points]), 1.0).tolist() == list(range(400))
    empty = torch.cat([torch.zeros(3, 4), torch.eye(4)])
    assert without_near_duplicates(empty, 0.95).tolist() == [0, 3, 4, 5, 6]


def test_unlike_keeps_what_resembles_nothing_given() -> None:
    assert unlike(torch.eye(4), torch.eye(4)[[1, 3]], 0.9).tolist() == [0, 2]
    assert unlike(torch.eye(2), torch.zeros(0, 2), 0.9).tolist() == [0, 1]


def test_cells_find_the_duplicates_of_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "PAIRS_LIMIT", 100)
    monkeypatch.setattr(similar, "CELL", 50)
    points = unit_rows(200, 64, 3)
    kept = without_near_duplicates(torch.cat([points, points]), 0.95)
    assert kept.tolist() == list(range(200))


def test_kmeans_finds_clear_clusters() -> None:
    centres = 10 * torch.eye(4)
    members = torch.arange(80) % 4
    found = kmeans(centres[members] + 0.1 * unit_rows(80, 4, 1), 4, seed=2)
    pairs = set(zip(members.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 4
    assert kmeans(torch.ones(5, 2), 3).unique().numel() == 1


def test_tfidf_is_unit_length_and_deterministic_and_order_free() -> None:
    samples = generate("tool_selection", "train", 30, 0)
    points = tfidf(samples, 256)
    assert torch.allclose(points.norm(dim=1), torch.ones(30))
    assert torch.equal(points, tfidf(samples, 256))
    assert torch.allclose(points.flip(0), tfidf(samples[::-1], 256), atol=1e-6)


def test_projected_cosines_are_near_the_exact_ones() -> None:
    """Johnson-Lindenstrauss: the error of a cosine has a standard deviation of about 1 / sqrt(dim)."""
    rng = np.random.default_rng(0)
    items = [Encoded(str(i), "", rng.integers(0, 3000, 80).tolist(), [], None, 0) for i in range(60)]
    small, large = tfidf(items, 256), tfidf(items, 4096)
    error = (small @ small.T - large @ large.T)[~torch.eye(60, dtype=torch.bool)]
    assert error.square().mean().sqrt() < 1.2 / 256**0.5


def test_terms_leave_out_what_all_samples_share() -> None:
    sample = generate("tool_selection", "train", 1, 0)[0]
    found = set(terms(sample))
    assert sample["tools"][0]["function"]["name"]
    sample["tools"] = []
    assert set(terms(sample)) == found
    assert "1 2" in terms(Encoded("a", "", [1, 2], [], None, 0))


def test_a_sample_without_words_is_a_zero_row_and_harms_nothing() -> None:
    empty = Encoded("a", "", [], [], None, 0)
    assert tfidf([empty, Encoded("b", "", [1, 2], [], None, 0)], 16)[0].abs().sum() == 0


def test_centring_takes_out_the_common_direction() -> None:
    points = F.normalize(unit_rows(100, 16, 0) + 20, dim=1)
    assert (points @ points.T).min() > 0.9
    assert centred(points).mean(0).abs().max() < 0.2


def test_whitening_makes_directions_equal() -> None:
    stretched = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 3, 1, 1, 1, 0])
    flat = whitened(stretched, 256)
    assert flat.shape == (2000, 5), "a direction without variance goes"
    spread = torch.cov(flat.T)
    assert torch.allclose(spread, torch.eye(5) / 5, atol=0.02)


def test_whitening_a_small_pool_leaves_samples_that_differ() -> None:
    """With a direction a sample all would be equally far from each other."""
    flat = whitened(unit_rows(80, 64, 4), 256)
    assert flat.shape == (80, 20)
    assert (flat @ flat.T).triu(1).max() > 0.5
