"""A damaged index shows what was indexed or says that it is damaged; it never shows other frames.

What was indexed is computed from the columns' bytes with numpy alone, before anything is damaged.
"""

import json
import random
import shutil
import zlib

import numpy as np
import pytest

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.checksums import BLOCK_BYTES
from livecc_jax.data.index.columns import COLUMNS
from livecc_jax.data.index.reader import Index
from livecc_jax.errors import DataError, LiveCCError
from livecc_jax.media.budget import PixelBudget


def expected_records(folder):
    """Sizes, frame times and text of each example."""
    c = {name: np.load(folder / f"{name}.npy") for name in COLUMNS}
    records = []
    for i in range(len(c["tokens"])):
        times = []
        for m in range(c["media_starts"][i], c["media_starts"][i + 1]):
            gaps = c["frame_gaps_us"][c["frame_starts"][m] : c["frame_starts"][m + 1]].astype(np.int64)
            duration = c["file_shape"][c["media_file"][m], 0]
            times += (c["media_first_us"][m] + gaps.cumsum() + duration).tolist()
        text = c["text"][c["text_starts"][i] : c["text_starts"][i + 1]].tobytes()
        records.append(([int(c[k][i]) for k in ("tokens", "targets", "windows")], times, text))
    return records


def records_of(index):
    """The same as the index itself tells it."""
    records = []
    for i in range(len(index)):
        r = index.record(i)
        sizes = [r.tokens, r.targets, r.windows]
        records.append((sizes, r.frame_times_us.tolist(), index._text(i)))
    return records


@pytest.fixture(scope="module")
def built(module_home, template):
    folder = module_home / "index"
    names = [module_home / f"annotations/{name}.jsonl" for name in ("windows", "qa", "narration")]
    build_index(names, folder, template.tokenizer, PixelBudget.parse(12), row_tokens=300)
    return folder


def without_checksums(folder):
    """Makes it an index of the version before checksums, by hand."""
    (folder / "checksums.npy").unlink()
    meta = json.loads((folder / "meta.json").read_text())
    del meta["checksums"]
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")


@pytest.mark.parametrize("earlier", [False, True])
def test_five_flipped_bytes_never_show_other_frames(built, template, earlier):
    expected = expected_records(built)
    if earlier:
        folder = shutil.copytree(built, built.parent / "earlier")
        without_checksums(folder)
        assert Index(folder).digest == Index(built).digest
    else:
        folder = shutil.copytree(built, built.parent / "damaged")
    assert records_of(Index(folder)) == expected
    # meta.json of an earlier index has no checksum of its own.
    files = sorted(p for p in folder.iterdir() if p.suffix == (".npy" if earlier else p.suffix))
    files = [p for p in files if p.name != "rejected.jsonl"]
    rng, said = random.Random(17), []
    for _ in range(80):
        file = rng.choice(files)
        original = file.read_bytes()
        damaged = bytearray(original)
        for _ in range(5):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            index = Index(folder)
            assert records_of(index) == expected, file.name
            for i in (0, len(index) - 1):
                example = index.encoded_example(i, template, MediaFiles())
                assert example.frame_times_us.tolist() == expected[i][1], file.name
        except LiveCCError as error:
            said.append(str(error))
        finally:
            file.write_bytes(original)
    assert all(str(folder) in message for message in said)
    assert len(said) > 50  # the others hit the padding of a header


def test_a_block_is_checked_when_it_is_used(built, tmp_path):
    """In a column of several blocks, damage in one is found where that one is used, and only there."""
    folder = shutil.copytree(built, tmp_path / "index")
    meta = json.loads((folder / "meta.json").read_text())
    values = np.load(folder / "text.npy")
    assert len(values) < BLOCK_BYTES
    # A last example is given a text of many blocks, with checksums computed here.
    text = np.concatenate([values, np.full(5 * BLOCK_BYTES, 32, np.uint8)])
    starts = np.load(folder / "text_starts.npy")
    starts[-1] = len(text)
    np.save(folder / "text.npy", text)
    np.save(folder / "text_starts.npy", starts)
    sums = []
    for name in COLUMNS:
        data = np.load(folder / f"{name}.npy").tobytes()
        sums += [zlib.crc32(data[i : i + BLOCK_BYTES]) for i in range(0, len(data), BLOCK_BYTES)]
    np.save(folder / "checksums.npy", np.array(sums, np.uint32))
    meta["checksums"] = {
        "block_bytes": BLOCK_BYTES,
        "blocks": zlib.crc32(np.array(sums, "<u4").tobytes()),
    }
    sealed = {k: v for k, v in meta.items() if k not in ("root", "root_from_index")}
    meta["checksums"]["meta"] = zlib.crc32(json.dumps(sealed, sort_keys=True).encode())
    (folder / "meta.json").write_text(json.dumps(meta))
    last = len(starts) - 2
    assert Index(folder)._text(last) == text[starts[last] :].tobytes()
    file = folder / "text.npy"
    damaged = bytearray(file.read_bytes())
    damaged[-BLOCK_BYTES - 100] ^= 1
    file.write_bytes(damaged)
    index = Index(folder)
    assert index._text(0) == text[: starts[1]].tobytes()
    with pytest.raises(DataError, match=r"text\.npy: is damaged: bytes \d+ to \d+"):
        index._text(last)


def set_meta(folder, **fields):
    meta = json.loads((folder / "meta.json").read_text()) | fields
    (folder / "meta.json").write_text(json.dumps(meta))


def test_the_root_may_be_corrected_by_hand(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "index")
    set_meta(folder, root="/elsewhere", root_from_index="")
    assert Index(folder).root == "/elsewhere"
    set_meta(folder, tokenizer="0" * 16)
    with pytest.raises(DataError, match=r"meta\.json: is damaged or was edited"):
        Index(folder)


def change(name, at, value):
    def damage(folder):
        values = np.load(folder / f"{name}.npy")
        values[at] = value
        np.save(folder / f"{name}.npy", values)

    return damage


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


# Each is a bit or two of an index without checksums whose digest is not computed, as of a large one.
DAMAGE = {
    "empty": (replace("tokens.npy", b""), "empty, cut short or not an array"),
    "no array": (replace("kind.npy", b"[" * 5000), "not an array"),
    "cut": (cut("frame_gaps_us.npy", 200), "empty, cut short"),
    "header cut": (cut("text.npy", 40), "empty, cut short"),
    "longer": (lambda f: (f / "line.npy").open("ab").write(b"x"), "longer than its header"),
    "other dtype": (lambda f: np.save(f / "line.npy", np.zeros(9, "O"), True), "not an array"),
    "by columns": (
        lambda f: np.save(f / "pieces.npy", np.asfortranarray(np.load(f / "pieces.npy"))),
        "another order",
    ),
    "starts fall": (change("text_starts", 1, 1 << 40), "less than the one before"),
    "starts below 0": (change("media_starts", 0, -5), "first record is not 0"),
    "file": (change("media_file", 0, 1 << 33), "names no file"),
    "no file": (change("media_file", 0, -1), "names no file"),
    "size": (change("media_size", (0, 0), 28 + (1 << 20)), "no size of a picture"),
    "odd size": (change("media_size", (0, 1), 29), "no size of a picture"),
    "kind": (change("kind", 0, 77), "no kind"),
    "source": (change("source", 0, 9), "names no annotation file"),
    "line": (change("line", 0, 1 << 50), "past the file's lines"),
    "tokens": (change("tokens", 0, -(1 << 30)), "not above 0"),
    "windows": (change("windows", 0, -1), "below 0"),
    "deep meta": (replace("meta.json", b"[" * 100_000), "not readable JSON"),
    "meta of 9s": (replace("meta.json", b"9" * 9999), "not readable JSON"),
    "list": (replace("meta.json", b"[]"), "not a livecc-index"),
    "version": (lambda f: set_meta(f, version=2.0), "not a livecc-index"),
    "examples": (lambda f: set_meta(f, examples=10**12), "does not hold"),
    "examples as text": (lambda f: set_meta(f, examples="7"), "'examples' is '7'"),
    "no examples": (lambda f: set_meta(f, examples=0), "'examples' is 0"),
    "annotations": (lambda f: set_meta(f, annotations={"path": 1}), "'annotations' is"),
    "annotation": (lambda f: set_meta(f, annotations=[{"path": 1}]), "'annotations' is"),
    "NUL in the root": (lambda f: set_meta(f, root="a\0b"), "'root' is"),
    "budget": (lambda f: set_meta(f, pixel_budget="999999999"), "'pixel_budget' is"),
    "window": (lambda f: set_meta(f, window=1 << 40), "'window' is"),
    "form": (lambda f: set_meta(f, form=["stream"]), "'form' is"),
    "context": (lambda f: set_meta(f, context=None), "'context' is"),
    "rejected": (lambda f: set_meta(f, rejected=[1]), "'rejected' is"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_columns_that_disagree_are_refused_on_opening(built, tmp_path, monkeypatch, name):
    folder = shutil.copytree(built, tmp_path / "index")
    without_checksums(folder)
    monkeypatch.setattr("livecc_jax.data.index.consistency.MAX_DIGEST_BYTES", 0)
    Index(folder)
    damage, reason = DAMAGE[name]
    damage(folder)
    with pytest.raises(DataError, match=reason) as error:
        Index(folder)
    assert str(folder) in str(error.value)


def test_what_cannot_be_checked_is_said(built, tmp_path, monkeypatch, caplog):
    folder = shutil.copytree(built, tmp_path / "index")
    without_checksums(folder)
    Index(folder)
    assert not caplog.messages
    monkeypatch.setattr("livecc_jax.data.index.consistency.MAX_DIGEST_BYTES", 0)
    Index(folder)
    assert "no checksums, so damage to it is not noticed" in caplog.text
    shutil.copy(built / "checksums.npy", folder)
    with pytest.raises(DataError, match="checksums are damaged"):
        Index(folder)


def test_bad_lines_and_damaged_shards_end_no_index(module_home, template, tmp_path):
    """The index holds the good lines, token for token; every bad one is listed with its reason."""
    good = (module_home / "annotations/qa.jsonl").read_text().splitlines()[3]
    bad = ["[" * 5000, "9" * 5000, '[{"role": "\ud800"}]', "", '["\xe9"', good.replace("text", "\0")]
    lines = [line for other in bad for line in (good, other)] + [good]
    path = module_home / "annotations/mixed.jsonl"
    path.write_bytes(b"\n".join(line.encode("latin-1", "backslashreplace") for line in lines) + b"\n")
    calls = []

    def stop_at_the_end(done, total):
        calls.append(done)
        if done == total and len(calls) < 99:
            raise KeyboardInterrupt

    options = {"budget": PixelBudget.parse(12), "chunk_lines": 4}
    out = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build_index([path], out, template.tokenizer, progress=stop_at_the_end, **options)
    shard = sorted((tmp_path / ".index.partial").glob("*.npz"))[1]
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(DataError, match="is damaged and has been removed"):
        build_index([path], out, template.tokenizer, **options)
    index = build_index([path], out, template.tokenizer, **options)
    assert [index.location(i)[1] for i in range(len(index))] == list(range(1, len(lines) + 1, 2))
    assert index.rejected == {"ExampleError": len(bad)}
    listed = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in listed] == list(range(2, len(lines), 2))
    texts = {index._text(i) for i in range(len(index))}
    assert len(texts) == 1
