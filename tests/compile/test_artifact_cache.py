"""The folder of artifacts: nothing in it is loaded that somebody else could have written."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isocline.compile import Cache, CacheError
from isocline.compile.cache import default_folder


def builder(content: bytes, count: list[int] | None = None):
    def build(workspace: Path) -> Path:
        if count is not None:
            count.append(1)
        assert not list(workspace.iterdir())
        assert workspace.stat().st_mode & 0o777 == 0o700
        path = workspace / "made.so"
        path.write_bytes(content)
        return path

    return build


def refuse(workspace: Path) -> Path:
    raise AssertionError("it was to be found")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "deep" / "cache")


def test_what_was_built_once_is_found(cache: Cache) -> None:
    path = cache.get("a", builder(b"code"))
    assert path.read_bytes() == b"code"
    assert cache.get("a", refuse) == path
    assert Cache(cache.folder).get("a", refuse) == path


def test_the_folder_is_private_and_nothing_is_left_in_it(cache: Cache) -> None:
    before = os.umask(0)  # as careless as can be
    try:
        cache.get("a", builder(b"code"))
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in cache.folder.iterdir()) == ["a.sha256", "a.so"]
    assert not any(path.stat().st_mode & 0o077 for path in cache.folder.iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(cache: Cache, mode: int) -> None:
    cache.get("a", builder(b"code"))
    cache.folder.chmod(mode)
    with pytest.raises(CacheError, match="can be written to by others"):
        cache.get("a", refuse)


@pytest.mark.parametrize("name", ["a.so", "a.sha256"])
def test_a_file_that_others_can_write_to_is_refused(cache: Cache, name: str) -> None:
    cache.get("a", builder(b"code"))
    (cache.folder / name).chmod(0o720)
    with pytest.raises(CacheError, match="can be written to by others"):
        cache.get("a", refuse)


def test_what_another_user_owns_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.get("a", builder(b"code"))
    monkeypatch.setattr(os, "getuid", lambda: cache.folder.stat().st_uid + 1)
    with pytest.raises(CacheError, match="belongs to another user"):
        cache.get("a", refuse)


def test_a_link_is_refused(cache: Cache, tmp_path: Path) -> None:
    path = cache.get("a", builder(b"code"))
    elsewhere = tmp_path / "elsewhere.so"
    elsewhere.write_bytes(b"code")
    path.unlink()
    path.symlink_to(elsewhere)
    with pytest.raises(CacheError, match="symbolic link"):
        cache.get("a", refuse)


@pytest.mark.parametrize("damage", [b"", b"cod", b"Code", b"code and more"])
def test_a_damaged_artifact_is_built_again(cache: Cache, damage: bytes) -> None:
    path = cache.get("a", builder(b"code"))
    path.write_bytes(damage)
    assert cache.get("a", builder(b"code")).read_bytes() == b"code"
    (cache.folder / "a.sha256").write_text("half of a dig")
    assert cache.get("a", builder(b"code")).read_bytes() == b"code"


def test_a_build_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail(workspace: Path) -> Path:
        (workspace / "half.so").write_bytes(b"co")
        raise RuntimeError("the compiler failed")

    with pytest.raises(RuntimeError, match="the compiler failed"):
        cache.get("a", fail)
    assert not list(cache.folder.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=250)
    for number, name in enumerate("abc"):
        cache.get(name, builder(bytes(80)))
        os.utime(cache.folder / f"{name}.so", (number, number))
    cache.get("a", refuse)  # so that b is the one that was not used for longest
    cache.get("d", builder(bytes(80)))
    assert sorted(path.stem for path in cache.folder.glob("*.so")) == ["a", "c", "d"]
    assert cache.contents().size == 240


def test_one_that_is_too_large_is_kept_for_itself(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=10)
    assert cache.get("a", builder(bytes(80))).exists()


def test_clearing(cache: Cache) -> None:
    cache.get("a", builder(bytes(80)))
    cache.get("b", builder(bytes(20)))
    (cache.headers() / "some.gch").write_bytes(bytes(7))
    found = cache.contents()
    assert (found.artifacts, found.size, found.headers) == (2, 100, 7)
    assert cache.clear() == found
    assert not list(cache.folder.iterdir())
    assert cache.contents().artifacts == 0


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ISOCLINE_CACHE_DIR", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    monkeypatch.delenv("ISOCLINE_CACHE_DIR")
    assert default_folder() == tmp_path / "xdg" / "isocline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "isocline"


def test_many_threads_at_once(cache: Cache) -> None:
    """One builds, the others wait for it."""
    count: list[int] = []

    def build(workspace: Path) -> Path:
        time.sleep(0.05)
        return builder(bytes(1_000_000), count)(workspace)

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: cache.get("a", build), range(4)))
    assert len(count) == len(set(paths)) == 1


@pytest.mark.slow
def test_many_processes_at_once(tmp_path: Path) -> None:
    """All build the same artifact; each finds it whole."""
    script = (
        "import sys, importlib.util\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from isocline.compile.cache import Cache\n"
        "def build(workspace):\n"
        "    path = workspace / 'made.so'\n"
        "    path.write_bytes(bytes(10_000_000))\n"
        "    return path\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "for _ in range(3):\n"
        "    assert cache.get('a', build).stat().st_size == 10_000_000\n"
        "    (cache.folder / 'a.sha256').unlink(missing_ok=True)\n"
    )
    import isocline

    source = str(Path(isocline.__file__).parent.parent)
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), source]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_what_cannot_be_written_or_found_is_a_cache_error(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get("a", builder(b"code"))

    def full(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("tempfile.mkdtemp", full)
        with pytest.raises(CacheError, match=r"cannot be used.*Permission denied"):
            cache.get("b", builder(b"code"))

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ISOCLINE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(CacheError, match="ISOCLINE_CACHE_DIR"):
        default_folder()


def test_a_library_that_needs_more_than_itself_is_not_kept(tmp_path: Path) -> None:
    from isocline.compile import building

    (tmp_path / "deep").mkdir()
    (tmp_path / "some.json").write_text("{}")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "deep" / "wrapper.json").write_text('{"nodes": []}')
    building._demand_whole(tmp_path)
    node = '{"name": "buf0", "node": {"target": "torch.ops.aten.linalg_solve_ex.default"}}'
    (tmp_path / "deep" / "wrapper.json").write_text('{"nodes": [' + node + "]}")
    with pytest.raises(building.BuildError, match=r"linalg_solve_ex.*ahead of time"):
        building._demand_whole(tmp_path)


def test_what_cannot_be_loaded_is_a_build_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from isocline.compile import building, tracing
    from isocline.compile.passes import Passes

    monkeypatch.setattr(building, "_compiled", lambda *given: builder(b"no library")(given[2]))
    monkeypatch.setattr(building, "_compiled_small", lambda _, folder: builder(b"none")(folder))
    monkeypatch.setattr(building, "_demand_compiler", lambda: None)
    traced = tracing.trace(lambda y: (y * 2,), [torch.ones(2)])
    with pytest.raises(building.BuildError, match="cannot be loaded"):
        building.built(traced, Passes(), Cache(tmp_path / "own"), "a step")


def test_a_compiler_named_with_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    from isocline.compile import building

    monkeypatch.setenv("CXX", f"'{sys.executable}' -O1 --of 'two words'")
    building._demand_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(building.BuildError, match="no-such-compiler"):
        building._demand_compiler()
