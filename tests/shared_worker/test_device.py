"""Which device there is: the CPU for real, the others over a torch that says what the test wants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared_worker.device import (
    Backend,
    Device,
    NoSuchDevice,
    _group_bytes,
    find_device,
    free_bytes,
    memory,
    usual_dtype,
)

WITHOUT_TORCH = """
import sys
from shared_worker import auth, contract, device
device.memory(device.find_device("cpu"))
print([name for name in sys.modules if name.split(".")[0] in ("torch", "worker")])
"""


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch with two CUDA devices and an Apple GPU."""
    fake = SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 2,
            get_device_name=lambda index: f"GPU {index}",
            get_device_capability=lambda name: {"cuda:0": (9, 0), "cuda:1": (7, 5)}[name],
            mem_get_info=lambda name: {"cuda:0": (30, 100), "cuda:1": (10, 40)}[name],
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True)),
        mps=SimpleNamespace(recommended_max_memory=lambda: 64, driver_allocated_memory=lambda: 8),
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def test_the_cpu_is_always_there() -> None:
    device = find_device("cpu", 7)
    assert (device.backend, device.torch_name) == ("cpu", "cpu")
    assert device.name
    total, used = memory(device)
    if total is not None and used is not None:
        assert 0 < used < total


def test_the_cpu_is_found_without_torch_and_nothing_of_the_worker() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_cuda_by_index(torch: SimpleNamespace) -> None:
    device = find_device("cuda", 1)
    assert device == Device("cuda", "cuda:1", "GPU 1")
    assert memory(device) == (40, 30)
    assert memory(find_device("cuda")) == (100, 70)
    assert (free_bytes(device), free_bytes(find_device("cuda"))) == (10, 30)


def test_mps(torch: SimpleNamespace) -> None:
    device = find_device("mps")
    assert (device.backend, device.torch_name) == ("mps", "mps")
    assert device.name
    assert memory(device) == (64, 8)
    assert free_bytes(device) == 56


@pytest.mark.parametrize(
    ("backend", "index", "said"),
    [("cuda", 2, "no CUDA device 2: there are 2, counted from 0"), ("cuda", 99, "no CUDA device 99")],
)
def test_an_index_too_high(torch: SimpleNamespace, backend: Backend, index: int, said: str) -> None:
    with pytest.raises(NoSuchDevice, match=said):
        find_device(backend, index)


def test_no_such_backend_here(torch: SimpleNamespace) -> None:
    torch.cuda.is_available = torch.backends.mps.is_available = lambda: False
    with pytest.raises(NoSuchDevice, match=r"^no CUDA device: .*driver"):
        find_device("cuda")
    with pytest.raises(NoSuchDevice, match=r"^no MPS device: .*Apple"):
        find_device("mps")


def test_half_precision_is_usual_where_the_device_has_units_for_it() -> None:
    cpu = Device("cpu", "cpu", "a processor")
    assert usual_dtype(cpu, {"fpu", "avx2", "avx512f"}) == "float32"
    for unit in ("amx_bf16", "avx512_bf16", "bf16"):
        assert usual_dtype(cpu, {"fpu", unit}) == "bfloat16"
    assert usual_dtype(cpu) in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 6), "bfloat16"), ((12, 0), "bfloat16")],
)
def test_a_cuda_device_computes_in_bfloat16_from_ampere_on(
    torch: SimpleNamespace, capability: tuple[int, int], expected: str
) -> None:
    torch.cuda.get_device_capability = lambda name: capability
    assert usual_dtype(find_device("cuda"), {"amx_bf16"}) == expected


def test_each_cuda_device_is_asked_for_itself(torch: SimpleNamespace) -> None:
    assert [usual_dtype(find_device("cuda", index)) for index in (0, 1)] == ["bfloat16", "float16"]


def test_an_apple_gpu_computes_in_float16(torch: SimpleNamespace) -> None:
    assert usual_dtype(find_device("mps"), {"bf16"}) == "float16"


def test_what_is_free_on_the_cpu_is_within_the_machine() -> None:
    device = find_device("cpu")
    total, _ = memory(device)
    free = free_bytes(device)
    assert total is not None
    assert free is not None
    assert 0 < free < total


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    assert _group_bytes(tmp_path) is None
    for name, text in (
        ("memory.current", "700\n"),
        ("memory.stat", "anon 1\ninactive_file 50\n"),
        ("memory.max", "max\n"),
    ):
        (tmp_path / name).write_text(text)
    assert _group_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _group_bytes(tmp_path) == 350
    (tmp_path / "memory.max").write_text("600\n")
    assert _group_bytes(tmp_path) == 0


def test_a_device_that_is_lost_has_no_figures(torch: SimpleNamespace) -> None:
    def fails(name: str) -> tuple[int, int]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device = find_device("cuda")
    torch.cuda.mem_get_info = fails
    assert memory(device) == (None, None)
    assert free_bytes(device) is None
