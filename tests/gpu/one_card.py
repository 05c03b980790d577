"""Plugin of pytest for a machine with one device: skips, with the reason, what needs several.

    python -m pytest -p one_card tests/python/test_transforms.py

With ``JAX_PLATFORMS=cpu`` the eight host devices of tests/python/conftest.py become one, so that a CPU shows which tests those are.
"""

from __future__ import annotations

import os

import pytest

SEVERAL = "needs several devices"
# Tests without a parameter that names their parallel form.
LEFT_OUT = {
    "test_members_on_different_devices_exchange_nothing": SEVERAL,
    "test_members_and_data_are_split_together": SEVERAL,
    "test_a_bound_layer_in_a_loop_moves_no_more_than_a_dense_one": SEVERAL,
    "test_a_donated_step_in_shard_map_copies_no_state": SEVERAL,
    "test_leaves_come_back_with_the_sharding_of_like": SEVERAL,
    "test_a_shard_map_is_exported_and_a_sharded_jit_refused_with_the_reason": SEVERAL,
    "test_the_second_process_finds_its_programs_in_the_compile_cache": SEVERAL,
    "test_a_sharded_jit_is_found_where_jax_leaves_the_address_of_the_partitioner_out_of_its_key": SEVERAL,
}


def pytest_configure(config: pytest.Config) -> None:
    """Called when conftest.py has set XLA's flags and before any device is asked for."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is left out."""
    import parallel

    for item in items:
        form = getattr(item, "callspec", None) and item.callspec.params.get("name")
        reason = LEFT_OUT.get(getattr(item, "originalname", item.name))
        if form in parallel.FORMS and form != "one device":
            reason = SEVERAL
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
