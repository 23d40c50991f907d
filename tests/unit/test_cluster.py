"""Joining a cluster: addresses, and how many workers there may be."""

from types import SimpleNamespace

import pytest

from lungsound.cluster import check_address, num_of
from lungsound.errors import SettingsError


def test_an_address_is_that_of_rays_client() -> None:
    check_address("ray")
    check_address("ray://head:10001")
    for wrong in ("slurm", "http://head", "ray:head", ""):
        with pytest.raises(SettingsError, match="ray://HOST:PORT"):
            check_address(wrong)


def test_the_number_of_workers_is_that_of_the_first_resource_there_is() -> None:
    for there, expected in (
        ({"CPU": 16.0, "GPU": 2.0}, (2, 16)),
        ({"CPU": 16.0}, (16, 16)),
        ({"GPU": 0.5, "CPU": 4.0}, (4, 4)),
    ):
        ray = SimpleNamespace(cluster_resources=lambda there=there: there)
        assert (num_of(ray, "GPU", "CPU"), num_of(ray, "CPU")) == expected
    with pytest.raises(SettingsError, match="--workers"):
        num_of(SimpleNamespace(cluster_resources=dict), "GPU", "CPU")
